"""Creates and removes the cgroups of a box: one in every hierarchy of this machine."""

from __future__ import annotations

import contextlib
import os
from functools import partial
from pathlib import Path

from tests.cluster.commands import ClusterError, within

CGROUPS = Path("/sys/fs/cgroup")
PATIENCE_SECONDS = 15


def hierarchies() -> list[Path]:
    """The mount points of the cgroup v1 hierarchies, or the one of cgroup v2."""
    return cgroup_mounts("cgroup") or [CGROUPS]


def cgroup_mounts(*kinds: str) -> list[Path]:
    """The mount points of file systems of these kinds: cgroup, cgroup2."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return [Path(mount[1]) for mount in mounts if mount[2] in kinds]


def make_cgroups(name: str) -> None:
    """Create a cgroup in every hierarchy, because the kubelet expects its root to exist."""
    for hierarchy in hierarchies():
        group = hierarchy / name
        # cgroup v2: enable all controllers of the machine for the box's pods.
        if (hierarchy / "cgroup.controllers").exists():
            for controller in (hierarchy / "cgroup.controllers").read_text().split():
                with contextlib.suppress(OSError):
                    (hierarchy / "cgroup.subtree_control").write_text(f"+{controller}")
        group.mkdir(exist_ok=True)
        # cgroup v1: these are empty at first, so we copy the parent's.
        for setting in ("cpuset.cpus", "cpuset.mems"):
            if (hierarchy / setting).exists() and not (group / setting).read_text().strip():
                (group / setting).write_text((hierarchy / setting).read_text())


def remove_cgroups(name: str) -> None:
    """Wait until a cgroup's processes are gone, and remove it from every hierarchy."""

    def gone(group: Path) -> bool:
        for folder, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):  # its processes are still ending
                os.rmdir(folder)
        return not group.exists()

    # If both kinds are mounted, containers have a group in each.
    for hierarchy in cgroup_mounts("cgroup", "cgroup2"):
        group = hierarchy / name
        if not within(PATIENCE_SECONDS, partial(gone, group)):
            raise ClusterError(f"{group} is still in use; end its processes")
