"""A task's settings: the only place where a task reads environment variables."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.shared.environment import Environment
from launcher.shared.identity import Task, task_of_pod
from launcher.shared.job import JOB_VERSION, MOST_TASKS, POLICIES, Job, job_of
from launcher.shared.modes import EVALUATOR, MODES

DEFAULT_PORT = 2222


@dataclass(frozen=True)
class TaskSettings:
    """What a task must know to start.

    It asks the `controller` (host, port) what to do; without a controller it runs `job`.
    `source` is the mounted code folder, `secret` the mounted Secret to fetch code with, `work` the
    folder to write to. With `leave` the launcher ends with the run instead of waiting until its pod
    is deleted. `peers_timeout` is in seconds.
    """

    task: Task
    address: str
    revision: str
    controller: tuple[str, int] | None
    job: Job | None
    work: Path
    source: Path | None
    secret: Path | None
    leave: bool
    peers_timeout: float


def task_settings(
    environ: Mapping[str, str], program: Sequence[str] = (), flags: bool = False
) -> TaskSettings:
    """The settings of `launcher task [--flags] [-- PROGRAM ...]`.

    Raises LauncherError(CONFIGURATION) with every mistake.
    """
    env = Environment(environ)
    pod_name = env.text("TFRUN_POD_NAME") or env.text("HOSTNAME") or socket.gethostname()
    task = Task("worker", 0)
    try:
        task = task_of_pod(pod_name, environ.get("TFRUN_ROLE"))
    except ValueError as error:
        env.mistakes += error.args
    controller = env.host_and_port("TFRUN_CONTROLLER") if env.text("TFRUN_CONTROLLER") else None
    job = None
    if controller and (program or flags):
        env.mistakes.append(
            "a program on the command line must be left out if TFRUN_CONTROLLER is set: "
            "the controller says what to run"
        )
    if not controller:
        job = _standalone_job(env, task, pod_name, program, flags)
    source, secret = env.text("TFRUN_SOURCE"), env.text("TFRUN_SECRET")
    settings = TaskSettings(
        task=task,
        address=env.text("TFRUN_POD_IP"),
        revision=env.text("TFRUN_REVISION"),
        controller=controller,
        job=job,
        work=Path(env.text("TFRUN_WORK", "tfrun-work")).absolute(),
        source=Path(source) if source else None,
        secret=Path(secret) if secret else None,
        leave=env.flag("TFRUN_LEAVE"),
        peers_timeout=env.whole("TFRUN_PEERS_TIMEOUT", 600, 1, 10**6),
    )
    env.done()
    return settings


def _standalone_job(
    env: Environment, task: Task, pod_name: str, program: Sequence[str], flags: bool
) -> Job | None:
    """The run that the environment describes if no controller is named."""
    name = env.text("TFRUN_MODE", "parameter-server")
    mode = MODES.get(name)
    if mode is None:
        env.mistakes.append(f"TFRUN_MODE must be one of {', '.join(MODES)}; got {name!r}")
        return None
    replicas = {
        role: env.whole(f"{role.upper()}_REPLICAS", None, least, MOST_TASKS)
        for role, least in mode.least.items()
    }
    replicas[EVALUATOR] = env.whole("EVALUATOR_REPLICAS", 0, 0, 1)
    if not program:
        env.mistakes.append(
            "a program must follow --, like `launcher task -- python train.py`; "
            "or TFRUN_CONTROLLER must name a controller that says what to run"
        )
    host = env.text("TFRUN_HOST")
    if not host:
        suffix = f"{task.role}-{task.index}"
        base = pod_name[: -len(suffix)] if pod_name.endswith(suffix) else ""
        service = env.text("TFRUN_SERVICE")
        host = base + "{role}-{index}" + (f".{service}" if service else "")
    port = env.whole("TFRUN_PORT", DEFAULT_PORT, 1, 65535)
    grace = env.whole("TFRUN_GRACE", 25, 0, 10**6)
    if env.mistakes:
        return None
    if not task.index < replicas.get(task.role, 0):
        env.mistakes.append(
            f"{task.role.upper()}_REPLICAS must be more than this task's ordinal: this is "
            f"{task}; got {replicas.get(task.role, 0)}"
        )
        return None
    return job_of(
        {
            **POLICIES,
            "version": JOB_VERSION,
            "release": pod_name,
            "run": "standalone",
            "mode": mode.name,
            "replicas": replicas,
            "maxReplicas": {"worker": 0},
            "addresses": {"host": host, "port": port},
            "program": {
                "command": list(program),
                "args": [],
                "env": {},
                "flags": flags,
                "workingDir": "",
            },
            "code": {"image": {"path": str(Path.cwd())}},
            "grace": grace,
        }
    )
