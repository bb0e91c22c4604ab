"""Which cluster the demo and the tests run on: one that a person names, kind, or the box."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import binaries, image, kind
from tests.cluster.box import Box
from tests.cluster.certificates import secret
from tests.cluster.plan import NFS_EXPORT
from tests.cluster.progress import ClusterError, run


@dataclass(frozen=True)
class Cluster:
    """A Kubernetes cluster, the tools that talk to it, and what its pods can use."""

    kubeconfig: Path  # holds exactly this context
    context: str
    kubectl: Path
    helm: Path  # Helm 4
    image: str  # TensorFlow, as pods name it
    image_again: str  # the same, by another name where it has one
    nfs_server: str
    nfs_path: str
    nfs_folder: Path  # the same export, as a folder of this machine

    @property
    def helm3(self) -> Path:
        """Helm 3, built when something asks for it: the demo does not."""
        return binaries.tool("helm3")


def ensure(context: str | None = None) -> Cluster:
    """The cluster, running: the context that is named, else kind where Docker is, else the box.

    A context is used only when it is named here, never because it happens to be the current one.
    Progress goes to stderr.
    """
    if context:
        return named(context, os.environ)
    if kind.possible():
        made = kind.up()
        return Cluster(
            kubeconfig=made.kubeconfig,
            context=kind.CONTEXT,
            kubectl=any_kubectl(),
            helm=binaries.tool("helm"),
            image=kind.IMAGE,
            image_again=in_full(kind.IMAGE),
            nfs_server=made.nfs_server,
            nfs_path=NFS_EXPORT,
            nfs_folder=made.nfs_folder,
        )
    box = Box()
    plan = box.up()
    tensorflow = image.tensorflow()
    return Cluster(
        kubeconfig=box.kubeconfig,
        context=box.context,
        kubectl=binaries.tool("kubectl"),
        helm=binaries.tool("helm"),
        image=tensorflow.name,
        image_again=tensorflow.again,
        nfs_server=plan.node.ip,
        nfs_path=NFS_EXPORT,
        nfs_folder=box.nfs_folder,
    )


def down() -> None:
    """Stop the cluster that `ensure()` started, be it kind or the box; what was built is kept."""
    if kind.possible():
        kind.down()
    Box().down()


def named(context: str, environment: Mapping[str, str]) -> Cluster:
    """A cluster of one's own; what only its owner can know comes from the environment."""
    nfs, folder = environment.get("TFRUN_NFS", ""), environment.get("TFRUN_NFS_FOLDER", "")
    missing = []
    if not re.fullmatch(r"[^:]+:/.*", nfs):
        missing.append(f"TFRUN_NFS must be SERVER:/PATH, an NFS export; got {nfs!r}")
    if not Path(folder).is_absolute() or not Path(folder).is_dir():
        missing.append(f"TFRUN_NFS_FOLDER must be a local mount of that export; got {folder!r}")
    if missing:
        raise ClusterError(f"to use the context {context}:\n    " + "\n    ".join(missing))
    kubectl = any_kubectl()
    view = ["config", "view", "--raw", "--minify", "--flatten", f"--context={context}"]
    kubeconfig = binaries.cache() / "context" / binaries.digest(context.encode())
    kubeconfig.parent.mkdir(parents=True, exist_ok=True)
    secret(kubeconfig, run([kubectl, *view]).encode())
    server, path = nfs.split(":", 1)
    name = environment.get("TFRUN_IMAGE") or kind.IMAGE
    return Cluster(
        kubeconfig=kubeconfig,
        context=context,
        kubectl=kubectl,
        helm=binaries.tool("helm"),
        image=name,
        image_again=in_full(name),
        nfs_server=server,
        nfs_path=path,
        nfs_folder=Path(folder),
    )


def in_full(image: str) -> str:
    """An image of Docker Hub by its full name; those of other registries have no other."""
    registry, slash, _ = image.partition("/")
    elsewhere = slash and re.search(r"[.:]|^localhost$", registry)
    return image if elsewhere else f"docker.io/{image}"


def any_kubectl() -> Path:
    """The machine's own kubectl; building it takes minutes."""
    return Path(shutil.which("kubectl") or binaries.tool("kubectl"))
