"""What a child's output shows: its step, whether it trains, whether it hangs."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from pathlib import Path

# Like "900" or "1,050/2,000"; not "0.5", "12ms", or TensorFlow's ids of 17 digits.
NUMBER = r"(\d{1,3}(?:,\d{3}){1,4}|\d{1,15})(?![\w%]|[.,]\d)"
COUNT = rf"""\b["'\])]?[\s:=#\[(]*{NUMBER}(?:\s*(?:/|of)\s*{NUMBER})?"""
BEFORE = r"(?i)(?<![\w./-])" + "".join(
    f"(?<!{word} )"
    for word in ("max", "last", "final", "best", "per", "until", "waiting for", "global")
)
COUNTS = [
    re.compile(BEFORE + word + COUNT)
    for word in ("tfrun: step", "global[ _]?step", "(?:train(?:ing)?_)?step", "epoch")
]

# What programs print while they train, what TensorFlow prints when the chief has initialised the
# model, and when the chief needs other workers. A false match only starts these too early.
WAITS = "still waiting for response"
TRAINS = re.compile(
    r"(?i)\b(global_)?(step|epoch|iter(ation)?|batch|loss)s?\b.*[0-9]|Done running local_init_op"
    rf"|{WAITS}.*/job:worker"
)
# Repeated while nothing moves.
IDLE = re.compile(f"{WAITS}|Waiting for model|global_step/sec: 0$|Recording summary")


@dataclass
class Watch:
    """The progress of one child. `line` is called on the thread that reads its output.

    A program counts as up, that is its session trains, at the first line that matches TRAINS, when
    it creates the file `ready`, or when its checkpoint folder changes.
    """

    ready: Path
    checkpoints: Path | None
    global_step: int | None = None
    total_steps: int | None = None
    epoch: str = ""
    trains: bool = False
    _said: bool = False  # its step, to tfrun
    _before: frozenset[tuple[str, int]] = field(default=frozenset())
    _moved_at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        """Ignores files that are in the checkpoint folder before the child starts."""
        self._before = _listing(self.checkpoints)

    def line(self, text: str) -> None:
        """Takes one line of output. An empty one shows life."""
        if not IDLE.search(text):
            self._moved_at = time.monotonic()
        self.trains = self.trains or bool(TRAINS.search(text))
        said, global_step, step, epoch = (_count(pattern, text) for pattern in COUNTS)
        self._said = self._said or bool(said)
        step = said if self._said else global_step or step
        if step:
            self.global_step, self.total_steps = step[0], step[1] or self.total_steps
        if epoch:
            self.epoch = f"{epoch[0]} of {epoch[1]}" if epoch[1] else str(epoch[0])

    def up(self) -> bool:
        """Whether its session trains."""
        return self.trains or self.ready.exists() or _listing(self.checkpoints) != self._before

    def quiet(self) -> float:
        """Seconds without output other than IDLE."""
        return time.monotonic() - self._moved_at


def _count(pattern: re.Pattern[str], text: str) -> tuple[int, ...] | None:
    found = pattern.search(text)
    return tuple(int(n.replace(",", "")) for n in found.groups("0")) if found else None


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
