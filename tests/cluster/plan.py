"""The plan of a box: its names, addresses, folders and tools, chosen before it starts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from ipaddress import IPv4Network
from pathlib import Path

DOMAIN = "cluster.local"
NFS_EXPORT = "/export"


@dataclass(frozen=True)
class Node:
    """One node of the cluster."""

    name: str
    ip: str
    pods: str  # the subnet of its pods


@dataclass(frozen=True)
class Plan:
    """All that the first process of a box needs to know. It arrives there as JSON."""

    box: str  # its name
    subnet: str  # a /16: nodes in .0.0/24, pods in .16.0/20, services in .128.0/20
    node: Node
    folder: str  # the box's state
    tools: str  # the folder of its executables
    pause_image: str
    mount_nfs: str  # a user-space mount.nfs; empty if the kernel has an NFS client

    @property
    def state(self) -> Path:
        """The folder of the box's state."""
        return Path(self.folder)

    def hold(self, component: str) -> Path:
        """The component is stopped while this file exists."""
        return self.state / "hold" / component

    @property
    def host_ip(self) -> str:
        """The machine's address on its link to the box."""
        return self._address(1)

    @property
    def pods(self) -> str:
        """The subnet of the pods of all nodes."""
        return f"{self._address(16 << 8)}/20"

    @property
    def services(self) -> str:
        """The subnet of the cluster's services."""
        return f"{self._address(128 << 8)}/20"

    @property
    def api_service_ip(self) -> str:
        """The address of the service `kubernetes`: the first one."""
        return self._address((128 << 8) + 1)

    def _address(self, number: int) -> str:
        return str(IPv4Network(self.subnet)[number])

    @property
    def cgroup(self) -> str:
        """The cgroup that holds all pods of the box."""
        return f"/tfrun-{self.box}"

    @property
    def api(self) -> str:
        """The API server's address."""
        return f"https://{self.node.ip}:6443"

    def to_json(self) -> str:
        """One line that `from_json` reads."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Plan:
        """The plan that `to_json` wrote."""
        data = json.loads(text)
        data["node"] = Node(**data["node"])
        return Plan(**data)
