"""The last line of `make test`: how many tests ran, from the reports of its parts.

python -m tests.counts unit.xml chart.xml e2e.xml
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

OUTCOMES = ("failed", "passed", "skipped")


def count(report: Path) -> Counter[str]:
    """The outcomes in a report that pytest wrote with --junitxml."""
    found: Counter[str] = Counter()
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):  # noqa: S314 - pytest wrote it
        said = {name: int(number) for name, number in suite.items() if number.isdecimal()}
        failed, skipped = said["failures"] + said["errors"], said["skipped"]
        passed = said["tests"] - failed - skipped
        found.update(failed=failed, passed=passed, skipped=skipped)
    return found


def summary(counts: dict[str, Counter[str]]) -> str:
    """The sum of all parts, as pytest prints it, and the number of tests of each part."""
    total = sum(counts.values(), Counter[str]())
    outcomes = ", ".join(f"{total[name]} {name}" for name in OUTCOMES if total[name])
    parts = ", ".join(f"{name} {sum(each.values())}" for name, each in counts.items())
    return f"==== {outcomes or 'no tests ran'} ({parts}) ===="


def main(arguments: Sequence[str]) -> None:
    """Print the line."""
    print(summary({Path(name).stem: count(Path(name)) for name in arguments}))


if __name__ == "__main__":
    main(sys.argv[1:])
