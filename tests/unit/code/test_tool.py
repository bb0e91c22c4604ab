"""Running tools like git and pip to their end."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from launcher.code import tool
from launcher.shared.exits import ExitCode, LauncherError
from launcher.shared.process import KEPT_LINES
from tests.unit.processes import lives, wait_until

LONG = 60.0


def run(
    script: str, silence: float = LONG, cancelled: threading.Event | None = None
) -> tool.Finished:
    argv = ["sh", "-c", script]
    return tool.run(argv, os.environ, Path("/"), silence, cancelled or threading.Event())


def test_the_exit_code_and_last_lines_of_a_tool_are_returned() -> None:
    done = run(r"printf 'a\r\rb\n\n'; echo c >&2; printf d; exit 3")
    assert done == tool.Finished(3, ("b", "c", "d"))
    assert run("kill -9 $$").exit_code == 137
    assert len(run("seq 100").last_lines) == KEPT_LINES


def test_a_tool_that_the_image_lacks_is_named() -> None:
    with pytest.raises(LauncherError, match="the image must have no-such-tool") as error:
        tool.run(["no-such-tool"], {}, Path("/"), LONG, threading.Event())
    assert error.value.exit_code is ExitCode.CONFIGURATION


def test_a_silent_tool_is_ended_with_all_its_processes(tmp_path: Path) -> None:
    begin = time.monotonic()
    with pytest.raises(LauncherError, match="nothing for 2 s") as error:
        run(f"sleep 1000 & echo $! > {tmp_path}/pid; sleep 1000", silence=2)
    assert error.value.exit_code is ExitCode.IO
    assert time.monotonic() - begin < LONG / 2
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not lives(pid), "its own child is gone")


def test_a_tool_that_prints_is_not_ended() -> None:
    assert run("for i in $(seq 30); do echo $i; sleep 0.1; done", silence=2).exit_code == 0


def test_a_cancelled_tool_is_ended() -> None:
    cancelled = threading.Event()
    threading.Timer(0.2, cancelled.set).start()
    with pytest.raises(LauncherError, match="sh: cancelled"):
        run("sleep 1000", cancelled=cancelled)
