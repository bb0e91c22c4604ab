"""Reads the output of a process as lines, in time also where it draws a progress bar."""

from __future__ import annotations

import os
import select
import time
from typing import IO, Callable

from launcher.shared.process import BREAK, LINE_BYTES

PART_SECONDS = 1.0  # how long a line without its end may wait


def each_line(stream: IO[bytes], show: Callable[[bytes], None]) -> None:
    """Calls `show` with each line, without its end, until the stream ends.

    A line that has no end yet is shown every PART_SECONDS if it changes: of a progress bar, what
    stands there then.
    """
    rest = shown = b""
    due: float | None = None  # when `rest` is shown
    while True:
        timeout = None if due is None else max(0.0, due - time.monotonic())
        if not select.select([stream], [], [], timeout)[0]:
            shown, due = _drawn(rest), None
            show(shown)
            continue
        data = os.read(stream.fileno(), LINE_BYTES)
        if not data and not rest:
            return
        *lines, rest = (rest + (data or b"\n")).split(b"\n")
        rest = b"".join(BREAK.split(rest)[-3:])  # what was drawn last, and before
        if len(rest) > LINE_BYTES:
            lines, rest = [*lines, rest], b""
        for line in map(_drawn, lines):
            if line != shown or not line:
                show(line)
            shown, due = b"", None
        if _drawn(rest) in (b"", shown):
            due = None
        elif due is None:
            due = time.monotonic() + PART_SECONDS


def _drawn(line: bytes) -> bytes:
    """What stands in a line of a terminal: a bar replaces what it drew before."""
    return next((part for part in BREAK.split(line)[::-2] if part.strip()), b"")
