"""The time that the launcher adds to a program: a single task, without a controller."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from tests.bench.measure import Comparison, Seconds, Side

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAM = ("python", "-c", "pass")
TASK = ("python", "-m", "launcher", "task", "--", *PROGRAM)


def comparison() -> Comparison:
    """An empty program, by itself and as a task's child."""
    # A worker waits until its parameter server's port accepts connections. This one does at once.
    ps = socket.create_server(("127.0.0.1", 0))
    task = {
        "PS_REPLICAS": "1",
        "WORKER_REPLICAS": "1",
        "TFRUN_POD_NAME": "worker-0",
        "TFRUN_HOST": "127.0.0.1",
        "TFRUN_PORT": str(ps.getsockname()[1]),
        "TFRUN_WORK": tempfile.gettempdir(),
        "TFRUN_TERMINATION_LOG": "",
    }
    variables = "PS_REPLICAS=1 WORKER_REPLICAS=1 TFRUN_POD_NAME=worker-0 TFRUN_HOST=127.0.0.1"
    return Comparison(
        "an empty program",
        Side("python -c pass", partial(timed, PROGRAM, {}, ps)),
        Side(
            f"{variables} python -m launcher task -- python -c pass", partial(timed, TASK, task, ps)
        ),
        rounds=20,
    )


def timed(command: Sequence[str], variables: Mapping[str, str], _ps: socket.socket) -> Seconds:
    """The seconds from the start of a command to its end."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    begin = time.perf_counter()
    subprocess.run(
        command,
        cwd=REPOSITORY,
        env={**os.environ, **variables, "PATH": path},
        stderr=subprocess.PIPE,
        check=True,
    )
    return {"start to end": time.perf_counter() - begin}
