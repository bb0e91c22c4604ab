"""The lines of the log that say how far a run is."""

from __future__ import annotations

import pytest

from launcher.controller.progress import Progress
from launcher.shared.identity import Task
from launcher.shared.protocol import ChildReport, Report


def at(step: int | None, total_steps: int | None = None) -> Report:
    child = ChildReport(1, global_step=step, total_steps=total_steps)
    return Report(Task("worker", 0), "one", 1, "", "", None, child, can_start=True)


def test_a_line_comes_at_once_and_then_at_most_every_five_seconds() -> None:
    progress = Progress()
    told = [
        progress.line(at(step), now)
        for step, now in [(None, 0.0), (1, 1.0), (1, 9.0), (11, 5.9), (21, 6.0), (31, 8.0)]
    ]
    assert told == ["", "step 1", "", "", "step 21, 4.0 steps per second", ""]


@pytest.mark.parametrize(
    ("total_steps", "left"),
    [
        (None, ""),
        (100, ""),
        (190, ", 9 s left"),
        (1000, ", 1 min 30 s left"),
        (100_000, ", 2 h 46 min left"),
    ],
)
def test_the_time_left_is_shown_if_the_total_is_known(total_steps: int | None, left: str) -> None:
    progress = Progress()
    progress.line(at(0, total_steps), 0.0)
    of = f" of {total_steps}" if total_steps else ""
    assert progress.line(at(100, total_steps), 10.0) == (
        f"step 100{of}, 10.0 steps per second{left}"
    )


def test_a_program_that_went_back_to_its_checkpoint_has_no_rate() -> None:
    progress = Progress()
    progress.line(at(100), 0.0)
    assert progress.line(at(50), 10.0) == "step 50"


def test_a_task_without_a_child_has_no_line() -> None:
    report = Report(Task("worker", 0), "one", 1, "", "", None, None, can_start=True)
    assert Progress().line(report, 0.0) == ""
