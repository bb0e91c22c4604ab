"""The launcher's log. It goes to standard error: standard output is the program's."""

from __future__ import annotations

import contextlib
import os.path
import sys
import time

mid_line = False  # whether the program's output ends within a line


def say(text: str) -> None:
    """Writes one line with the time of day; further lines of the text are indented."""
    global mid_line
    stamp = time.strftime("%H:%M:%S")
    # A closed standard error must not stop the launcher.
    with contextlib.suppress(AttributeError, OSError, ValueError):
        if mid_line and sys.stdout and os.path.sameopenfile(1, 2):
            stamp = "\n" + stamp
        mid_line = False
        sys.stderr.write(f"{stamp} tfrun: " + text.rstrip().replace("\n", "\n  ") + "\n")
        sys.stderr.flush()
