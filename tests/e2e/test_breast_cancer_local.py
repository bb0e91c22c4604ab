"""The breast-cancer example as real TensorFlow processes on the loopback, run by hand.

They show what the program itself does at crashes, restarts and other sizes, without tfrun.
"""

from __future__ import annotations

import importlib.util
import math
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.lines import TIMEOUT, Lines

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorflow") is None, reason="needs TensorFlow installed"
    ),
]

PROGRAM = Path(__file__).parents[2] / "examples" / "breast-cancer" / "train.py"
FOR_EVER = "--epochs=1000000000"


class Process(Lines):
    """One task of the example."""

    def __init__(self, folder: Path, *flags: str) -> None:
        super().__init__(
            subprocess.Popen(
                [sys.executable, str(PROGRAM), *flags],
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        )

    def wait_for_step(self) -> int:
        """The global step of the next line of progress."""
        return int(self.wait_for(r"^step (\d+)/", after=len(self.lines))[1])


class Cluster:
    """Starts tasks of one ClusterSpec, each in a folder of its own, ROOT/JOB/INDEX.

    The checkpoint folder is beside the workers' folders, and its path is relative. A ps must not
    write checkpoints; one that did would write to another folder, where the tests find it.
    """

    def __init__(self, stack: ExitStack, root: Path, ps: int, workers: int) -> None:
        self.stack, self.root = stack, root
        self.checkpoints = root / "worker" / "checkpoints"
        hosts = [f"127.0.0.1:{port}" for port in find_free_ports(ps + workers)]
        self.flags = [
            f"--ps_hosts={','.join(hosts[:ps])}",
            f"--worker_hosts={','.join(hosts[ps:])}",
            "--checkpoint_dir=../checkpoints",
            "--checkpoint_secs=1",
            "--log_every_steps=20",
        ]

    def start(self, job: str, index: int, *flags: str) -> Process:
        folder = self.root / job / str(index)
        folder.mkdir(parents=True, exist_ok=True)
        process = Process(folder, *self.flags, f"--job_name={job}", f"--task_index={index}", *flags)
        return self.stack.enter_context(process)

    def find_saved_step(self) -> int:
        """The step of the newest checkpoint that is complete; 0 before there is one."""
        try:
            state = (self.checkpoints / "checkpoint").read_text()
        except FileNotFoundError:
            return 0
        found = re.match(r'model_checkpoint_path: ".*model\.ckpt-(\d+)"', state)
        return int(found[1]) if found else 0

    def wait_for_saved_step(self) -> int:
        """Waits for a checkpoint after step 0. Returns its step."""
        deadline = time.monotonic() + TIMEOUT
        while not self.find_saved_step():
            assert time.monotonic() < deadline, "no checkpoint was saved"
            time.sleep(0.1)
        return self.find_saved_step()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Ends all processes that have entered it when the test ends."""
    with ExitStack() as stack:
        yield stack


def find_free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def epochs_until(step: int) -> str:
    """The flag that ends the training near that step."""
    return f"--epochs={math.ceil(step * 32 / 455)}"


def check_evaluation(chief: Process, least_step: int) -> int:
    """Checks that the chief evaluated a model that has learnt. Returns the model's step."""
    auc, step = chief.wait_for(
        r"^evaluation: accuracy 0\.\d{4} auc ([01]\.\d{4}) rows 114 step (\d+)$"
    ).groups()
    assert float(auc) > 0.97
    assert int(step) >= least_step
    return int(step)


def test_one_process_trains_evaluates_and_exports(tmp_path: Path, stack: ExitStack) -> None:
    flags = [epochs_until(1000), "--checkpoint_dir=checkpoints", "--export_dir=export"]
    for _ in range(2):  # the second time there is nothing left to train
        process = stack.enter_context(Process(tmp_path, *flags))
        assert process.wait() == 0
        assert check_evaluation(process, 1000) == 1010
        process.wait_for("^model: export$")
        process.wait_for("^checkpoint: checkpoints/model.ckpt-1010$")
    process.wait_for("^start: step 1010/1010$")
    assert not [line for line in process.lines if line.startswith("step ")]
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoints", "export"}

    serve = """
import sys, numpy, tensorflow
rows = numpy.loadtxt(sys.argv[1], delimiter=",", skiprows=1, dtype="float32")
serve = tensorflow.saved_model.load("export").signatures["serving_default"]
predicted = serve(features=tensorflow.constant(rows[:, :-1]))["probability"].numpy()
assert predicted.shape == (569,)
print("served", ((predicted > 0.5) == rows[:, -1]).mean())
"""
    output = subprocess.run(
        [sys.executable, "-c", serve, str(PROGRAM.with_name("breast_cancer.csv"))],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT,
        check=True,
    ).stdout
    assert float(output.split()[-1]) > 0.95


def test_a_ps_and_two_workers_learn_and_end_by_themselves(tmp_path: Path, stack: ExitStack) -> None:
    cluster = Cluster(stack, tmp_path, ps=1, workers=2)
    ps = cluster.start("ps", 0)
    for _ in range(2):  # the second time there is nothing left to train
        worker1 = cluster.start("worker", 1, epochs_until(2000))
        chief = cluster.start("worker", 0, epochs_until(2000))
        assert chief.wait() == 0
        assert worker1.wait() == 0
        check_evaluation(chief, 2000)
    assert ps.process.poll() is None
    assert ps.lines == []
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*")}
    assert written == {"ps/0", "worker/0", "worker/1", "worker/checkpoints"}
    assert not list(tmp_path.glob("*/[01]/*"))
    assert len(list(cluster.checkpoints.glob("*.index"))) <= 3


def test_a_killed_worker_rejoins_and_sigterm_saves(tmp_path: Path, stack: ExitStack) -> None:
    cluster = Cluster(stack, tmp_path, ps=1, workers=2)
    ps = cluster.start("ps", 0)
    chief, worker1 = (cluster.start("worker", index, FOR_EVER) for index in (0, 1))
    worker1.wait_for_step()
    worker1.kill()
    step = chief.wait_for_step()  # the others go on
    worker1 = cluster.start("worker", 1, FOR_EVER)
    assert int(worker1.wait_for(r"^start: step (\d+)/")[1]) >= step
    worker1.wait_for_step()

    chief.process.terminate()
    assert chief.wait() == 143
    saved = int(chief.wait_for(r"^stopped: step (\d+), saved in ")[1])
    for process in (worker1, ps):
        process.kill()
    assert cluster.find_saved_step() >= saved


def test_a_killed_chief_steps_back_to_its_checkpoint(tmp_path: Path, stack: ExitStack) -> None:
    cluster = Cluster(stack, tmp_path, ps=1, workers=2)
    cluster.start("ps", 0)
    chief = cluster.start("worker", 0, FOR_EVER)
    chief.wait_for_step()  # it does not wait for the other worker
    worker1 = cluster.start("worker", 1, FOR_EVER)
    worker1.wait_for_step()
    saved = cluster.wait_for_saved_step()
    chief.kill()
    step = worker1.wait_for_step()  # the others go on, but nobody saves
    chief = cluster.start("worker", 0, FOR_EVER)
    assert saved <= int(chief.wait_for(r"^start: step (\d+)/")[1])
    assert int(worker1.wait_for(r"^restored: step \d+/\d+, from (\d+)")[1]) >= step


def test_a_killed_ps_and_another_size_continue_from_the_checkpoint(
    tmp_path: Path, stack: ExitStack
) -> None:
    cluster = Cluster(stack, tmp_path, ps=1, workers=2)
    ps = cluster.start("ps", 0)
    chief, worker1 = (cluster.start("worker", index, FOR_EVER) for index in (0, 1))
    worker1.wait_for_step()
    saved = cluster.wait_for_saved_step()
    for process in (ps, chief, worker1):
        process.kill()

    for count, workers in ((2, 1), (1, 3)):
        cluster = Cluster(stack, tmp_path, count, workers)
        servers = [cluster.start("ps", index) for index in range(count)]
        target = saved + 1000
        started = [cluster.start("worker", index, epochs_until(target)) for index in range(workers)]
        assert int(started[0].wait_for(r"^start: step (\d+)/")[1]) >= saved
        assert [process.wait() for process in started] == [0] * workers
        saved = check_evaluation(started[0], target)
        for server in servers:
            server.kill()
