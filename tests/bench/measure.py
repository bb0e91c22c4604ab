"""Two ways to do the same thing, run in turns on one machine, and told apart by ratios.

Seconds differ from machine to machine and from minute to minute. Two runs right after each other
share the machine's mood, so each round gives one ratio, and the rounds' median is what counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

Seconds = Mapping[str, float]  # what was measured -> how long it took; one run may tell several


@dataclass(frozen=True)
class Side:
    """One way to do it: the command as a person would type it, and what runs it once."""

    command: str
    run: Callable[[], Seconds]


@dataclass(frozen=True)
class Comparison:
    """By hand and by tfrun."""

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
        """tfrun's time as a multiple, in each round."""
        return [b / a for a, b in zip(self.hand, self.tfrun)]


def compare(comparison: Comparison, rounds: int) -> list[Row]:
    """Runs both sides in turns: once unmeasured, so that caches are warm, then each round."""
    for side in (comparison.hand, comparison.tfrun):
        side.run()
    both = [(comparison.hand.run(), comparison.tfrun.run()) for _ in range(rounds)]
    return [
        Row(f"{comparison.name}: {what}", [a[what] for a, _ in both], [b[what] for _, b in both])
        for what in both[0][0]
    ]


def table(rows: Iterable[Row]) -> str:
    """The rows for a person: medians, and how far the rounds were apart."""
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
    """Milliseconds where seconds would not tell much."""
    return f"{seconds * 1000:.0f} ms" if abs(seconds) < 1 else f"{seconds:.2f} s"
