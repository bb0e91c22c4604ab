"""Modes coordinator and all-reduce on the real Kubernetes, with real TensorFlow.

Each test causes the losses that its mode handles, changes the size, and lets the run succeed.
"""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.release import Folders, Release
from tests.e2e.conftest import EXAMPLE
from tests.e2e.paced import saved_step, wait_for_progress
from tests.e2e.runs import OnNfs, children, kill_child, leads
from tests.lines import Lines

pytestmark = pytest.mark.cluster

REPOSITORY = Path(__file__).parents[2]
FOR_EVER = 10**9


def arguments(steps: int) -> dict[str, Any]:
    args = ["--checkpoint_dir=/data/checkpoint", "--export_dir=/data/model"]
    args += ["--checkpoint_secs=1", "--log_every_steps=50"]
    return {"program.args": [*args, f"--epochs={math.ceil(steps * 32 / 455)}"]}


def install(release: Release, folders: Folders, mode: str, settings: dict[str, Any]) -> None:
    values = EXAMPLE.parent / mode / "values.yaml"
    small = {f"{role}.resources.requests.cpu": "50m" for role in ("chief", "ps", "worker")}
    release.install([values], {**folders.settings, **small, **arguments(FOR_EVER), **settings})


def starts(release: Release, pods: list[str]) -> dict[str, list[int]]:
    """The generations in which each pod, as long as it exists, has started its child."""
    return {pod: children(release.kubectl("logs", pod)) for pod in pods}


def make_progress(
    release: Release, folders: Folders, pod: str, generation: int, after: int = 0
) -> int:
    """Waits for a checkpoint of a generation that started from `after` or later; its step."""
    with Lines(release.logs(pod)) as lines:
        return wait_for_progress(lines, folders, generation, after)


def end_well(release: Release, folders: Folders) -> None:
    """Lets the run train 500 steps more. Checks that it succeeds, with a model that has learnt."""
    release.change(arguments(saved_step(folders) + 500))
    end = release.end()
    assert (end.condition, end.exit_code, end.message["phase"]) == ("Complete", 0, "Succeeded")
    said = re.findall(r"evaluation: .* auc (\S+) rows 114", "\n".join(end.message["lastLines"]))
    assert float(said[0]) > 0.97
    assert (folders.data / "model" / "saved_model.pb").stat().st_size > 0


def test_coordinator_restarts_only_the_tasks_that_a_loss_reaches(
    release: Release, on_nfs: OnNfs, tmp_path: Path
) -> None:
    folders = on_nfs(EXAMPLE.parent / "coordinator")
    install(release, folders, "coordinator", {})
    leads(release, "generation 1: all tasks start")
    saved = make_progress(release, folders, "run-chief-0", 1)

    # A worker's pod is replaced at another address: the chief trains on.
    release.kubectl("delete", "pod", "run-worker-1", "--wait=false")
    leads(release, "generation 2: worker-1 starts")
    with Lines(release.logs("run-worker-1")) as worker, Lines(release.logs("run-chief-0")) as chief:
        worker.wait_for("serving ")
        for _ in range(3):
            chief.wait_for(r"step \d+/\d+ loss", len(chief.lines))
    pods = ["run-chief-0", "run-ps-0", "run-worker-0"]
    assert starts(release, pods) == {pod: [1] for pod in pods}

    # The ps's pod is replaced: the variables are lost, so the chief restarts from its checkpoint.
    saved = saved_step(folders)
    release.kubectl("delete", "pod", "run-ps-0", "--wait=false")
    leads(release, "generation 3: chief-0, ps-0 start")
    saved = make_progress(release, folders, "run-chief-0", 3, saved)
    pods = ["run-chief-0", "run-worker-0", "run-worker-1"]
    assert starts(release, pods) == {
        "run-chief-0": [1, 3],
        "run-worker-0": [1],
        "run-worker-1": [2],
    }

    # The chief's child is killed: it restarts alone.
    kill_child(release, "run-chief-0")
    leads(release, "generation 4: chief-0 starts")
    saved = make_progress(release, folders, "run-chief-0", 4, saved)

    # One worker more: only the chief restarts.
    release.change({"worker.replicas": 3})
    leads(release, "generation 5: chief-0, worker-2 start")
    make_progress(release, folders, "run-chief-0", 5, saved)
    pods = ["run-ps-0", "run-worker-0", "run-worker-1", "run-worker-2"]
    assert starts(release, pods) == {
        "run-ps-0": [3],
        "run-worker-0": [1],
        "run-worker-1": [2],
        "run-worker-2": [5],
    }
    check_status(release, tmp_path)
    end_well(release, folders)


def check_status(release: Release, folder: Path) -> None:
    """Checks what `launcher status` prints."""
    cluster = release.cluster
    command = [sys.executable, "-m", "launcher", "status", release.name]
    command += ["--namespace", release.namespace, "--context", cluster.context]
    told = subprocess.run(
        command,
        cwd=REPOSITORY,
        env={
            "KUBECONFIG": str(cluster.kubeconfig),
            "PATH": str(cluster.kubectl.parent),
            "HOME": str(folder),  # for the cache of kubectl
        },
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert re.match(
        r"run: leading, generation 5, restarts 1 of 3, run \w+ for \d+ s, progress", told
    )
    assert re.search(r"^  chief-0   running, step \d+ of \d+$", told, re.M)
    assert re.search(r"^  worker-2  running$", told, re.M)


def test_all_reduce_restarts_all_tasks_at_any_size(release: Release, on_nfs: OnNfs) -> None:
    folders = on_nfs(EXAMPLE.parent / "all-reduce")
    looks = "while true; do ls /data/checkpoint 2>/dev/null | grep -c index; sleep 1; done"
    program = f'[ $JOB_NAME = evaluator ] || exec python train.py "$@"; {looks}'
    settings = {
        "program.command": ["sh", "-c", program, "sh"],
        "evaluator.replicas": 1,
        "evaluator.resources.requests": {"cpu": "10m", "memory": "32Mi"},
    }
    install(release, folders, "all-reduce", settings)
    # The workers do not wait for the evaluator: it starts with them, or alone in generation 2.
    pattern = r"generation (\d): (all tasks start|evaluator-0 starts)"
    first = int(leads(release, pattern)[1])
    saved = make_progress(release, folders, "run-worker-0", 1)

    # A pod is replaced: no worker can continue without it.
    release.kubectl("delete", "pod", "run-worker-1", "--wait=false")
    leads(release, f"generation {first + 1}: worker-0, worker-1 start")
    saved = make_progress(release, folders, "run-worker-0", first + 1, saved)

    # A child is killed.
    kill_child(release, "run-worker-1")
    leads(release, f"generation {first + 2}: worker-0, worker-1 start")
    saved = make_progress(release, folders, "run-worker-0", first + 2, saved)

    # Three workers, in the pods that exist and one more.
    release.change({"worker.replicas": 3})
    leads(release, f"generation {first + 3}: worker-0, worker-1, worker-2 start")
    make_progress(release, folders, "run-worker-0", first + 3, saved)
    pods = ["run-evaluator-0", "run-worker-0", "run-worker-1", "run-worker-2"]
    assert starts(release, pods) == {
        "run-evaluator-0": [first],
        "run-worker-0": [1, first + 1, first + 2, first + 3],
        "run-worker-1": [first + 1, first + 2, first + 3],
        "run-worker-2": [first + 3],
    }
    end_well(release, folders)
