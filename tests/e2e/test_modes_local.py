"""The examples of modes coordinator and all-reduce, run by `launcher local` with real TensorFlow.

Each test causes the losses that its mode handles, stops the run, and lets a second run succeed.
"""

from __future__ import annotations

import collections
import contextlib
import importlib.util
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from tests.lines import Lines
from tests.unit.jobs import document
from tests.unit.processes import Launcher, free_ports

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorflow") is None, reason="needs TensorFlow installed"
    ),
]

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "examples"
PROGRAMS = Path(__file__).parent / "programs"
FOR_EVER = 1_000_000_000
GRACE = 100  # more than a slow machine needs to save
STARTED = re.compile(r"(\S+) *\| \S+ tfrun: generation \d+: started .* \(process (\d+)\)")
STEP = r"step (\d+)/\d+ loss"


class Local(Lines):
    """A run of an example by `launcher local`."""

    def __init__(self, example: str, folder: Path, steps: int, **counts: int) -> None:
        self.mark = uuid.uuid4().hex  # marks the processes of this run
        program = {
            "args": [
                f"--checkpoint_dir={folder / 'checkpoint'}",
                "--checkpoint_secs=1",
                "--log_every_steps=50",
                f"--epochs={math.ceil(steps * 32 / 455)}",
            ],
            "env": {"TEST_MODES_LOCAL": self.mark},
        }
        values = folder / f"{self.mark}.yaml"
        replicas = {role: {"replicas": count} for role, count in counts.items()}
        values.write_text(yaml.safe_dump({"program": program, **replicas}))
        code = EXAMPLES / example
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "launcher", "local"),
                *("-f", code / "values.yaml", "-f", values, "--code", code),
            ],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        super().__init__(process)

    def hear(self, who: str, pattern: str, after: int = 0) -> re.Match[str]:
        """The first line of a task, from index `after` on, that starts with the pattern."""
        return self.wait_for(rf"^{who} *\| (?:{pattern})", after)

    def wait_for_steps(self, who: str) -> None:
        """Waits for three more lines of progress."""
        for _ in range(3):
            self.hear(who, STEP, after=len(self.lines))

    def children(self) -> dict[str, list[int]]:
        """The processes that each task has started, in order."""
        found: dict[str, list[int]] = collections.defaultdict(list)
        for started in filter(None, map(STARTED.match, self.lines.copy())):
            found[started[1]].append(int(started[2]))
        return found

    def kill_child(self, task: str) -> int:
        """Kills the current child of a task. Returns the index of the lines that follow."""
        after = len(self.lines)
        os.kill(self.children()[task][-1], signal.SIGKILL)
        self.hear(task, r"\S+ tfrun: .*the child ended: killed by SIGKILL", after)
        return after

    def stop(self) -> None:
        self.process.terminate()
        assert self.wait() == 128 + signal.SIGTERM

    def left(self) -> list[psutil.Process]:
        """The processes of this run that are alive."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("TEST_MODES_LOCAL") == self.mark:
                    found.append(process)
        return found


@contextlib.contextmanager
def run(example: str, folder: Path, steps: int, **counts: int) -> Iterator[Local]:
    """A run that must have ended, and left no process, when the context ends."""
    local = Local(example, folder, steps, **counts)
    try:
        yield local
        assert local.process.poll() is not None
        assert local.left() == []
    finally:
        if local.process.poll() is None:
            local.process.terminate()
            local.wait()


def find_saved_step(folder: Path) -> int:
    """The step of the newest checkpoint; 0 before there is one."""
    try:
        state = (folder / "checkpoint" / "checkpoint").read_text()
    except FileNotFoundError:
        return 0
    found = re.match(r'model_checkpoint_path: "ckpt-(\d+)"', state)
    return int(found[1]) if found else 0


def wait_for_saved_step(local: Local, chief: str, folder: Path) -> int:
    """Waits for a checkpoint after step 0, and for progress after it. Returns its step."""
    while not find_saved_step(folder):
        local.wait_for_steps(chief)
    saved = find_saved_step(folder)
    local.wait_for_steps(chief)
    return saved


def check_end(local: Local, chief: str, folder: Path, least_step: int) -> None:
    """Checks that the run succeeded, with a model that has learnt."""
    assert local.wait() == 0
    accuracy, auc, step = local.hear(
        chief, r"evaluation: accuracy (\S+) auc (\S+) rows 114 step (\d+)$"
    ).groups()
    assert float(accuracy) > 0.9
    assert float(auc) > 0.97
    assert int(step) >= least_step
    local.hear(chief, f"model: {folder / 'checkpoint' / 'model'}$")
    assert (folder / "checkpoint" / "model" / "saved_model.pb").exists()
    assert find_saved_step(folder) == int(step)
    assert not list((folder / "checkpoint").glob(".*"))


def test_each_example_has_the_same_data() -> None:
    copies = {path.read_bytes() for path in EXAMPLES.glob("*/breast_cancer.csv")}
    assert len(copies) == 1
    assert {path.parent.name for path in EXAMPLES.glob("*/train.py")} == {
        path.parent.name for path in EXAMPLES.glob("*/breast_cancer.csv")
    }


def test_coordinator_restarts_only_the_tasks_that_a_loss_reaches(tmp_path: Path) -> None:
    everybody = ("chief-0", "ps-0", "worker-0", "worker-1")
    with run("coordinator", tmp_path, FOR_EVER) as local:
        for server in everybody[1:]:
            local.hear(server, "serving ")
        local.hear("chief-0", r"start: step 0/")
        local.wait_for_steps("chief-0")
        first = local.children()
        assert {task: len(pids) for task, pids in first.items()} == dict.fromkeys(everybody, 1)

        # A worker is killed: the chief trains on without it, and later with it.
        after = local.kill_child("worker-1")
        local.hear("worker-1", "serving ", after)
        local.wait_for_steps("chief-0")
        second = local.children()
        assert len(second["worker-1"]) == 2
        assert {**second, "worker-1": first["worker-1"]} == first

        # The chief is killed: it restarts alone, from its checkpoint.
        saved = wait_for_saved_step(local, "chief-0", tmp_path)
        after = local.kill_child("chief-0")
        assert int(local.hear("chief-0", r"start: step (\d+)/", after)[1]) >= saved
        local.wait_for_steps("chief-0")
        third = local.children()
        assert len(third["chief-0"]) == 2
        assert {**third, "chief-0": first["chief-0"]} == second

        # The ps is killed: the variables are lost, so the chief restarts too; the workers do not.
        saved = wait_for_saved_step(local, "chief-0", tmp_path)
        after = local.kill_child("ps-0")
        assert int(local.hear("chief-0", r"start: step (\d+)/", after)[1]) >= saved
        local.wait_for_steps("chief-0")
        counts = {task: len(pids) for task, pids in local.children().items()}
        assert counts == {"chief-0": 3, "ps-0": 2, "worker-0": 1, "worker-1": 2}

        saved = find_saved_step(tmp_path)
        local.stop()

    target = max(1000, saved + 200)
    with run("coordinator", tmp_path, target, worker=1) as local:
        assert int(local.hear("chief-0", r"start: step (\d+)/")[1]) >= saved
        check_end(local, "chief-0", tmp_path, target)


def test_all_reduce_restarts_all_tasks_at_any_size(tmp_path: Path) -> None:
    both = ("worker-0", "worker-1")
    with run("all-reduce", tmp_path, FOR_EVER) as local:
        for worker in both:
            local.hear(worker, "start: step 0/")
        for generation, lost in enumerate(("worker-1", "worker-0"), start=2):
            saved = wait_for_saved_step(local, "worker-0", tmp_path)
            after = local.kill_child(lost)
            starts = [int(local.hear(w, r"start: step (\d+)/", after)[1]) for w in both]
            assert starts[0] == starts[1] >= saved
            local.wait_for_steps("worker-1")  # both go on
            counts = {task: len(pids) for task, pids in local.children().items()}
            assert counts == dict.fromkeys(both, generation)

        # One worker gets SIGTERM: both stop after the same step, and continue from there.
        after = len(local.lines)
        os.kill(local.children()["worker-1"][-1], signal.SIGTERM)
        stopped = {int(local.hear(w, r"stopped: step (\d+), saved in ", after)[1]) for w in both}
        starts = [int(local.hear(w, r"start: step (\d+)/", after)[1]) for w in both]
        assert stopped == set(starts)
        local.hear("controller", ".*; not charged to the restart budget", after)
        local.wait_for_steps("worker-1")
        first_losses = dict(find_losses(local))

        # All workers are stopped.
        after = len(local.lines)
        local.stop()
        stopped = {int(local.hear(w, r"stopped: step (\d+), saved in ", after)[1]) for w in both}
        assert stopped == {find_saved_step(tmp_path)}

    step = find_saved_step(tmp_path)
    target = max(1000, step + 200)
    with run("all-reduce", tmp_path, target, worker=3) as local:
        for worker in (*both, "worker-2"):
            assert int(local.hear(worker, r"start: step (\d+)/")[1]) == step
        check_end(local, "worker-0", tmp_path, target)

    # One worker alone makes the same steps as two and three together.
    alone = tmp_path / "alone"
    alone.mkdir()
    with run("all-reduce", alone, target, worker=1) as local:
        check_end(local, "worker-0", alone, target)
        losses = dict(find_losses(local))
    assert first_losses
    for step, loss in first_losses.items():
        assert losses.get(step, loss) == pytest.approx(loss, abs=0.005)


def find_losses(local: Local) -> Iterator[tuple[int, float]]:
    """The loss of each step that worker 0 has printed."""
    for line in local.lines.copy():
        found = re.match(r"worker-0 *\| step (\d+)/\d+ loss (\S+) ", line)
        if found:
            yield int(found[1]), float(found[2])


@pytest.mark.parametrize("saves", [False, True], ids=["plain", "saves"])
def test_all_reduce_waits_only_for_a_program_that_handles_sigterm(
    tmp_path: Path, saves: bool
) -> None:
    """TensorFlow catches SIGTERM, so a program that does not handle it trains on."""
    port, tasks_port = free_ports(2)
    with contextlib.ExitStack() as stack:

        def start(verb: str, **variables: str) -> Launcher:
            path = {"PYTHONPATH": str(REPOSITORY), "TFRUN_TERMINATION_LOG": ""}
            launcher = Launcher(verb, env={**path, **variables})
            stack.callback(launcher.kill)
            return launcher

        def lead(workers: int) -> Launcher:
            job = document(
                mode="all-reduce",
                replicas={"worker": workers},
                grace=GRACE,
                program__command=[sys.executable, "mirrored.py"],
                code={"folder": {"path": str(PROGRAMS)}},
                program__args=[str(tmp_path / "checkpoint"), *(["save"] if saves else [])],
                program__env={"CUDA_VISIBLE_DEVICES": "-1"},
                addresses={"host": "127.0.0.1", "port": tasks_port, "portsPerTask": True},
            )
            (tmp_path / "job.json").write_text(json.dumps(job))
            listen = f"127.0.0.1:{port}"
            return start("controller", TFRUN_JOB=str(tmp_path / "job.json"), TFRUN_LISTEN=listen)

        controller = lead(workers=2)
        names = ("worker-0", "worker-1")
        tasks = [
            start(
                "task",
                TFRUN_POD_NAME=name,
                TFRUN_CONTROLLER=f"127.0.0.1:{port}",
                TFRUN_WORK=str(tmp_path / name),
                TFRUN_LEAVE="true",
            )
            for name in names
        ]
        for task in tasks:
            task.wait_for(r"^step \d+")
        step = int(tasks[0].wait_for(r"^step (\d+)")[1])

        # A new controller wants one worker.
        controller.signal(signal.SIGTERM)
        controller.wait()
        seen = [len(task.lines) for task in tasks]
        begin = time.monotonic()
        lead(workers=1)
        for task, after in zip(tasks, seen):
            how = "exit code 42" if saves else "killed by SIGKILL"
            task.wait_for(f"the child ended, as it was told to: {how}", after)
        assert time.monotonic() - begin < GRACE
        start_line = tasks[0].wait_for(r"^start: step (\d+)", seen[0])
        assert int(start_line[1]) >= step if saves else int(start_line[1]) == 0
        said = [("TensorFlow has caught SIGTERM" in str(task)) for task in tasks]
        assert said == [not saves] * 2
