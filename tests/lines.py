"""Reads the output of a process while it runs, so that a test can wait for a line."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from typing import TypeVar

TIMEOUT = 300.0  # seconds for each wait; a busy machine is slow
Self = TypeVar("Self", bound="Lines")


class Lines:
    """The lines that a process prints. Leaving the context kills the process.

    `timeout` is in seconds, for each wait.
    """

    def __init__(self, process: subprocess.Popen[bytes], timeout: float = TIMEOUT) -> None:
        self.process = process
        self.lines: list[str] = []
        self.timeout = timeout
        self._ended = False
        self._changed = threading.Condition()
        # A daemon thread, because a process that never closes the output must not block the tests.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, pattern: str, after: int = 0) -> re.Match[str]:
        """Waits for a line that contains the pattern; skips the first `after` lines."""
        deadline = time.monotonic() + self.timeout
        with self._changed:
            while True:
                for line in self.lines[after:]:
                    found = re.search(pattern, line)
                    if found:
                        return found
                after = len(self.lines)
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    raise AssertionError(f"no line {pattern!r} in:\n{self}")
                self._changed.wait(left)

    def wait(self) -> int:
        """Waits for the process's end and for its last line, and returns its exit code."""
        code = self.process.wait(self.timeout)
        self._reader.join(self.timeout)
        assert not self._reader.is_alive(), f"another process holds its output open:\n{self}"
        return code

    def kill(self) -> None:
        """Kills the process if it still runs, and waits for its end."""
        self.process.kill()
        self.wait()

    def _read(self) -> None:
        assert self.process.stdout
        with self.process.stdout as output:
            for line in output:
                with self._changed:
                    self.lines.append(line.decode(errors="replace").rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()
