"""Reads the error with which a program ended from its last lines. Pure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

FRAME = '  File "'  # in a traceback

# Errors that TensorFlow's runtime raises by mistake, whatever the program does: their text and
# their name. Add only what is proven.
MISTAKES = {
    # A server rejects a request whose id it has seen (recent_request_ids.h). TensorFlow 2.21 does
    # that to about one `sess.run` in 30,000 to 200,000, and programs do not choose the ids. Also
    # seen in https://github.com/pytorch/xla/issues/4084.
    r"The same \w*RunGraph .*request was received twice": "TensorFlow's RunGraph mistake",
}


def error_of(lines: Sequence[str]) -> tuple[str, ...]:
    """The exception below the last traceback, and all lines after it; empty without a traceback."""
    frames = [index for index, line in enumerate(lines) if line.startswith(FRAME)]
    after = lines[frames[-1] + 1 :] if frames else ()
    return tuple(itertools.dropwhile(lambda line: line.startswith(" "), after))


def mistake_of(exit_code: int, lines: Sequence[str]) -> str:
    """The name of the TensorFlow mistake that ended a program; empty for any other end."""
    error = "\n".join(error_of(lines)) if exit_code == 1 else ""  # an exception that nobody catches
    return next((name for text, name in MISTAKES.items() if re.search(text, error)), "")
