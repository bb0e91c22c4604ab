"""A controller that is stopped while its tasks have open requests ends at once."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

PROGRAM = 'import time; print("trains", flush=True); time.sleep(600)'
VALUES = "{mode: all-reduce, program: {command: [python, train.py]}, worker: {replicas: 3}}"
HELD = 10  # seconds; the controller may hold a request for longer


def test_a_controller_and_its_tasks_that_are_stopped_together_end_at_once(tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "train.py").write_text(PROGRAM)
    values = tmp_path / "values.yaml"
    values.write_text(VALUES)
    for _ in range(5):  # a past bug held a request for 20 s in half of the runs
        with subprocess.Popen(
            [sys.executable, "-m", "launcher", "local", "-f", values, "--code", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as local:
            assert local.stdout
            trains = (line for line in local.stdout if line.endswith("| trains\n"))
            for _ in range(3):
                next(trains)
            begin = time.monotonic()
            local.terminate()
            assert not list(trains)
            assert local.wait() == 128 + signal.SIGTERM
            assert time.monotonic() - begin < HELD
