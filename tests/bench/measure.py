"""Runs two ways to do the same thing in turns on one machine, and compares them by ratios.

Seconds differ between machines, and on one machine from minute to minute. Two runs right after
each other meet the same conditions, so each round gives one ratio; the result is their median.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

Seconds = Mapping[str, float]  # by what was measured; one run may measure several things


@dataclass(frozen=True)
class Side:
    """One way to do it: the command as a person would type it, and a function that runs it once."""

    command: str
    run: Callable[[], Seconds]


@dataclass(frozen=True)
class Comparison:
    """The same work done by hand and by tfrun."""

    name: str
    hand: Side
    tfrun: Side
    rounds: int


@dataclass(frozen=True)
class Row:
    """One measure of a comparison, over all rounds; round i of both sides ran back to back."""

    what: str
    hand: Sequence[float]
    tfrun: Sequence[float]

    @property
    def extra(self) -> float:
        """The seconds that tfrun adds."""
        return median(b - a for a, b in zip(self.hand, self.tfrun))

    @property
    def ratios(self) -> list[float]:
        """tfrun's time as a multiple of the time by hand, in each round."""
        return [b / a for a, b in zip(self.hand, self.tfrun)]


def compare(comparison: Comparison, rounds: int) -> list[Row]:
    """Runs both sides in turns: once unmeasured, to warm the caches, then once in each round."""
    for side in (comparison.hand, comparison.tfrun):
        side.run()
    both = [(comparison.hand.run(), comparison.tfrun.run()) for _ in range(rounds)]
    return [
        Row(f"{comparison.name}: {what}", [a[what] for a, _ in both], [b[what] for _, b in both])
        for what in both[0][0]
    ]


def table(rows: Iterable[Row]) -> str:
    """The rows as text: medians, and the lowest and the highest ratio of the rounds."""
    lines = [("", "by hand", "tfrun", "extra", "ratio", "lowest..highest", "rounds")]
    for row in rows:
        low, high = min(row.ratios), max(row.ratios)
        lines.append(
            (
                row.what,
                duration(median(row.hand)),
                duration(median(row.tfrun)),
                duration(row.extra),
                f"{median(row.ratios):.2f}",
                f"{low:.2f}..{high:.2f}",
                str(len(row.hand)),
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:]))])
        for line in lines
    )


def duration(seconds: float) -> str:
    """The time in milliseconds if it is less than a second, otherwise in seconds."""
    return f"{seconds * 1000:.0f} ms" if abs(seconds) < 1 else f"{seconds:.2f} s"
