"""The ClusterSpec: who listens where. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from launcher.shared.identity import ROLES, Task
from launcher.shared.job import Addresses, Job
from launcher.shared.modes import Reach

# With one host for all tasks each role has a range of ports of its own.
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

    `hosts` are IP addresses that are known. A pod that was recreated has a new IP address, but its
    name can resolve to the old one for half a minute. Only tasks whose loss restarts others are
    listed by IP address, so no other task keeps an old address.
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
