"""Starts real launcher processes for tests, reads their lines, and leaves none behind."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from tests.lines import Lines

ROOT = Path(__file__).resolve().parents[2]
STUB = ROOT / "tests" / "unit" / "stub"
PATIENCE = 120.0  # for any single event, on a busy machine


def environment(**variables: str) -> dict[str, str]:
    """The environment of launchers under test: TensorFlow's stub, and none of our own settings."""
    ours = ("TFRUN_", "PYTHONUNBUFFERED")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    return {**inherited, "PYTHONPATH": f"{ROOT}{os.pathsep}{STUB}", **variables}


class Launcher(Lines):
    """One `python -m launcher`, in a session of its own."""

    def __init__(
        self,
        *arguments: str,
        env: Mapping[str, str],
        python: str = sys.executable,
        prefix: tuple[str, ...] = (),
        cwd: Path | None = None,
    ) -> None:
        # A new folder, because a launcher reports a child that died with the folder's last one.
        self._folder = tempfile.TemporaryDirectory()
        process = subprocess.Popen(
            [*prefix, python, "-m", "launcher", *arguments],
            env=environment(**env),
            cwd=cwd or self._folder.name,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        super().__init__(process, PATIENCE)

    @property
    def pid(self) -> int:
        return self.process.pid

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """Kills it with all processes that it has started, if it still runs."""
        for process in tree(self.pid) if self.process.poll() is None else []:
            kill(process.pid)
        super().kill()
        self._folder.cleanup()


def tree(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [*process.children(recursive=True), process]
    except psutil.NoSuchProcess:
        return []


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Polls until `holds`, for what no line of output tells."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.02)


# Below the ports that the kernel gives to clients, and a range for each process of pytest-xdist.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
_PORTS = itertools.cycle(range(30_000 + 450 * _WORKER, 30_250 + 450 * _WORKER))


def free_ports(count: int) -> list[int]:
    ports: list[int] = []
    while len(ports) < count:
        port = next(_PORTS)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports.append(port)
    return ports


def message(path: Path) -> Any:
    return json.loads(path.read_text())
