"""What a child's output shows: its step, whether it trains, whether it hangs."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from pathlib import Path

# "step 900/2000", "global_step=900", "Step: 900": as programs commonly print it.
STEP = re.compile(r"step\b[\s:=#]*([0-9]{1,15})(?:\s*(?:/|of)\s*([0-9]{1,15}))?", re.IGNORECASE)

# What programs print while they train. A false match only starts the other tasks too early.
TRAINS = re.compile(r"\b(global_)?(step|epoch|iteration|iter|batch|loss)s?\b.*[0-9]", re.IGNORECASE)
WAITS = "CreateSession still waiting for response from worker"


@dataclass
class Watch:
    """The progress of one child. `line` is called on the thread that reads its output.

    A program counts as up, that is its session trains, at the first line about steps, epochs or a
    loss, when it creates the file `ready`, or when its checkpoint folder changes. A session without
    device filters needs all other tasks to come up, so TensorFlow's line that it waits for them
    counts too.
    """

    ready: Path
    checkpoints: Path | None
    global_step: int | None = None
    total_steps: int | None = None
    lines: int = 0
    trains: bool = False
    _before: frozenset[tuple[str, int]] = field(default=frozenset())
    _moved: object = None
    _moved_at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        """Ignores files that are in the checkpoint folder before the child starts."""
        self._before = _listing(self.checkpoints)

    def line(self, text: str) -> None:
        """Takes one line of output."""
        self.lines += 1
        self.trains = self.trains or WAITS in text or bool(TRAINS.search(text))
        found = STEP.search(text)
        if found:
            self.global_step = int(found.group(1))
            self.total_steps = int(found.group(2)) if found.group(2) else self.total_steps

    def up(self) -> bool:
        """Whether its session trains."""
        return self.trains or self.ready.exists() or _listing(self.checkpoints) != self._before

    def quiet(self) -> float:
        """Seconds without progress: without a new step, or without output if it prints no steps."""
        now = time.monotonic()
        mark = ("step", self.global_step) if self.global_step is not None else ("lines", self.lines)
        if mark != self._moved:
            self._moved, self._moved_at = mark, now
        return now - self._moved_at


def _listing(folder: Path | None) -> frozenset[tuple[str, int]]:
    if folder is None:
        return frozenset()
    try:
        # Summaries are written before the model is restored; folders belong to others, such as
        # the evaluator.
        return frozenset(
            (path.name, path.stat().st_mtime_ns)
            for path in folder.iterdir()
            if path.is_file() and ".tfevents." not in path.name
        )
    except OSError:
        return frozenset()
