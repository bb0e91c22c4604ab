"""Fixtures of the tests on the real Kubernetes: the cluster, and a namespace for each test."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from tests.cluster import Cluster, ensure
from tests.cluster.commands import run
from tests.cluster.release import Folders, Release, put_on_nfs

EXAMPLE = Path(__file__).parents[2] / "examples" / "breast-cancer"
PACED = Path(__file__).parent / "programs" / "paced.py"
GONE_SECONDS = 300


class Places:
    """Namespaces, and folders on the export, which are removed when the tests are over."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.names: list[str] = []
        self.admin = Release(cluster, "default", "")

    def make(self) -> Release:
        name = f"tfrun-e2e-{uuid.uuid4().hex[:6]}"
        self.names.append(name)
        self.admin.kubectl("create", "namespace", name)
        return Release(self.cluster, name, "run")

    def leave(self, name: str) -> None:
        """Deletes the namespace without waiting: the next test can run meanwhile."""
        self.admin.kubectl("delete", "namespace", name, "--wait=false")

    def forget(self) -> None:
        """Waits until all namespaces are gone, then removes the folders that their pods mounted."""
        names = [f"namespace/{name}" for name in self.names]
        if names:
            self.admin.kubectl("wait", "--for=delete", *names, f"--timeout={GONE_SECONDS}s")
        for name in self.names:
            run(["rm", "-rf", str(self.cluster.nfs_folder / name)])


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    return ensure(os.environ.get("TFRUN_CONTEXT") or None)


@pytest.fixture(scope="session")
def places(cluster: Cluster) -> Iterator[Places]:
    places = Places(cluster)
    yield places
    places.forget()


@pytest.fixture
def release(places: Places) -> Iterator[Release]:
    """A release, not yet installed, in a new namespace."""
    release = places.make()
    yield release
    places.leave(release.namespace)


@pytest.fixture
def on_nfs(release: Release) -> Callable[[Path], Folders]:
    """Puts a program on the export, with an empty data folder."""
    return lambda program: put_on_nfs(release.cluster, release.namespace, program)


@pytest.fixture
def paced(tmp_path: Path) -> Path:
    """A folder with the example, and paced.py, which trains slowly while a file `slow` exists."""
    folder = tmp_path / "paced"
    shutil.copytree(EXAMPLE, folder)
    shutil.copy(PACED, folder)
    return folder
