"""`make try`: when it kills a task, and what it prints."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests import try_local
from tests.try_local import Kill

EVALUATION = "worker-0   | evaluation: accuracy 0.9649 auc 0.9970 rows 114 step 10"


def started(task: str, generation: int, pid: int) -> str:
    return f"{task:<10} | 10:00:00 tfrun: generation {generation}: started python x (process {pid})"


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Records kills instead of killing."""
    made: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: made.append((pid, number)))
    return made


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "model.ckpt-0.index").touch()
    return folder


def test_a_worker_is_killed_once_it_trains_and_a_checkpoint_exists(
    checkpoints: Path, kills: list[tuple[int, int]]
) -> None:
    kill = Kill("worker-1", checkpoints)
    (checkpoints / "model.ckpt-7.index").touch()
    for line in (
        started("worker-0", 1, 10),
        "worker-0   | step 500/7110 loss 0.1",
        started("worker-1", 1, 11),
        "worker-1   | start: step 600/7110",
        "controller | 10:00:01 tfrun: step 600 of 7110",
    ):
        kill.see(line)
    assert kills == []
    kill.see("worker-1   | step 700/7110 loss 0.1")
    assert kills == [(11, signal.SIGKILL)]
    kill.see("worker-1   | step 900/7110 loss 0.1")
    assert kills == [(11, signal.SIGKILL)]
    assert kill.step == "step 700/7110"


def test_the_initial_checkpoint_is_not_enough(
    checkpoints: Path, kills: list[tuple[int, int]]
) -> None:
    kill = Kill("worker-0", checkpoints)
    kill.see(started("worker-0", 1, 10))
    kill.see("worker-0   | step 500/7110 loss 0.1")
    assert kills == []
    (checkpoints / "model.ckpt-7.index").touch()
    kill.see("ps-0       | any line")
    assert kills == [(10, signal.SIGKILL)]


def test_a_ps_is_killed_once_the_last_worker_trains(
    checkpoints: Path, kills: list[tuple[int, int]]
) -> None:
    (checkpoints / "model.ckpt-7.index").touch()
    kill = Kill("ps-0", checkpoints)
    kill.see(started("ps-0", 1, 9))
    kill.see("worker-0   | step 500/7110 loss 0.1")
    assert kills == []
    kill.see("worker-1   | step 600/7110 loss 0.1")
    assert kills == [(9, signal.SIGKILL)]


def test_a_program_that_has_just_ended_is_not_killed(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: int) -> None:
        raise ProcessLookupError

    monkeypatch.setattr(os, "kill", gone)
    (checkpoints / "model.ckpt-7.index").touch()
    kill = Kill("worker-1", checkpoints)
    kill.see(started("worker-1", 1, 11))
    kill.see("worker-1   | step 600/7110 loss 0.1")
    assert not kill.killed


def test_the_recovery_is_what_the_controller_decides_until_the_task_trains_again(
    checkpoints: Path, kills: list[tuple[int, int]]
) -> None:
    (checkpoints / "model.ckpt-7.index").touch()
    kill = Kill("ps-0", checkpoints)
    kill.see(started("ps-0", 1, 9))
    kill.see("worker-1   | step 600/7110 loss 0.1")
    recovery = [
        "controller | 10:00:03 tfrun: generation 1: lost ps-0: killed by SIGKILL; all tasks stop",
        "controller | 10:00:04 tfrun: the cause: ps-0: killed by SIGKILL; restart 1 of 3",
        "controller | 10:00:04 tfrun: generation 2: all tasks start, worker-0 first",
        "worker-0   | start: step 550/7110",
        "worker-1   | start: step 800/7110",
    ]
    for line in recovery:
        kill.see("ps-0       | some noise")
        kill.see("controller | 10:00:05 tfrun: step 600 of 7110")
        kill.see(line)
    kill.see("controller | 10:00:09 tfrun: generation 3: all tasks start")
    assert kill.recovery == recovery
    assert len(kills) == 1


def test_a_name_that_is_no_task_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert try_local.main(["--kill", "worker-2"]) == 2
    said = capsys.readouterr().out
    assert said == "try: KILL must be one of ps-0, worker-0, worker-1; got worker-2\n"


def test_a_folder_that_cannot_be_made_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    assert try_local.main([]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert "set TMPDIR to a folder" in line


def play(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    code: int,
    lines: Sequence[str],
    kill: Kill | None = None,
    *,
    stopped: bool = False,
) -> int:
    """What `make try` returns after a run with this end."""
    monkeypatch.setattr(try_local, "follow", lambda *_: (code, stopped, list(lines)))
    return try_local.train(folder, folder / "values.json", kill)


def test_a_result_ends_with_what_to_try_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert play(monkeypatch, tmp_path, 0, [EVALUATION]) == 0
    said = capsys.readouterr().out
    assert "-m launcher local -f examples/breast-cancer/values.yaml" in said
    assert f"  model       {tmp_path / 'model'}" in said
    assert "try next\n  make try KILL=worker-1 " in said


def test_the_evaluation_is_the_chiefs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    repeated = EVALUATION.replace("worker-0  ", "controller")
    assert play(monkeypatch, tmp_path, 0, [repeated]) == 1
    assert "the AUC must be above 0.97" in capsys.readouterr().out


def test_the_recovery_is_told_with_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kill = Kill("worker-1", tmp_path)
    assert play(monkeypatch, tmp_path, 0, [EVALUATION], kill) == 1
    assert "the training ended before worker-1 could be killed" in capsys.readouterr().out
    kill.killed, kill.step = True, "step 700/7110"
    assert play(monkeypatch, tmp_path, 0, [EVALUATION], kill) == 1
    assert "the training ended before worker-1 trained again" in capsys.readouterr().out
    kill.recovered, kill.recovery = True, ["worker-1   | start: step 900"]
    assert play(monkeypatch, tmp_path, 0, [EVALUATION], kill) == 0
    said = capsys.readouterr().out
    assert "after worker-1 was killed at step 700/7110\n  worker-1   | start: step 900" in said


def test_a_failed_run_keeps_its_files_and_an_interrupted_one_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert play(monkeypatch, tmp_path, 3, []) == 3
    assert tmp_path.exists()
    assert f"exit code 3, see above; its files are in {tmp_path}" in capsys.readouterr().out
    assert play(monkeypatch, tmp_path, 130, [], stopped=True) == 130
    assert not tmp_path.exists()
