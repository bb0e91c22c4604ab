"""The real Argo CD, as processes in the box, and a git repository that it deploys from.

    with argocd.start(cluster, box, tmp_path) as argo:
        revision = argo.repository.commit({"runs/mnist.yaml": "..."})
        argo.apply(application)
        argo.wait_for("mnist", revision, "Synced", "Healthy")

The processes end with the context, with the process that entered it, or with the box.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.cluster import binaries, packages
from tests.cluster.argocd_processes import COMMANDS, NAMESPACE
from tests.cluster.box import REPOSITORY, Box
from tests.cluster.choose import Cluster
from tests.cluster.commands import ClusterError, last_lines, run
from tests.cluster.release import Release

# The package redis-server would start a service. This one contains the same program.
REDIS = "redis-check-rdb"
NEEDED = {"git": "git", REDIS: "redis-tools"}
REFRESH = {  # kind -> the annotation that makes Argo CD read the repository
    "applicationset": "argocd.argoproj.io/application-set-refresh=true",
    "application": "argocd.argoproj.io/refresh=normal",
}
SETTINGS: tuple[dict[str, Any], ...] = (
    {"kind": "ConfigMap", "metadata": {"name": "argocd-cm"}},
    {
        "kind": "Secret",
        "metadata": {"name": "argocd-secret"},
        "stringData": {"server.secretkey": "of the tests"},
    },
    {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "AppProject",
        "metadata": {"name": "default"},
        "spec": {
            "sourceRepos": ["*"],
            "destinations": [{"server": "*", "namespace": "*"}],
            "clusterResourceWhitelist": [{"group": "*", "kind": "*"}],
        },
    },
)


@dataclass(frozen=True)
class Repository:
    """A bare git repository with the chart and the launcher, and a clone to commit from."""

    bare: Path
    clone: Path

    @property
    def url(self) -> str:
        """Its address."""
        return f"file://{self.bare}"

    def commit(self, files: Mapping[str, str | None]) -> str:
        """Write files, or delete those whose text is None. Return the new revision."""
        for name, text in files.items():
            file = self.clone / name
            file.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                file.unlink()
            else:
                file.write_text(text)
        self._git("add", "--all")
        self._git("commit", "--quiet", "--message", "a change")
        self._git("push", "--quiet", "origin", "main")
        return self._git("rev-parse", "HEAD").strip()

    def _git(self, *words: str) -> str:
        return git("-C", str(self.clone), *words)


@dataclass(frozen=True)
class ArgoCD:
    """Argo CD while it runs."""

    admin: Release  # for kubectl in its namespace
    repository: Repository

    def apply(self, *manifests: Mapping[str, Any]) -> None:
        """Apply objects of Argo CD, in its namespace."""
        apply(self.admin, self.repository.clone.parent, manifests)

    def refresh(self, name: str, kind: str = "application") -> None:
        """Let Argo CD read the repository now. By itself it reads it every 2 to 3 minutes."""
        self.admin.kubectl("annotate", "--overwrite", kind, name, REFRESH[kind])

    def deploy(self, name: str, files: Mapping[str, str | None], sync: str, health: str) -> str:
        """Commit files, and wait until an Application has this state at the new revision."""
        revision = self.repository.commit(files)
        self.refresh(name)
        self.wait_for(name, revision, sync, health)
        return revision

    def status(self, name: str) -> dict[str, Any]:
        """The status of an Application."""
        found = json.loads(self.admin.kubectl("get", "application", name, "-o", "json"))
        status: dict[str, Any] = found.get("status", {})
        return status

    def wait_for(
        self, name: str, revision: str, sync: str, health: str, seconds: float = 90
    ) -> None:
        """Wait until an Application exists and has this state at this revision."""
        self.admin.kubectl("wait", "--for=create", f"application/{name}", f"--timeout={seconds}s")
        path = "{.status.sync.revision} {.status.sync.status} {.status.health.status}"
        try:
            what = ["application", name]
            self.admin.wait_for(what, path, f"^{revision} {sync} {health}$", seconds)
        except ClusterError as error:
            raise ClusterError(f"{error}\n{json.dumps(self.status(name), indent=1)}") from None


@contextmanager
def start(cluster: Cluster, box: Box, folder: Path) -> Iterator[ArgoCD]:
    """Argo CD in a box, until the context ends. The folder holds its files and the repository."""
    packages.require(NEEDED)
    programs = binaries.argocd()
    admin = Release(cluster, NAMESPACE, "")
    files = folder / "argocd"
    (files / "bin").mkdir(parents=True)
    (files / "bin/helm").symlink_to(cluster.helm)
    (files / "bin/redis-server").symlink_to(shutil.which(REDIS, path=packages.SYSTEM_PATH) or REDIS)
    shutil.copy(cluster.kubeconfig, files / "kubeconfig")
    repository = make_repository(folder)
    try:
        prepare(admin, folder, programs)
        with processes(box, files, programs):
            yield ArgoCD(admin, repository)
    finally:
        remove(admin, programs)


@contextmanager
def processes(box: Box, folder: Path, programs: Path) -> Iterator[None]:
    """Argo CD's processes, in a PID namespace of their own inside the box."""
    inside = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    main = [sys.executable, "-m", "tests.cluster.argocd_processes", str(folder), str(programs)]
    path = {"PATH": packages.SYSTEM_PATH, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        box.enter(*inside, *main),
        cwd=REPOSITORY,
        env=path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C ends it through its stdin
    )
    assert process.stdin
    assert process.stdout
    assert process.stderr
    with process.stdout, process.stderr:
        try:
            if process.stdout.readline() != "ready\n":
                complaint = process.stderr.read()
                logs = "\n".join(f"{name}:\n{log_end(folder, name)}" for name in COMMANDS)
                raise ClusterError(f"Argo CD did not start: {complaint}\n{logs}")
            yield
        finally:
            process.stdin.close()
            process.wait()


def log_end(folder: Path, name: str) -> str:
    """The last lines of a process's log."""
    log = folder / f"{name}.log"
    return last_lines(log.read_text(errors="replace")) if log.exists() else "    no log"


def make_repository(folder: Path) -> Repository:
    """Create the repository with the working tree's chart and launcher."""
    repository = Repository(folder / "runs.git", folder / "clone")
    git("init", "--quiet", "--bare", "--initial-branch=main", str(repository.bare))
    git("clone", "--quiet", repository.url, str(repository.clone))
    git("-C", str(repository.clone), "checkout", "--quiet", "-B", "main")
    for name in ("charts", "launcher"):
        unneeded = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, repository.clone / name, symlinks=True, ignore=unneeded)
    repository.commit({})
    return repository


def git(*words: str) -> str:
    """What git prints. It reads no settings of this user."""
    who = ("-c", "user.name=tests", "-c", "user.email=tests@localhost")
    settings = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    return run(["git", *who, *words], env=os.environ | settings)


def prepare(admin: Release, folder: Path, programs: Path) -> None:
    """Create Argo CD's CRDs, namespace and settings."""
    remove(admin, programs)  # what a killed process has left
    crds = sorted((programs / "crds").iterdir())
    # On the server side, because the CRDs are too large for the annotation of the other way.
    admin.kubectl("apply", "--server-side", *(f"--filename={file}" for file in crds))
    names = [yaml.safe_load(file.read_text())["metadata"]["name"] for file in crds]
    admin.kubectl("wait", "--for=condition=Established", *(f"crd/{name}" for name in names))
    admin.kubectl("create", "namespace", NAMESPACE)
    apply(admin, folder, SETTINGS)


def apply(admin: Release, folder: Path, manifests: Sequence[Mapping[str, Any]]) -> None:
    """Apply objects in Argo CD's namespace."""
    part = {"app.kubernetes.io/part-of": "argocd"}  # Argo CD reads only settings with this label
    items = [
        {"apiVersion": "v1", **each, "metadata": {"labels": part, **each["metadata"]}}
        for each in manifests
    ]
    file = folder / "objects.json"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    admin.kubectl("apply", f"--filename={file}")


def remove(admin: Release, programs: Path) -> None:
    """Delete Argo CD's objects from the cluster. Its Applications lose their finalizers."""
    if not admin.kubectl("get", "crd", "applications.argoproj.io", "--ignore-not-found"):
        return
    for kind in REFRESH:
        for name in admin.kubectl("get", kind, "-o", "name").split():
            forget = json.dumps({"metadata": {"finalizers": None}})
            admin.kubectl("patch", name, "--type=merge", f"--patch={forget}")
            admin.kubectl("delete", name, "--wait=false", "--ignore-not-found")
    admin.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found")
    crds = sorted((programs / "crds").iterdir())
    admin.kubectl("delete", "--ignore-not-found", *(f"--filename={file}" for file in crds))
