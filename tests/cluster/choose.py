"""Chooses the cluster of the demo and the tests: one that you name, kind, or the box."""

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
from tests.cluster.commands import ClusterError, run
from tests.cluster.plan import NFS_EXPORT
from tests.cluster.progress import announce


@dataclass(frozen=True)
class Cluster:
    """A Kubernetes cluster, the tools that talk to it, and what its pods can use."""

    kubeconfig: Path  # contains only this context
    context: str
    kubectl: Path
    helm: Path  # Helm 4
    image: str  # the TensorFlow image
    image_again: str  # a second name of that image, if it has one
    nfs_server: str
    nfs_path: str
    nfs_folder: Path  # the same export, as a folder of this machine

    @property
    def helm3(self) -> Path:
        """Helm 3. Builds it on first use, because the demo does not need it."""
        return binaries.tool("helm3")


def ensure(context: str | None = None) -> Cluster:
    """A running cluster: the context, if one is named; else kind, if Docker answers; else the box.

    The current context of the kubeconfig is never used by itself. Progress goes to stderr.
    """
    if context:
        return named(context, os.environ)
    if kind.possible():
        tools = ["kind", "helm"] + ["kubectl"] * (not shutil.which("kubectl"))
        announce(binaries.steps(tools) + kind.STEPS)
        binaries.tools(*tools)
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
    """Stop the cluster that `ensure()` started, kind or the box. What was built is kept."""
    if kind.possible():
        kind.down()
    Box().down()


def named(context: str, environment: Mapping[str, str]) -> Cluster:
    """The cluster of a context. Environment variables name its NFS export and image."""
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
    """The full name of an image of Docker Hub; images of other registries keep their name."""
    registry, slash, _ = image.partition("/")
    elsewhere = slash and re.search(r"[.:]|^localhost$", registry)
    return image if elsewhere else f"docker.io/{image}"


def any_kubectl() -> Path:
    """The machine's kubectl, if it has one, because building it takes minutes."""
    return Path(shutil.which("kubectl") or binaries.tool("kubectl"))
