"""What a child's output shows: its step, whether it trains, whether it hangs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from launcher.task.watch import WAITS, Watch


@pytest.mark.parametrize(
    ("line", "step", "total_steps"),
    [
        ("step 900", 900, None),
        ("step 900/2000 loss 0.1", 900, 2000),
        ("INFO: Step: 900 of 2000", 900, 2000),
        ("global_step=900, loss=0.25", 900, None),
        ("step #12", 12, None),
        ("STEP 7 / 9", 7, 9),
        ("took one step in 0.5 s", None, None),
        ("steps 5", None, None),
        ("step", None, None),
        ("epoch 3", None, None),
        ("step " + "9" * 15, 999_999_999_999_999, None),
    ],
)
def test_a_step_is_read_as_programs_print_it(
    tmp_path: Path, line: str, step: int | None, total_steps: int | None
) -> None:
    watch = Watch(tmp_path / "ready", None)
    watch.line(line)
    assert (watch.global_step, watch.total_steps) == (step, total_steps)


def test_the_total_is_remembered(tmp_path: Path) -> None:
    watch = Watch(tmp_path / "ready", None)
    for line in ("step 1 of 9", "loss 0.5", "step 2"):
        watch.line(line)
    assert (watch.global_step, watch.total_steps) == (2, 9)


@pytest.mark.parametrize(
    ("line", "up"),
    [
        ("step 1", True),
        ("Epoch 1/5", True),
        ("loss: 0.31", True),
        (f"I0000 {WAITS}: /job:worker/replica:0/task:1", True),
        ("loading 500 images", False),
        ("model with 3 layers", False),
        ("epoch", False),
    ],
)
def test_a_program_is_up_once_its_output_shows_training(
    tmp_path: Path, line: str, up: bool
) -> None:
    watch = Watch(tmp_path / "ready", None)
    assert not watch.up()
    watch.line(line)
    assert watch.up() == up


def test_a_program_that_makes_the_ready_file_is_up(tmp_path: Path) -> None:
    watch = Watch(tmp_path / "ready", None)
    (tmp_path / "ready").touch()
    assert watch.up()


@pytest.mark.parametrize("change", ["new", "written again", "gone", "first"])
def test_a_new_checkpoint_shows_that_a_program_is_up(tmp_path: Path, change: str) -> None:
    folder = tmp_path / "checkpoints"
    if change != "first":
        folder.mkdir()
        (folder / "model-1").write_text("1")
    watch = Watch(tmp_path / "ready", folder)
    assert not watch.up(), "the old checkpoint is not its own"
    if change == "new":
        (folder / "model-2").touch()
    elif change == "gone":
        (folder / "model-1").unlink()
    elif change == "first":
        folder.mkdir()
        (folder / "model-1").touch()
    else:
        time.sleep(0.02)
        (folder / "model-1").write_text("2")
    assert watch.up()


def test_files_beside_the_checkpoints_do_not_show_that_a_program_is_up(tmp_path: Path) -> None:
    """A chief writes summaries before it restores its model, and an evaluator writes its own."""
    watch = Watch(tmp_path / "ready", tmp_path / "checkpoints")
    (tmp_path / "checkpoints" / "eval").mkdir(parents=True)
    (tmp_path / "checkpoints" / "events.out.tfevents.1790000000.worker-0").touch()
    assert not watch.up()


def test_a_program_is_quiet_without_lines_or_without_steps_once_it_printed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    watch = Watch(tmp_path / "ready", None)
    quiet = []
    for line in ("", "hello", "", "step 1", "", "still here", "step 1", "step 2", ""):
        now += 1
        if line:
            watch.line(line)
        quiet.append(watch.quiet())
    assert quiet == [0, 0, 1, 0, 1, 2, 3, 0, 1]
