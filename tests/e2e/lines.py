"""A process's output, read as it comes, so that a test can wait for what is said."""

from __future__ import annotations

import re
import subprocess
import threading
import time

TIMEOUT = 300  # seconds for any one thing to happen; a busy machine takes its time


class Lines:
    """The lines that a process prints. Leaving the context kills the process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._ended = False
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.end()
        assert self.process.stdout
        self.process.stdout.close()

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, pattern: str, after: int = 0) -> re.Match[str]:
        """The first line from index `after` on in which the pattern is found."""
        read = after
        found: re.Match[str] | None = None
        deadline = time.monotonic() + TIMEOUT
        with self._changed:
            while True:
                while read < len(self.lines):
                    found = re.search(pattern, self.lines[read])
                    if found:
                        return found
                    read += 1
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    raise AssertionError(f"no line {pattern!r} in:\n{self}")
                self._changed.wait(left)

    def end(self) -> int:
        """Waits for the process's end and for its last line, and returns its exit code."""
        code = self.process.wait(TIMEOUT)
        self._reader.join(TIMEOUT)
        return code

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()
