"""A real controller with real tasks on the loopback; a stub replaces TensorFlow."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

from tests.unit.conftest import Start
from tests.unit.jobs import document
from tests.unit.processes import Launcher, free_ports

LOOP = "while :; do sleep 0.02; done"


class Run:
    """Starts the processes of one run."""

    def __init__(self, start: Start, folder: Path) -> None:
        self.start = start
        self.folder = folder
        self.code = folder / "source"
        self.code.mkdir()
        (self.code / "program").write_text("a program")
        self.port, self.tasks_port = free_ports(2)

    def controller(self, script: str = LOOP, **changes: Any) -> Launcher:
        changes = {
            "program__command": ["sh", "-c", script],
            "program__args": [],
            "addresses": {"host": "127.0.0.1", "port": self.tasks_port, "portsPerTask": True},
            "code": {"folder": {"path": str(self.code)}},
            **changes,
        }
        (self.folder / "job.json").write_text(json.dumps(document(**changes)))
        return self.start(
            "controller",
            env={
                "TFRUN_JOB": str(self.folder / "job.json"),
                "TFRUN_LISTEN": f"127.0.0.1:{self.port}",
                "TFRUN_TERMINATION_LOG": str(self.folder / "end.json"),
            },
        )

    def task(self, name: str, **variables: str) -> Launcher:
        return self.start(
            "task",
            env={
                "TFRUN_POD_NAME": name,
                "TFRUN_CONTROLLER": f"127.0.0.1:{self.port}",
                "TFRUN_WORK": str(self.folder / name),
                "TFRUN_TERMINATION_LOG": str(self.folder / f"{name}.json"),
                "TFRUN_LEAVE": "true",
                **variables,
            },
        )

    def until_go(self) -> str:
        """A program that trains until a test makes the file `go`."""
        return f"while [ ! -e {self.folder}/go ]; do sleep 0.02; done"

    def status(self) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v1/status") as answer:
            return json.load(answer)

    def tasks(self, *names: str) -> list[Launcher]:
        return [self.task(name) for name in names or ("ps-0", "worker-0", "worker-1")]


def child(launcher: Launcher, generation: int) -> int:
    return int(launcher.wait_for(rf"generation {generation}: started .*\(process (\d+)\)")[1])


def programs(task: Launcher) -> int:
    """How many times a task has started its program."""
    return sum(": started sh -c" in line for line in task.lines)
