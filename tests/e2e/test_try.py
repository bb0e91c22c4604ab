"""`make try` as a person runs it, in an environment of its own, with real TensorFlow."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.lines import Lines
from tests.unit.processes import lives

pytestmark = pytest.mark.tensorflow
REPOSITORY = Path(__file__).parents[2]


def start(tmp_path: Path, *settings: str) -> Lines:
    """Starts it as a shell does; its temporary files are the test's."""
    # Not the settings of a make that has started these tests.
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    # A session of its own: the Ctrl-C of a terminal reaches all that it has started.
    return Lines(
        subprocess.Popen(
            ["make", "try", *settings],
            cwd=REPOSITORY,
            env={**env, "TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ),
        timeout=900,  # it may have to download TensorFlow
    )


def test_a_killed_worker_recovers_without_the_tools_of_the_tests(tmp_path: Path) -> None:
    with start(tmp_path, "KILL=worker-1") as said:
        assert said.wait() == 0, str(said)
    python = said.wait_for(r"^try: running (\S+) -m launcher local ")[1]
    missing = subprocess.run([python, "-c", "import pytest"], capture_output=True, text=True)
    assert "ModuleNotFoundError" in missing.stderr

    killed = int(said.wait_for(r"^try: killed the program of worker-1, .* at step (\d+)/")[1])
    assert killed > 0
    told = str(said)[str(said).index("\nafter worker-1 was killed") :]
    assert "lost worker-1: killed by SIGKILL" in told
    assert "generation 2: worker-1 starts" in told
    restarted = re.search(r"worker-1 +\| start: step (\d+)/", told)
    assert restarted
    assert int(restarted[1]) > 0

    auc = re.search(r"^  evaluation: .* auc ([\d.]+)", told, re.MULTILINE)
    assert auc
    assert float(auc[1]) > 0.97
    model = re.search(r"^  model +(.+)$", told, re.MULTILINE)
    assert model
    assert (Path(model[1]) / "saved_model.pb").exists()


def test_control_c_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    with start(tmp_path) as said:
        said.wait_for(r"worker-1 +\| start: step \d+/")
        started = psutil.Process(said.process.pid).children(recursive=True)
        assert len(started) >= 8  # try, launcher local, the controller, three tasks and programs
        os.killpg(said.process.pid, signal.SIGINT)
        assert said.wait() != 0, str(said)
    assert [process for process in started if lives(process.pid)] == []
    assert "try: interrupted: all processes have ended" in str(said)
    assert "Traceback" not in str(said)
    assert list(tmp_path.iterdir()) == []
