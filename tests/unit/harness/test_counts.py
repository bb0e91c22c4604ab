"""The last line of `make test`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests import counts

REPORT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites name="pytest tests"><testsuite name="pytest" errors="1" failures="2" skipped="3"
tests="10" time="1.5" timestamp="2026-01-01T00:00:00+00:00" hostname="h">
<testcase classname="a" name="b" time="0.1"/></testsuite></testsuites>
"""


def test_the_outcomes_of_a_junit_report_are_counted(tmp_path: Path) -> None:
    report = tmp_path / "unit.xml"
    report.write_text(REPORT)
    assert counts.count(report) == {"failed": 3, "passed": 4, "skipped": 3}


def test_the_last_line_tells_the_sum_and_the_parts() -> None:
    parts = {"unit": Counter(passed=7, skipped=0, failed=0), "e2e": Counter(passed=2, skipped=1)}
    assert counts.summary(parts) == "==== 9 passed, 1 skipped (unit 7, e2e 3) ===="
    assert counts.summary({"unit": Counter()}) == "==== no tests ran (unit 0) ===="
