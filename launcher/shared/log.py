"""The launcher's own lines, on standard error, so that a program's output stays its own."""

from __future__ import annotations

import contextlib
import sys
import time


def say(text: str) -> None:
    """Writes one line with the time of day; further lines of the text are indented."""
    stamp = time.strftime("%H:%M:%S")
    # Nobody who listens is no reason to stop working.
    with contextlib.suppress(AttributeError, OSError, ValueError):
        sys.stderr.write(f"{stamp} tfrun: " + text.rstrip().replace("\n", "\n  ") + "\n")
        sys.stderr.flush()
