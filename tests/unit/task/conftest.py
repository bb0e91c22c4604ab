"""Fixtures of the tests of one task as a real process without a controller."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.conftest import Start
from tests.unit.processes import Launcher

LOOP = "while :; do sleep 0.02; done"


@pytest.fixture(scope="module")
def ps() -> Iterator[str]:
    """The port of a parameter server that accepts connections."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as server:
        yield str(server.getsockname()[1])


@pytest.fixture
def variables(ps: str, tmp_path: Path) -> dict[str, str]:
    return {
        "TFRUN_POD_NAME": "mnist-worker-1",
        "PS_REPLICAS": "1",
        "WORKER_REPLICAS": "2",
        "TFRUN_HOST": "127.0.0.1",
        "TFRUN_PORT": ps,
        "TFRUN_GRACE": "30",
        "TFRUN_TERMINATION_LOG": str(tmp_path / "end.json"),
    }


def sh(start: Start, variables: dict[str, str], script: str) -> Launcher:
    """Starts a task whose program is a shell script."""
    return start("task", "--", "sh", "-c", script, env=variables)
