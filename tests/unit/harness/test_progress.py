"""What is printed while the cluster is created?"""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest

from tests.cluster import progress
from tests.cluster.commands import COMMANDS, ClusterError, run
from tests.cluster.progress import Account, activity, announce, step
from tests.unit.processes import wait_until


@pytest.fixture(autouse=True)
def account(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test counts its own steps."""
    monkeypatch.setattr(progress, "ACCOUNT", Account())


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
    tmp_path: Path, prints: str, packages: int, doing: str
) -> None:
    command = f"printf '{prints}' >&2; touch printed; while ! [ -e go ]; do sleep 0.01; done"
    runner = threading.Thread(target=lambda: run(["sh", "-c", command], cwd=tmp_path))
    runner.start()
    try:
        wait_until((tmp_path / "printed").exists, "the command has printed")
        assert runner.ident
        seen = activity(runner.ident, packages)
    finally:
        (tmp_path / "go").touch()
        runner.join(30)
    assert seen == doing
    assert activity(runner.ident, packages) == ""
    assert runner.ident not in COMMANDS.running
