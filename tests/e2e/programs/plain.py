"""paced.py as TensorFlow 1 programs commonly are: no worker waits for the chief by itself.

What then waits is MonitoredTrainingSession: a worker that looks before the chief has initialised
the variables looks again after 30 s.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

paced: Any = importlib.import_module("paced")  # beside this file, where a test copies it
train: Any = paced.train
import_tensorflow = train.import_tensorflow


class Impatient:
    """In place of the SessionManager with which train.py waits: one that does not."""

    def __init__(self, **_: Any) -> None:
        pass

    def wait_for_session(self, *_: Any) -> Impatient:
        return self

    def close(self) -> None:
        pass


def import_impatient() -> None:
    """MonitoredTrainingSession has a SessionManager of its own, and keeps it."""
    import_tensorflow()
    train.tf.train.SessionManager = Impatient


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    train.import_tensorflow = import_impatient
    sys.exit(paced.main(sys.argv[1:]))
