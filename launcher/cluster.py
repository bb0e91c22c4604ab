"""The ClusterSpec: who listens where. Pure."""

from __future__ import annotations

from launcher.identity import ROLES, Task
from launcher.modes import EVALUATOR
from launcher.settings import Addresses, Job

# With one host for all tasks each role has a range of ports of its own.
PORTS_PER_ROLE = 100


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
