"""The breast-cancer example, slow while a file `slow` exists beside its checkpoint folder.

A test acts in the middle of the training, so the training must be slow on a fast machine too. When
the test has removed the file, the rest is fast.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path
from typing import Any

train: Any = importlib.import_module("train")  # beside this file, where a test copies it
SECONDS = 0.05  # added to each step while it is slow


def main(argv: list[str]) -> int:
    """Trains as train.py does."""
    flags, _ = train.parse_flags(argv, os.environ.get("TF_CONFIG", ""))
    brake = Path(flags.checkpoint_dir).parent / "slow"
    make_batches = train.make_batches

    def slow_batches(*arguments: Any) -> Any:
        slow = True
        for batch in make_batches(*arguments):
            slow = slow and brake.exists()
            if slow:
                time.sleep(SECONDS)
            yield batch

    train.make_batches = slow_batches
    return int(train.main(argv))


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.exit(main(sys.argv[1:]))
