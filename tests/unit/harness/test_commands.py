"""Do commands end when one of them fails, and when a person interrupts?"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.cluster.commands import ClusterError, beside, run
from tests.unit.processes import lives, wait_until

REPOSITORY = Path(__file__).parents[3]
# A command with a child, which runs until it is interrupted, and beside it another one, or a task
# that waits for a lock.
PROGRAM = """
import sys
from functools import partial
from pathlib import Path
from tests.cluster.binaries import locked
from tests.cluster.commands import beside, run
from tests.cluster.progress import guarded

def wait_for_the_lock():
    with locked(Path(sys.argv[1])):
        raise AssertionError("the lock was free")

long = partial(run, ["sh", "-c", "sleep 600 & wait"])
sys.exit(guarded(lambda: beside(long, wait_for_the_lock if sys.argv[1] else long)))
"""


def test_a_failure_quotes_both_outputs() -> None:
    with pytest.raises(ClusterError, match=r"(?s)^sh .* ended with 3:.*the cause.*it failed"):
        run(["sh", "-c", "echo the cause; echo it failed >&2; exit 3"])


def test_a_failure_ends_what_runs_beside_it(tmp_path: Path) -> None:
    def fail() -> None:
        wait_until((tmp_path / "begun").exists, "the command has begun")
        raise ClusterError("no space")

    long = ["sh", "-c", "sleep 600 & echo $! > pid; touch begun; wait"]
    with pytest.raises(ClusterError, match="no space"):
        beside(partial(run, long, cwd=tmp_path), fail)
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not lives(pid), "the command's child has ended")
    assert run(["echo", "afterwards"]) == "afterwards\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("waits", [False, True], ids=["commands", "lock"])
def test_an_interruption_ends_all_commands(
    tmp_path: Path, number: signal.Signals, waits: bool
) -> None:
    lock = tmp_path / "lock"
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(lock) if waits else ""],
            # A shell without job control starts pytest in the background with SIGINT ignored.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
            cwd=REPOSITORY,
            stderr=subprocess.PIPE,
            text=True,
        )
        parent = psutil.Process(process.pid)
        count = 2 if waits else 4
        wait_until(lambda: len(parent.children(recursive=True)) == count, "all commands run")
        if waits:
            assert process.stderr
            assert "waiting for another process" in process.stderr.readline()
        started = [child.pid for child in parent.children(recursive=True)]
        os.kill(process.pid, number)
        said = process.communicate(timeout=30)[1]
        assert process.returncode == 130
    assert said.startswith("cluster: interrupted: ")
    assert "Traceback" not in said
    wait_until(lambda: not any(map(lives, started)), "all commands have ended")
