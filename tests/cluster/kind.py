"""The cluster on machines with Docker: kind runs its nodes as containers.

Implemented, not yet tested: the commands follow the documentation of kind and Docker. The NFS
server is also a container. It is on kind's network, so that the nodes reach it.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import binaries
from tests.cluster.commands import run
from tests.cluster.components import ganesha_config
from tests.cluster.progress import step

NAME = "tfrun"
STEPS = 3  # at most: the cluster, the image, the NFS server
CONTEXT = f"kind-{NAME}"  # kind chooses this name
IMAGE = "tensorflow/tensorflow:2.21.0"
NETWORK = "kind"  # kind's name for the Docker network of its nodes
NFS = f"{NAME}-nfs"  # the NFS server's image and container
DOCKERFILE = """FROM debian:bookworm-slim
RUN apt-get update \\
 && apt-get install --yes --no-install-recommends nfs-ganesha nfs-ganesha-vfs rpcbind \\
 && rm -rf /var/lib/apt/lists/*
COPY ganesha.conf /etc/ganesha/ganesha.conf
CMD rpcbind && mkdir -p /run/ganesha && exec ganesha.nfsd -F -L /dev/stdout
"""

Runner = Callable[[Sequence[str | Path]], str]


@dataclass(frozen=True)
class Kind:
    """A kind cluster and its NFS server."""

    kubeconfig: Path
    nfs_server: str
    nfs_folder: Path


def possible() -> bool:
    """Whether a Docker engine answers."""
    docker = shutil.which("docker")
    return bool(docker) and subprocess.run(["docker", "info"], capture_output=True).returncode == 0


def up(kind: Path | None = None, runner: Runner = run) -> Kind:
    """Start the cluster and the NFS server, unless they run."""
    kind = kind or binaries.tool("kind")
    folder = binaries.cache() / "kind"
    export, kubeconfig = folder / "nfs", folder / "kubeconfig"
    export.mkdir(parents=True, exist_ok=True)
    export.chmod(0o777)  # pods of every user write there
    if NAME not in runner([kind, "get", "clusters"]).split():
        with step("starting kind"):
            create = ["create", "cluster", "--name", NAME, "--wait", "120s"]
            runner([kind, *create, "--kubeconfig", kubeconfig])
    runner([kind, "export", "kubeconfig", "--name", NAME, "--kubeconfig", kubeconfig])
    with step(f"loading {IMAGE}"):
        if not runner(["docker", "images", "--quiet", IMAGE]):
            runner(["docker", "pull", IMAGE])
        runner([kind, "load", "docker-image", IMAGE, "--name", NAME])
    if not runner(["docker", "ps", "--quiet", "--filter", f"name=^{NFS}$"]):
        with step("starting the NFS server"):
            start_nfs(export, runner)
    address = f'{{{{(index .NetworkSettings.Networks "{NETWORK}").IPAddress}}}}'
    server = runner(["docker", "inspect", "--format", address, NFS]).strip()
    return Kind(kubeconfig, server, export)


def start_nfs(export: Path, runner: Runner) -> None:
    """Build and start the NFS server's container."""
    with tempfile.TemporaryDirectory() as context:
        Path(context, "Dockerfile").write_text(DOCKERFILE)
        Path(context, "ganesha.conf").write_text(ganesha_config("/data"))
        runner(["docker", "build", "--tag", NFS, context])
    runner(["docker", "rm", "--force", NFS])
    # The NFS server opens files by handle and takes the caller's identity, which needs privileges.
    start = ["docker", "run", "--detach", "--name", NFS, "--network", NETWORK, "--privileged"]
    runner([*start, "--volume", f"{export}:/data", NFS])


def down(kind: Path | None = None, runner: Runner = run) -> None:
    """Remove the cluster and the NFS server; the exported folder stays."""
    runner(["docker", "rm", "--force", NFS])
    runner([kind or binaries.tool("kind"), "delete", "cluster", "--name", NAME])
