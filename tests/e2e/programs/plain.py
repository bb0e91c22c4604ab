"""paced.py as most TensorFlow 1 programs are: its workers do not wait for the chief.

MonitoredTrainingSession waits instead: a worker that starts before the chief has initialised the
variables tries again only after 30 s.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

paced: Any = importlib.import_module("paced")  # beside this file, where a test copies it
train: Any = paced.train
import_tensorflow = train.import_tensorflow


class Impatient:
    """Replaces the SessionManager by which train.py waits for the chief. It does not wait."""

    def __init__(self, **_: Any) -> None:
        pass

    def wait_for_session(self, *_: Any) -> Impatient:
        return self

    def close(self) -> None:
        pass


def import_impatient() -> None:
    """Replaces train.py's SessionManager only: MonitoredTrainingSession keeps its own."""
    import_tensorflow()
    train.tf.train.SessionManager = Impatient


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    train.import_tensorflow = import_impatient
    sys.exit(paced.main(sys.argv[1:]))
