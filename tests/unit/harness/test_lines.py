"""The reader of process output: what it reads, and when it raises an error."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.lines import Lines
from tests.unit.processes import PATIENCE


def start(program: str, stdin: int = subprocess.DEVNULL) -> Lines:
    command = [sys.executable, "-c", program]
    return Lines(subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE), PATIENCE)


def test_output_of_any_bytes_is_read_line_by_line() -> None:
    program = r"import sys; sys.stdout.buffer.write(b'one\n\xff two\nthree'); sys.exit(3)"
    with start(program) as said:
        assert said.wait_for("t").string == "\N{REPLACEMENT CHARACTER} two"
        assert said.wait_for("t", after=2).string == "three"
        assert said.wait() == 3
        assert said.lines == ["one", "\N{REPLACEMENT CHARACTER} two", "three"]
        with pytest.raises(AssertionError, match=r"(?s)no line 'one' in:\none\n.*three"):
            said.wait_for("one", after=1)


def test_a_line_that_does_not_come_in_time_is_an_error_and_the_process_is_killed() -> None:
    with start("import time; time.sleep(600)") as said:
        said.timeout = 0.1
        with pytest.raises(AssertionError, match="no line 'never'"):
            said.wait_for("never")
        said.timeout = PATIENCE
        assert said.process.poll() is None
    assert said.process.poll() == -signal.SIGKILL


def test_an_output_that_another_process_holds_open_is_an_error() -> None:
    program = "import subprocess; subprocess.Popen(['cat'])"
    with start(program, stdin=subprocess.PIPE) as said:
        said.process.wait(PATIENCE)
        said.timeout = 0.1
        with pytest.raises(AssertionError, match="another process holds its output open"):
            said.wait()
        assert said.process.stdin
        said.process.stdin.close()  # so that `cat` ends
        said.timeout = PATIENCE
