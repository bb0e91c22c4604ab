"""Installs the Debian packages that the Kubernetes in a box needs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.cluster.commands import ClusterError, run
from tests.cluster.progress import step

CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
# A file or a command that shows that a package is installed -> the package.
NEEDED = {
    "unshare": "util-linux",
    "ip": "iproute2",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "mount": "mount",
    "runc": "runc",
    "gcc": "gcc",
    "/usr/include/stdlib.h": "libc6-dev",
    "pkg-config": "pkg-config",
    "debootstrap": "debootstrap",
    "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",  # missing on Ubuntu
    CERTIFICATES: "ca-certificates",  # for Go's downloads
    "mount.nfs": "nfs-common",
    "rpcbind": "rpcbind",
    "ganesha.nfsd": "nfs-ganesha",
    "/usr/share/doc/nfs-ganesha-vfs": "nfs-ganesha-vfs",
    "/usr/include/nfsc/libnfs.h": "libnfs-dev",
    "/usr/include/fuse3": "libfuse3-dev",
    "fusermount3": "fuse3",
}
LOCK_SECONDS = 300  # for another apt-get to end, and for ours
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def require(needed: Mapping[str, str] = NEEDED) -> None:
    """Install missing packages, or fail with the command that installs them."""
    wanted, half = missing(needed), half_installed(needed)
    if not (wanted or half):
        return
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *wanted]
    if os.geteuid() != 0 or not shutil.which("apt-get", path=SYSTEM_PATH):
        raise ClusterError(
            "the Kubernetes in a box needs Debian packages that are not installed; run as root:\n"
            f"    apt-get update && {' '.join(install)}"
        )
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    with step(f"installing {', '.join(wanted) or 'what an interrupted installation has left'}"):
        if half:
            run(["dpkg", "--configure", "-a"], env=environment)
        run(["apt-get", "update"])
        # A new machine may be updating itself. An interrupted apt-get stops between two packages.
        wait = ["-o", f"DPkg::Lock::Timeout={LOCK_SECONDS}"]
        run([*install, *wait], env=environment, grace=LOCK_SECONDS)


def missing(needed: Mapping[str, str] = NEEDED) -> list[str]:
    """The packages that are not installed."""
    return sorted({package for sign, package in needed.items() if not present(sign)})


def half_installed(needed: Mapping[str, str]) -> bool:
    """Whether dpkg was interrupted at one of the packages: its files exist, but it may not work."""
    if os.geteuid() != 0 or not shutil.which("dpkg", path=SYSTEM_PATH):
        return False
    names = {line.split()[0] for line in run(["dpkg", "--audit"]).splitlines() if line[:1] == " "}
    return not names.isdisjoint(needed.values())


def present(sign: str) -> bool:
    """Whether a file, or a command on the system's path, exists."""
    if sign.startswith("/"):
        return Path(sign).exists()
    return shutil.which(sign, path=SYSTEM_PATH) is not None
