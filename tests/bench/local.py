"""A whole training on one machine: three processes started by hand, and `launcher local`."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.bench.measure import Comparison, Seconds, Side

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = REPOSITORY / "examples" / "breast-cancer"
ROLES = (("ps", 0), ("worker", 0), ("worker", 1))
POLL_SECONDS = 0.005
PATIENCE_SECONDS = 300

Start = Callable[[Path], list[list[str]]]


def comparison() -> Comparison:
    """The breast-cancer example with one parameter server and two workers."""
    flags = "--ps_hosts=... --worker_hosts=... --checkpoint_dir=..."
    return Comparison(
        "breast cancer",
        Side(
            f"python train.py {flags} --job_name=... --task_index=... (three of it)",
            partial(run, by_hand),
        ),
        Side(
            "python -m launcher local -f values.yaml --code examples/breast-cancer",
            partial(run, by_tfrun),
        ),
        rounds=3,
    )


def by_hand(folder: Path) -> list[list[str]]:
    """The commands of the three tasks, the parameter server's last."""
    ps, *workers = (f"127.0.0.1:{port}" for port in free_ports(len(ROLES)))
    cluster = [f"--ps_hosts={ps}", f"--worker_hosts={','.join(workers)}", *folders(folder)]
    program = [sys.executable, "-u", str(EXAMPLE / "train.py"), *cluster]
    return [[*program, f"--job_name={job}", f"--task_index={i}"] for job, i in reversed(ROLES)]


def by_tfrun(folder: Path) -> list[list[str]]:
    """The one command of a local run."""
    values = folder / "values.yaml"
    values.write_text(json.dumps({"program": {"args": folders(folder)}}))
    local = [sys.executable, "-m", "launcher", "local", "--code", str(EXAMPLE)]
    return [[*local, "-f", str(EXAMPLE / "values.yaml"), "-f", str(values)]]


def folders(folder: Path) -> list[str]:
    """The flags that say where the program writes."""
    return [f"--checkpoint_dir={folder / 'checkpoint'}", f"--export_dir={folder / 'model'}"]


def run(start: Start) -> Seconds:
    """The seconds until a worker starts to train, and until all workers have ended."""
    with tempfile.TemporaryDirectory(prefix="tfrun-bench-") as name, ExitStack() as stack:
        folder, log = Path(name), Path(name, "log")
        commands = start(folder)
        output = stack.enter_context(log.open("wb"))
        begin = time.perf_counter()
        started = []
        for command in commands:
            process = subprocess.Popen(
                command, cwd=REPOSITORY, stdout=output, stderr=subprocess.STDOUT
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
            started.append(process)
        until_end = started[:2]  # a parameter server started by hand never exits
        first = wait(lambda: b"start: step " in log.read_bytes(), until_end, log) - begin
        last = wait(lambda: all(each.poll() == 0 for each in until_end), until_end, log) - begin
        return {"first step": first, "whole run": last}


def wait(true: Callable[[], bool], running: Sequence[subprocess.Popen[bytes]], log: Path) -> float:
    """Waits until `true` holds; returns the time. Fails if a process fails or time runs out."""
    deadline = time.perf_counter() + PATIENCE_SECONDS
    while not true():
        if time.perf_counter() > deadline or any(each.poll() for each in running):
            raise RuntimeError(f"the run failed:\n{log.read_text(errors='replace')}")
        time.sleep(POLL_SECONDS)
    return time.perf_counter()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
