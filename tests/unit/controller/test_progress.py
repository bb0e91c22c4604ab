"""The lines of the log that say how far a run is."""

from __future__ import annotations

import pytest

from launcher.controller.progress import Progress
from launcher.shared.identity import Task
from launcher.shared.protocol import ChildReport, Report


def at(step: int | None, total_steps: int | None = None, epoch: str = "") -> Report:
    child = ChildReport(1, global_step=step, total_steps=total_steps, epoch=epoch)
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


def test_a_program_that_counts_epochs_shows_them() -> None:
    progress = Progress()
    told = [
        progress.line(at(None, epoch=epoch), now)
        for epoch, now in [("", 0.0), ("1 of 3", 1.0), ("1 of 3", 9.0), ("2 of 3", 9.5)]
    ]
    assert told == ["", "epoch 1 of 3", "", "epoch 2 of 3"]


def test_beside_an_epoch_the_time_left_is_unknown() -> None:
    """The step may begin again with each epoch."""
    progress = Progress()
    assert progress.line(at(0, 600, "1 of 5"), 0.0) == "epoch 1 of 5, step 0 of 600"
    assert progress.line(at(500, 600, "1 of 5"), 10.0) == (
        "epoch 1 of 5, step 500 of 600, 50.0 steps per second"
    )
    assert progress.line(at(0, 600, "2 of 5"), 20.0) == "epoch 2 of 5, step 0 of 600"


def test_a_task_without_a_child_has_no_line() -> None:
    report = Report(Task("worker", 0), "one", 1, "", "", None, None, can_start=True)
    assert Progress().line(report, 0.0) == ""
