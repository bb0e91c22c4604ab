"""A small run for tests, and ways to change it."""

from __future__ import annotations

import copy
from typing import Any

from launcher.shared.job import Job, job_of

DOCUMENT: dict[str, Any] = {
    "version": 1,
    "release": "mnist",
    "run": "0123456789ab",
    "mode": "parameter-server",
    "replicas": {"ps": 1, "worker": 2},
    "maxReplicas": {"worker": 0},
    "addresses": {"host": "mnist-{role}-{index}.mnist", "port": 2222},
    "program": {
        "command": ["python", "train.py"],
        "args": ["--steps", "5"],
        "env": {"LEVEL": "1"},
        "flags": False,
        "workingDir": "",
    },
    "code": {"image": {"path": "/app"}},
    "restarts": {"limit": 2, "permanentCodes": [2, 127], "refill": 0},
    "success": "AllWorkers",
    "chiefFirst": False,
    "checkpoints": "",
    "hangTimeout": 0,
    "deadline": 0,
    "logs": "",
    "grace": 1,
    "cleanup": "Delete",
}

REPLICAS = {
    "parameter-server": {"ps": 1, "worker": 2},
    "coordinator": {"chief": 1, "ps": 1, "worker": 2},
    "all-reduce": {"worker": 2},
}


def document(**changes: Any) -> dict[str, Any]:
    """The small run's document; `program__args=...` changes a key of a mapping."""
    changed = copy.deepcopy(DOCUMENT)
    if str(changes.get("mode")) in REPLICAS:
        changed["replicas"] = dict(REPLICAS[changes["mode"]])
    for name, value in changes.items():
        *path, key = name.split("__")
        at = changed
        for part in path:
            at = at[part]
        at[key] = value
    return changed


def job(**changes: Any) -> Job:
    return job_of(document(**changes))
