"""job.json, the whole desired run: the contract between the chart and the launcher.

All mistakes are reported at once, each with the key, the rule and the value.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.shared.exits import ExitCode, LauncherError, fail_with
from launcher.shared.identity import Task
from launcher.shared.json_fields import Reader
from launcher.shared.modes import EVALUATOR, MODES, Mode
from launcher.shared.sources import Delivery, Source, read_delivery

JOB_VERSION = 1
MOST_TASKS = 100_000
SUCCESSES = ("AllWorkers", "Chief")
CLEANUPS = ("Delete", "Keep")
# The policies of a run: keys that job.json takes from the values unchanged. The values here switch
# each policy off, for a task without a controller.
POLICIES: Mapping[str, Any] = {
    "restarts": {"limit": 0, "permanentCodes": [], "refill": 0},
    "success": "AllWorkers",
    "chiefFirst": False,
    "checkpoints": "",
    "hangTimeout": 0,
    "deadline": 0,
    "logs": "",
    "grace": 0,
    "cleanup": "Keep",
}


@dataclass(frozen=True)
class Addresses:
    """Where tasks listen: a host name with {role} and {index}, and a port.

    With `ports_per_task` all tasks share one host and each has a port of its own.
    """

    host: str
    port: int
    ports_per_task: bool


@dataclass(frozen=True)
class Program:
    """The user's program. `working_dir` is relative to the code folder."""

    command: tuple[str, ...]
    args: tuple[str, ...]
    env: Mapping[str, str]
    flags: bool
    working_dir: str


@dataclass(frozen=True)
class Restarts:
    """How many failures of the program a run survives, and the exit codes that it never survives.

    Each failure counts for `refill` seconds, or for ever if that is 0.
    """

    limit: int
    permanent_codes: tuple[int, ...]
    refill: float


@dataclass(frozen=True)
class Job:
    """The whole desired run, as the chart wrote it in `document`, which `digest` identifies.

    `success` says whose exit code 0 ends the run. `hang_timeout` and `deadline` are seconds, 0 for
    none. `listed` counts the tasks of each role in the ClusterSpec, which worker.maxReplicas can
    make more than `replicas`. `logs` is the folder for a copy of each child's output, or empty.
    """

    release: str
    run: str
    mode: Mode
    replicas: Mapping[str, int]
    listed: Mapping[str, int]
    addresses: Addresses
    program: Program
    delivery: Delivery
    restarts: Restarts
    success: str
    chief_first: bool
    checkpoints: str
    hang_timeout: float
    deadline: float
    logs: str
    grace: float
    cleanup: str
    document: Mapping[str, Any]
    digest: str

    def resized(self, replicas: Mapping[str, int]) -> Job:
        """The same job with other counts of tasks."""
        return job_of({**self.document, "replicas": dict(replicas)})

    @functools.cached_property
    def tasks(self) -> tuple[Task, ...]:
        """Every task of the run, by role and index."""
        return tuple(Task(role, i) for role, n in self.replicas.items() for i in range(n))

    @functools.cached_property
    def program_digest(self) -> str:
        """Identifies what trains: children that were started for another one must restart."""
        policies = ("timeout", "refresh")
        code = {k: v for k, v in self.document["code"].items() if k not in policies}
        return _digest([*(self.document[key] for key in ("run", "mode", "program")), code])

    @property
    def source(self) -> Source:
        """Where the program's code is."""
        return self.delivery.source

    @property
    def python(self) -> str:
        """The Python in program.command, if any; a relative path is in the code."""
        word = self.program.command[0]
        if not re.fullmatch(r"(.*/)?python[0-9.]*", word):
            return ""
        return os.path.join(self.program.working_dir, word) if "/" in word else word

    @property
    def python_in_code(self) -> bool:
        """Whether that Python is in the code."""
        return self.python.find("/") > 0

    @property
    def server_needs_code(self) -> bool:
        """Whether a server needs the code: for its Python, or for TensorFlow itself."""
        return self.python_in_code or self.delivery.requirements

    @functools.cached_property
    def cluster_digest(self) -> str:
        """Identifies the ClusterSpec."""
        return _digest([self.listed, self.document["addresses"]])


def read_job(text: str | bytes) -> Job:
    """The job that job.json describes. Raises LauncherError(CONFIGURATION) with every mistake."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise LauncherError(ExitCode.CONFIGURATION, f"job.json is not JSON: {error}") from None
    return job_of(document)


def job_of(document: Any) -> Job:
    """The same for a document that is already parsed."""
    version = document.get("version") if isinstance(document, dict) else None
    if version != JOB_VERSION:
        raise LauncherError(
            ExitCode.CONFIGURATION,
            f"job.json has version {json.dumps(version)}; this launcher reads version "
            f"{JOB_VERSION}: use a chart and a launcher of the same release "
            "(launcher.inject: true does so)",
        )
    mistakes: list[str] = []
    root = Reader(document, "", mistakes)
    root.asked.add("version")
    root.asked.add("pods")  # a hash of the pods' templates: part of the job's digest
    mode = MODES[root.choice("mode", list(MODES))]
    addresses = root.part("addresses")
    program = root.part("program")
    restarts = root.part("restarts")
    replicas = _replicas(root.part("replicas"), mode)
    job = Job(
        release=root.text("release"),
        run=root.text("run"),
        mode=mode,
        replicas=replicas,
        listed=_listed(root.part("maxReplicas"), mode, replicas),
        addresses=Addresses(
            host=addresses.text("host"),
            port=addresses.whole("port", 1, 65535),
            ports_per_task=addresses.flag("portsPerTask", optional=True),
        ),
        program=_program(program),
        delivery=read_delivery(root.part("code")),
        restarts=Restarts(
            limit=restarts.whole("limit", 0, 1_000_000),
            permanent_codes=_codes(restarts),
            refill=restarts.seconds("refill"),
        ),
        success=root.choice("success", SUCCESSES),
        chief_first=root.flag("chiefFirst"),
        checkpoints=root.text("checkpoints", empty=True),
        hang_timeout=root.seconds("hangTimeout"),
        deadline=root.seconds("deadline"),
        logs=root.text("logs", empty=True),
        grace=root.seconds("grace"),
        cleanup=root.choice("cleanup", CLEANUPS),
        document=document,
        digest=_digest(document),
    )
    for part in (root, addresses, restarts):
        part.done()
    fail_with(mistakes, "the values")
    return job


def _digest(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:12]


def _replicas(part: Reader, mode: Mode) -> dict[str, int]:
    # TensorFlow knows only one chief and one evaluator.
    counts = {
        role: part.whole(role, least, 1 if role == "chief" else MOST_TASKS)
        for role, least in mode.least.items()
    }
    if part.document.get(EVALUATOR):
        counts[EVALUATOR] = part.whole(EVALUATOR, 0, 1)
    part.asked.add(EVALUATOR)
    part.done()
    return counts


def _listed(part: Reader, mode: Mode, replicas: Mapping[str, int]) -> dict[str, int]:
    """The counts of tasks in the ClusterSpec, which never lists the evaluator."""
    listed = {role: count for role, count in replicas.items() if role != EVALUATOR}
    most = part.whole("worker", 0, MOST_TASKS)
    if most and not mode.joins:
        why = "tasks restart there when the size changes"
        part.wrong("worker", f"0 in mode {mode.name}: {why}", most)
    elif most and most < listed["worker"]:
        least = f"at least replicas.worker ({listed['worker']})"
        part.wrong("worker", f"0, or {least}: it is how many workers the ClusterSpec lists", most)
    part.done()
    return {**listed, "worker": max(most, listed["worker"])}


def _program(part: Reader) -> Program:
    def is_env(v: Any) -> bool:
        return isinstance(v, dict) and all(
            isinstance(name, str)
            and re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name)
            and isinstance(item, str)
            for name, item in v.items()
        )

    program = Program(
        command=part.texts("command", "a list of at least one string, like [python, train.py]", 1),
        args=part.texts("args", "a list of strings"),
        env=part.take("env", "a mapping of variable names to strings", is_env, {}),
        flags=part.flag("flags"),
        working_dir=part.text("workingDir", empty=True),
    )
    if Path(program.working_dir).is_absolute() or ".." in Path(program.working_dir).parts:
        part.wrong("workingDir", "a folder inside the code folder", program.working_dir)
    words = {"command": program.command, "args": program.args, "env": program.env.values()}
    for key, texts in words.items():
        if any("\0" in text for text in texts):  # no process can be started with it
            part.wrong(key, "without NUL characters", part.document[key])
    part.done()
    return program


def _codes(part: Reader) -> tuple[int, ...]:
    def fits(v: Any) -> bool:
        return isinstance(v, list) and all(type(c) is int and 1 <= c <= 255 for c in v)

    return tuple(part.take("permanentCodes", "a list of exit codes from 1 to 255", fits, []))
