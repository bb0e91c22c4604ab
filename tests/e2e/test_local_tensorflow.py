"""`launcher local` runs the example and its values with real TensorFlow."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.conftest import EXAMPLE
from tests.lines import Lines

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorflow") is None, reason="needs TensorFlow installed"
    ),
]


PROGRAMS = Path(__file__).parent / "programs"


def start(data: Path, code: Path, *flags: str, program: str = "train.py") -> Lines:
    """Starts the example as its README says, with folders of this test in place of volumes."""
    args = [f"--checkpoint_dir={data / 'checkpoint'}", f"--export_dir={data / 'model'}", *flags]
    # gRPC must not send the tasks' own connections to the proxy.
    env = {"https_proxy": "http://127.0.0.1:9"}
    words = {"command": ["python", program], "args": args, "env": env}
    override = values_file(data, {"program": words})
    return local(data, code, ["-f", str(EXAMPLE / "values.yaml"), "-f", override])


def values_file(data: Path, values: Any) -> str:
    path = data / "values.json"
    path.write_text(json.dumps(values))
    return str(path)


def local(data: Path, code: Path, values: Sequence[str]) -> Lines:
    # A session of its own, because the Ctrl-C of a terminal reaches a whole process group.
    return Lines(
        subprocess.Popen(
            [sys.executable, "-m", "launcher", "local", *values, "--code", str(code)],
            env={**os.environ, "E2E_RUN": str(data)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    )


def processes(data: Path) -> list[psutil.Process]:
    """Every process of a test's run, found by a variable in its environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("E2E_RUN") == str(data):
                found.append(process)
        except psutil.Error:  # gone meanwhile, or another user's
            continue
    return found


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """A folder for checkpoints and the model. No process of the run is left when the test ends."""
    folder = tmp_path / "data"
    folder.mkdir()
    yield folder
    left = processes(folder)
    for process in left:
        process.kill()
    assert not left


def check_learnt(said: Lines) -> None:
    found = re.search(r"worker-0 +\| evaluation: .* auc ([01]\.\d+)", str(said))
    assert found
    assert float(found[1]) > 0.97


def test_launcher_local_trains_the_example_on_this_machine(data: Path) -> None:
    with start(data, EXAMPLE, "--epochs=100") as said:
        assert said.wait() == 0, str(said)
    check_learnt(said)
    assert (data / "model" / "saved_model.pb").exists()
    assert re.search(r"worker-1 +\| start: step ", str(said))


def test_a_killed_ps_leads_to_a_new_generation_from_the_checkpoint(data: Path, paced: Path) -> None:
    brake = data / "slow"
    brake.touch()
    flags = ["--checkpoint_secs=1", "--log_every_steps=10", "--epochs=70"]
    with start(data, paced, *flags, program="paced.py") as said:
        pid = int(said.wait_for(r"ps-0 .*generation 1: started .*\(process (\d+)\)")[1])
        said.wait_for(r"worker-0 +\| start: step 0/")
        said.wait_for(r"worker-0 +\| step \d+/\d+ loss")
        while not list((data / "checkpoint").glob("model.ckpt-[1-9]*.index")):
            said.wait_for(r"worker-0 +\| step \d+/\d+ loss", len(said.lines))
        os.kill(pid, signal.SIGKILL)
        said.wait_for(r"controller .*generation 1: lost ps-0: killed by SIGKILL")
        said.wait_for(r"controller .*generation 2: all tasks start")
        said.wait_for(r"worker-0 +\| start: step [1-9]\d*/")
        brake.unlink()
        assert said.wait() == 0, str(said)
    check_learnt(said)
    assert "generation 3" not in str(said)


@pytest.mark.parametrize("filters", [True, False])
def test_a_chief_that_cannot_train_alone_gets_the_other_workers(data: Path, filters: bool) -> None:
    """With device filters its log shows that the model is initialised; without, it connects."""
    values = {
        "program": {
            "command": [sys.executable, "sync.py"],
            "args": ["--filters"] if filters else [],
            "env": {"TF_CPP_MIN_LOG_LEVEL": "1"},
        },
        "worker": {"replicas": 2},
        # Nothing is saved there, so the others would wait for 120 s.
        "checkpoints": str(data / "checkpoint"),
    }
    with local(data, PROGRAMS, ["-f", values_file(data, values)]) as said:
        assert said.wait() == 0, str(said)
    called = "the chief's session connects to the other workers, so they start now" in str(said)
    assert called is not filters
    assert "the others start anyway" not in str(said)
    for worker in range(2):
        assert re.search(rf"worker-{worker} +\| finished at \d", str(said))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_control_c_and_a_closed_terminal_leave_no_process(
    data: Path, paced: Path, number: signal.Signals
) -> None:
    (data / "slow").touch()
    with start(data, paced, "--log_every_steps=10", program="paced.py") as said:
        said.wait_for(r"worker-0 +\| step \d+/\d+ loss")
        said.wait_for(r"worker-1 .*generation 1: started ")
        assert len(processes(data)) >= 8  # launcher local, controller, three tasks, their children
        os.killpg(said.process.pid, number)
        assert said.wait() == 128 + number, str(said)
        assert processes(data) == []
    assert "Traceback" not in str(said)
