"""The launcher's log. It goes to standard error: standard output is the program's."""

from __future__ import annotations

import contextlib
import os.path
import sys
import threading
import time

stdout = threading.Lock()  # held while the program's output is written
mid_line = False  # whether that ends within a line


def say(text: str) -> None:
    """Writes one line with the time of day; further lines of the text are indented."""
    global mid_line
    stamp = time.strftime("%H:%M:%S")
    line = f"{stamp} tfrun: " + text.rstrip().replace("\n", "\n  ") + "\n"
    # A closed standard error must not stop the launcher.
    with contextlib.suppress(AttributeError, OSError, ValueError):
        one_stream = sys.stdout and os.path.sameopenfile(1, 2)
        with stdout if one_stream else contextlib.nullcontext():
            if one_stream:
                line, mid_line = "\n" * mid_line + line, False
            sys.stderr.write(line)
            sys.stderr.flush()
