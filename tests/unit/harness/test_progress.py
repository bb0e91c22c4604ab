"""What is printed while the cluster is created, and what an interruption leaves."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.cluster import progress
from tests.cluster.progress import Account, ClusterError, activity, announce, beside, run, step

REPOSITORY = Path(__file__).parents[3]
# Two parallel commands, each with a child. They run until they are interrupted.
TWO = """
from functools import partial
from tests.cluster.progress import beside, run
beside(*[partial(run, ["sh", "-c", "sleep 600 & wait"])] * 2)
"""


def wait_until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def account(monkeypatch: pytest.MonkeyPatch) -> Account:
    """Each test counts its own steps."""
    fresh = Account()
    monkeypatch.setattr(progress, "ACCOUNT", fresh)
    return fresh


def test_each_step_says_which_of_how_many_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    announce(2)
    with step("first"):
        pass
    with step("second"):
        pass
    with step("a step that was not announced"):
        pass
    said = re.sub(r"\d+:\d\d|\d+\.\d s", "T", capsys.readouterr().err)
    assert said.splitlines() == [
        "cluster: step 1 of 2, T: first ...",
        "cluster: step 1 of 2, T: first: done in T",
        "cluster: step 2 of 2, T: second ...",
        "cluster: step 2 of 2, T: second: done in T",
        "cluster: step 3 of 3, T: a step that was not announced ...",
        "cluster: step 3 of 3, T: a step that was not announced: done in T",
    ]


def test_a_step_that_fails_is_not_called_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ClusterError), step("first"):
        raise ClusterError("no")
    assert "done" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("prints", "packages", "doing"),
    [
        ("Retrieving libssl3", 0, "Retrieving libssl3"),
        ("Unpacking gcc\\nSetting up gcc\\n\\n", 0, "Setting up gcc"),
        ("10 of 20\\r20 of 20\\r", 0, "20 of 20"),
        ("fmt\\nnet/http\\n", 3000, "2 of at most 3,000 packages"),
        ("", 0, ""),
    ],
)
def test_the_sign_of_life_is_what_the_command_prints(
    tmp_path: Path, account: Account, prints: str, packages: int, doing: str
) -> None:
    command = f"printf '{prints}' >&2; touch printed; while ! [ -e go ]; do sleep 0.01; done"
    runner = threading.Thread(target=lambda: run(["sh", "-c", command], cwd=tmp_path))
    runner.start()
    wait_until((tmp_path / "printed").exists)
    assert runner.ident
    seen = activity(runner.ident, packages)
    (tmp_path / "go").touch()
    runner.join(30)
    assert seen == doing
    assert activity(runner.ident, packages) == ""
    assert account.running == {}


def test_a_failure_ends_what_runs_beside_it(tmp_path: Path) -> None:
    def fail() -> None:
        wait_until((tmp_path / "begun").exists)
        raise ClusterError("no space")

    long = ["sh", "-c", "sleep 600 & echo $! > pid; touch begun; wait"]
    with pytest.raises(ClusterError, match="no space"):
        beside(partial(run, long, cwd=tmp_path), fail)
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not psutil.pid_exists(pid))


def test_an_interruption_ends_all_commands() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", TWO], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    parent = psutil.Process(process.pid)
    wait_until(lambda: len(parent.children(recursive=True)) == 4)
    started = parent.children(recursive=True)
    os.kill(process.pid, signal.SIGINT)
    assert b"KeyboardInterrupt" in process.communicate(timeout=30)[1]
    wait_until(lambda: not any(child.is_running() for child in started))
