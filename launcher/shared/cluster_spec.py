"""The ClusterSpec: the address of each task. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from launcher.shared.identity import ROLES, Task
from launcher.shared.job import Addresses, Job
from launcher.shared.modes import Reach

# Where all tasks share one host, each role has its own range of ports.
PORTS_PER_ROLE = 100


def address(addresses: Addresses, task: Task, ip: str = "") -> str:
    """The host:port at which a task's TensorFlow server listens: by name, or by its IP address."""
    port = addresses.port
    if addresses.ports_per_task:
        port += ROLES.index(task.role) * PORTS_PER_ROLE + task.index
    host = addresses.host.replace("{role}", task.role).replace("{index}", str(task.index))
    if ip:
        host = f"[{ip}]" if ":" in ip else ip
    return f"{host}:{port}"


def spec(job: Job, hosts: Mapping[Task, str]) -> dict[str, list[str]]:
    """The ClusterSpec: each role's addresses in the order of their indices.

    `hosts` are the known IP addresses. They replace names, because the name of a recreated pod can
    resolve to its old IP address for half a minute. A task whose loss restarts only itself stays
    listed by name, because tasks that run on would keep its old IP address.
    """
    losses = job.mode.losses
    return {
        role: [
            address(
                job.addresses,
                task,
                "" if losses[role] is Reach.ITSELF else hosts.get(task, ""),
            )
            for task in (Task(role, i) for i in range(count))
        ]
        for role, count in job.listed.items()
    }
