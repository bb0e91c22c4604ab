"""Installs the breast-cancer example with a brake, and waits for its progress."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from tests.cluster.release import Folders, Release, RunEnd
from tests.e2e.conftest import EXAMPLE
from tests.lines import Lines


def install_paced(release: Release, folders: Folders, steps: int) -> None:
    """Installs the example with its brake on. It saves every second, so a fault loses little."""
    brake(folders).touch()
    args = ["--checkpoint_dir=/data/checkpoint", "--export_dir=/data/model"]
    args += ["--checkpoint_secs=1", "--log_every_steps=10", f"--epochs={steps * 32 // 455}"]
    program = {"program.command": ["python", "paced.py"], "program.args": args}
    release.install([EXAMPLE / "values.yaml"], {**folders.settings, **program})


def brake(folders: Folders) -> Path:
    return folders.data / "slow"


def wait_for_progress(worker: Lines, folders: Folders, generation: int, saved: int = 0) -> int:
    """Waits until a worker makes steps in a generation, and the chief has saved newer steps.

    Checks that the worker started from step `saved` or later. Returns the step that is saved now.
    """
    worker.wait_for(rf"generation {generation}: started ")
    (begin,) = (
        number
        for number, line in enumerate(worker.lines)
        if f"generation {generation}: started " in line
    )
    start = int(worker.wait_for(r"start: step (\d+)/", begin)[1])
    assert start >= saved
    worker.wait_for(r"step \d+/\d+ loss", begin)
    while saved_step(folders) <= start:
        worker.wait_for(r"step \d+/\d+ loss", len(worker.lines))
    return saved_step(folders)


def wait_for_steps(
    release: Release, folders: Folders, workers: Iterable[int], generation: int, saved: int = 0
) -> int:
    """Waits for the progress of these workers. Returns the step that is saved then."""
    for index in workers:
        with Lines(release.logs(f"run-worker-{index}")) as worker:
            wait_for_progress(worker, folders, generation, saved)
    return saved_step(folders)


def saved_step(folders: Folders) -> int:
    """The step of the newest checkpoint in the NFS folder; 0 before there is one."""
    try:
        state = (folders.data / "checkpoint" / "checkpoint").read_text()
    except FileNotFoundError:
        return 0
    found = re.match(r'model_checkpoint_path: ".*ckpt-(\d+)"', state)
    return int(found[1]) if found else 0


def check_learnt(end: RunEnd) -> None:
    assert (end.condition, end.exit_code) == ("Complete", 0)
    message = end.message
    assert (message["phase"], message["exitCode"], message["task"]) == ("Succeeded", 0, "worker-0")
    (auc,) = re.findall(r"^evaluation: .* auc ([01]\.\d+)", "\n".join(message["lastLines"]), re.M)
    assert float(auc) > 0.97


def generations(log: str) -> list[int]:
    return [int(number) for number in re.findall(r"generation (\d+): [\w, -]+ starts?\b", log)]
