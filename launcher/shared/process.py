"""Starts processes, each in its own session, without input and with one output stream."""

from __future__ import annotations

import collections
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
KEPT_LINES = 20
LINE_BYTES = 64 * 1024
BREAK = re.compile(rb"([\r\n\b]+)")  # Keras uses backspaces
TRACEBACK = "Traceback (most recent call last):"
NOISE, NOISE_ENDS = "Object was never used", "=" * 34  # of TensorFlow


def start(
    argv: Sequence[str | Path], env: Mapping[str, str], cwd: Path | None = None
) -> subprocess.Popen[bytes]:
    """Starts a process; one pipe carries its output and its errors. Raises OSError."""
    return subprocess.Popen(
        argv,
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C reaches only the launcher, which stops its processes
    )


def adopt_orphans() -> None:
    """Makes orphaned descendants children of this process, as they are of PID 1."""
    if os.getpid() == 1 or not sys.platform.startswith("linux"):
        return
    import ctypes  # imported here because pods do not need it

    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Output:
    """Splits output into lines, and keeps the last."""

    def __init__(self) -> None:
        self.rest = b""  # a line without its end
        self._lines: collections.deque[str] = collections.deque(maxlen=KEPT_LINES)
        self._error: list[str] = []
        self._drawn = self._noise = self._failing = False

    def take(self, data: bytes) -> list[str]:
        """The lines that end in `data`, then an empty one for a line without its end."""
        *ended, rest = BREAK.split(self.rest + data)
        self.rest = rest[:LINE_BYTES]
        lines = []
        for line, end in zip(ended[::2], ended[1::2]):
            text = re.sub(r"\x1b\[[\d;]*\w", "", line.decode(errors="replace")).rstrip()
            if text:
                lines.append(text)
                self._keep(text[:500])
            self._drawn = b"\n" not in end  # then it is replaced
        return [*lines, ""] if rest else lines

    def last_lines(self) -> tuple[str, ...]:
        """The last lines. An earlier traceback follows them."""
        lines, error = tuple(self._lines.copy()), self._error
        if not error or error[-1] in lines:
            return lines
        return (*lines[len(error) + 1 :], "the last traceback, from before:", *error)

    def _keep(self, text: str) -> None:
        if TRACEBACK in text:
            self._error, self._failing, self._noise = [], True, False
        elif self._failing:
            self._error = [*self._error[-4:], text]
            self._failing = text[0] == " "
        if NOISE in text or text.endswith(NOISE_ENDS):
            self._noise = NOISE in text
        elif not self._noise:
            if self._drawn and self._lines:
                self._lines.pop()
            self._lines.append(text)
