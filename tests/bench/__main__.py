"""Compares the time that tfrun takes with the same work done by hand. Asserts nothing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping

from tests.bench import local, pull, start
from tests.bench.measure import Comparison, compare, table

COMPARISONS: Mapping[str, Callable[[], Comparison]] = {
    "start": start.comparison,
    "local": local.comparison,
    "pull": pull.comparison,
}


def main() -> None:
    """Prints one table of the chosen comparisons, and the commands that repeat each of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    known = ", ".join(COMPARISONS)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {known}; default: all")
    parser.add_argument("--rounds", type=int, help="how many times both sides run")
    chosen = parser.parse_args()
    for name in set(chosen.names) - set(COMPARISONS):
        parser.error(f"there is no {name}; there are {known}")
    rows, notes = [], []
    for name in chosen.names or COMPARISONS:
        comparison = COMPARISONS[name]()
        rounds = max(1, chosen.rounds or comparison.rounds)
        print(f"bench: {name}, {rounds} rounds ...", file=sys.stderr, flush=True)
        rows += compare(comparison, rounds)
        notes += [
            f"\n{comparison.name}",
            f"  by hand  {comparison.hand.command}",
            f"  tfrun    {comparison.tfrun.command}",
            f"  again    {sys.executable} -m tests.bench {name} --rounds {rounds}",
        ]
    print(table(rows))
    print("\n".join(notes))


if __name__ == "__main__":
    main()
