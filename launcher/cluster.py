"""The ClusterSpec and the three ways a program is told it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from launcher.identity import ROLES, Task
from launcher.modes import EVALUATOR
from launcher.settings import Addresses, Job

# With one host for all tasks each role has a range of ports of its own.
PORTS_PER_ROLE = 100


@dataclass(frozen=True)
class Invocation:
    """What a child process is started with, beyond the inherited environment."""

    argv: tuple[str, ...]
    env: Mapping[str, str]


def address(addresses: Addresses, task: Task) -> str:
    """The host:port at which a task's TensorFlow server listens."""
    port = addresses.port
    if addresses.ports_per_task:
        port += ROLES.index(task.role) * PORTS_PER_ROLE + task.index
    host = addresses.host.replace("{role}", task.role).replace("{index}", str(task.index))
    return f"{host}:{port}"


def spec(job: Job) -> dict[str, list[str]]:
    """The ClusterSpec: each role's addresses in the order of their indices."""
    return {
        role: [address(job.addresses, Task(role, i)) for i in range(count)]
        for role, count in job.replicas.items()
        if role != EVALUATOR
    }


def invocation(job: Job, task: Task, generation: int) -> Invocation:
    """The program's argv and environment for one task.

    The ClusterSpec comes as TF_CONFIG (https://www.tensorflow.org/guide/distributed_training),
    as PS_HOSTS, WORKER_HOSTS, JOB_NAME and TASK_INDEX, and with `program.flags` as the flags
    of the same names that TensorFlow 1 programs take.
    """
    cluster = spec(job)
    variables = {
        **{f"{role.upper()}_HOSTS": ",".join(hosts) for role, hosts in cluster.items()},
        "JOB_NAME": task.role,
        "TASK_INDEX": str(task.index),
    }
    flags = [f"--{name.lower()}={value}" for name, value in variables.items()]
    tf_config = {"cluster": cluster, "task": {"type": task.role, "index": task.index}}
    program = job.program
    return Invocation(
        argv=(*program.command, *program.args, *(flags if program.flags else ())),
        env={
            **program.env,
            **variables,
            "TF_CONFIG": json.dumps(tf_config),
            "TFRUN_RUN": job.run,
            "TFRUN_GENERATION": str(generation),
        },
    )
