"""The launcher's log. It goes to standard error: standard output is the program's."""

from __future__ import annotations

import contextlib
import sys
import time


def say(text: str) -> None:
    """Writes one line with the time of day; further lines of the text are indented."""
    stamp = time.strftime("%H:%M:%S")
    # A closed standard error must not stop the launcher.
    with contextlib.suppress(AttributeError, OSError, ValueError):
        sys.stderr.write(f"{stamp} tfrun: " + text.rstrip().replace("\n", "\n  ") + "\n")
        sys.stderr.flush()
