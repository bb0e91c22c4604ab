"""The breast-cancer example, slow for as long as there is a file `slow` above its checkpoints.

So that whatever a test does in the middle of a training does happen in the middle of it, on a fast
machine too, and that the rest of the training takes no longer than it must.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path
from typing import Any

train: Any = importlib.import_module("train")  # beside this file, where a test copies it
SECONDS = 0.05  # a step, while it is slow


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
