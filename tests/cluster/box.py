"""A real Kubernetes node in namespaces of its own on this machine.

When its first process ends, the kernel removes all its processes, mounts, interfaces and firewall
rules; `down` also removes its cgroups. What remains is a folder in the user's cache with the
images, so that the next start takes seconds; the empty folders /var/lib/kubelet and /var/lib/cni,
which are mount points; and the link /etc/mtab, if the machine had none.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path

import psutil

from tests.cluster import binaries, certificates, compiled, image, node, packages
from tests.cluster.cgroups import make_cgroups, remove_cgroups
from tests.cluster.commands import ClusterError, beside, run, within
from tests.cluster.components import (
    CONTAINERD,
    NFS,
    NFS_PORT,
    administrator,
    listens,
    node_is_ready,
)
from tests.cluster.plan import Node, Plan
from tests.cluster.progress import announce, say, step

REPOSITORY = Path(__file__).parents[2]
TOOLS = (*binaries.NODE, "kubectl", "helm")  # the box's programs and their clients
# Candidates for the network of a box, in order of preference.
SUBNETS = [f"10.{second}.0.0/16" for second in range(254, 223, -1)]
SUBNETS += [f"172.{second}.0.0/16" for second in range(31, 19, -1)]
PATIENCE_SECONDS = 15
AGAIN_SECONDS = 60  # for a component, and those that need it, to recover
# The port that shows whether a component runs.
PORTS = {NFS: NFS_PORT, "kube-apiserver": 6443, "kubelet": 10250}
MOUNT_TABLE = Path("/etc/mtab")
SMALL_BYTES = 10**8  # a smaller image is imported at once, without a step
STARTED: list[subprocess.Popen[str]] = []  # this process's children, which it must reap


@dataclass(frozen=True)
class Box:
    """A box by its name. Several can run beside each other."""

    name: str = "default"
    subnet: str | None = None  # a private /16; None: the first free one
    tensorflow: bool = True  # whether its pods can run the TensorFlow image

    @property
    def folder(self) -> Path:
        """The box's state."""
        return binaries.cache() / "box" / self.name

    @property
    def context(self) -> str:
        """The context's name in the kubeconfig file."""
        return "tfrun" if self.name == "default" else f"tfrun-{self.name}"

    @property
    def kubeconfig(self) -> Path:
        """A kubeconfig file with exactly this cluster."""
        return self.folder / "admin.kubeconfig"

    @property
    def nfs_folder(self) -> Path:
        """The folder that the box's NFS server exports."""
        return self.folder / "nfs"

    @property
    def link(self) -> str:
        """The name of the machine's end of the veth pair; the kernel allows 15 characters."""
        return f"tfrun-{self.name}"[:15]

    @property
    def cgroup(self) -> str:
        """The cgroup of all pods of the box, in every hierarchy."""
        return f"tfrun-{self.name}"

    def up(self) -> Plan:
        """Start the box unless it is ready, and return its plan."""
        with binaries.locked(self.folder.parent / f".{self.name}.lock"):
            if os.geteuid() != 0:
                raise ClusterError(
                    "the Kubernetes in a box needs root, because it creates namespaces. Run this "
                    "as root, or start Docker (docker info must succeed), or name a context of "
                    "your kubeconfig: make ... CONTEXT=name"
                )
            refuse_overlay(binaries.cache())
            images = self._prepare()
            plan = self.alive()
            if not plan or not within(PATIENCE_SECONDS, partial(is_well, plan)):
                with step(f"starting the Kubernetes in a box ({self.name})"):
                    self._clean()
                    try:
                        plan = self._start(images[0].name)
                    except BaseException:
                        self._clean()
                        raise
                    (self.folder / "plan.json").write_text(plan.to_json())
            self._import(images)
            return plan

    def down(self) -> None:
        """Stop the box. Its folder remains."""
        with binaries.locked(self.folder.parent / f".{self.name}.lock"):
            self._clean()

    def alive(self) -> Plan | None:
        """The plan of the box, if its start completed and its first process still runs."""
        plan = self.folder / "plan.json"
        return Plan.from_json(plan.read_text()) if self.process() and plan.exists() else None

    def process(self) -> psutil.Process | None:
        """The box's first process, if it runs."""
        with contextlib.suppress(FileNotFoundError, ValueError, psutil.NoSuchProcess):
            pid, created = json.loads((self.folder / "process.json").read_text())
            process = psutil.Process(pid)
            # The kernel reuses process ids, so we compare the creation time too.
            if process.create_time() == created and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None

    def enter(self, *command: str | Path) -> list[str]:
        """The command line that runs a command inside the box."""
        process = self.process()
        if not process:
            raise ClusterError(f"the box {self.name} does not run")
        inside = ["nsenter", f"--target={process.pid}", "--mount", "--net", "--pid", "--uts"]
        return [*inside, "--", *(str(word) for word in command)]

    def nfs_stop(self) -> None:
        """Kill the NFS server, and keep it stopped."""
        self._hold(NFS, True)

    def nfs_start(self) -> None:
        """Restart the NFS server, and wait until it listens."""
        self._hold(NFS, False)

    @contextlib.contextmanager
    def without(self, component: str) -> Iterator[None]:
        """Keep a component of PORTS stopped; then restart it and wait until the node is ready."""
        try:
            self._hold(component, True)
            yield
        finally:
            plan = self._hold(component, False)
            if not within(AGAIN_SECONDS, partial(is_well, plan)):
                raise ClusterError(f"{component} was restarted, but the box did not recover")

    def _hold(self, component: str, held: bool) -> Plan:
        plan = self.alive()
        if not plan:
            raise ClusterError(f"the box {self.name} does not run")
        if held:
            plan.hold(component).touch()
        else:
            plan.hold(component).unlink(missing_ok=True)
        address = (plan.node.ip, PORTS[component])
        if not within(AGAIN_SECONDS, lambda: listens(address) != held):
            raise ClusterError(f"it did not stop or start: see {self.folder}/log/{component}.log")
        return plan

    def _prepare(self) -> list[image.Image]:
        """Install and build what is missing, images and tools in parallel. Return the images."""
        wanted = packages.missing()
        with_tensorflow = self.tensorflow and not image.is_made()
        announce(
            bool(wanted)
            + binaries.steps(TOOLS)
            + (image.STEPS + 1) * with_tensorflow  # and its import
            + (not self.alive())
        )
        if not packages.present(packages.CERTIFICATES):
            packages.require()

        images: list[image.Image] = []

        def make_images() -> None:
            packages.require()
            images.append(image.pause())
            if self.tensorflow:
                images.append(image.tensorflow())

        beside(partial(binaries.tools, *TOOLS), make_images)
        return images

    def _start(self, pause_image: str) -> Plan:
        """Start the box's processes and wait until all of them are ready."""
        mount_nfs = "" if kernel_mounts_nfs() else str(compiled.mount_nfs())
        for name in ("log", "hold"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for name in ("log", "hold", "nfs", "containerd"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.nfs_folder.chmod(0o777)  # pods of every user write there
        # The NFS server looks up its file system in this file, which a minimal Debian lacks.
        if not MOUNT_TABLE.exists():
            MOUNT_TABLE.symlink_to("../proc/self/mounts")
        for mount_point in node.PRIVATE:
            Path(mount_point).mkdir(exist_ok=True)
        make_cgroups(self.cgroup)
        process = self._spawn()
        assert process.stdin
        assert process.stdout
        with process.stdin as orders, process.stdout as news:
            if not news.readline():
                raise ClusterError(f"the box did not start:\n{node.log_end(self.folder, 'node')}")
            first = psutil.Process(process.pid).children()[0]
            record = json.dumps([first.pid, first.create_time()])
            (self.folder / "process.json").write_text(record)
            # Until the box has its plan, it ends with this process. Later, `down` finds it by this
            # record.
            with binaries.locked(self.folder.parent / ".network.lock"):
                subnet = free_subnet(self.subnet, routes())
                plan = Plan(
                    box=self.name,
                    subnet=subnet,
                    node=first_node(subnet),
                    folder=str(self.folder),
                    tools=str(binaries.tools(*TOOLS)),
                    pause_image=pause_image,
                    mount_nfs=mount_nfs,
                )
                self._connect(first.pid, plan)
            certificates.write(plan, self.context)
            orders.write(plan.to_json() + "\n")
            orders.flush()
            for line in news:
                kind, text = json.loads(line)
                if kind == "ready":
                    return plan
                if kind == "failed":
                    raise ClusterError(text)
                say(f"    {text}")
        raise ClusterError(f"the box ended:\n{node.log_end(self.folder, 'node')}")

    def _spawn(self) -> subprocess.Popen[str]:
        """Start the box's first process, in namespaces of its own."""
        unshare = ["unshare", "--mount", "--net", "--pid", "--uts", "--fork", "--mount-proc"]
        with (self.folder / "log/node.log").open("w") as log:
            process = subprocess.Popen(
                [*unshare, sys.executable, "-m", "tests.cluster.node"],
                cwd=REPOSITORY,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # so that Ctrl-C does not reach the box
            )
        STARTED.append(process)
        return process

    def _connect(self, pid: int, plan: Plan) -> None:
        """Connect the machine and the box with a veth pair."""
        pair = ["ip", "link", "add", self.link, "type", "veth", "peer", "name", "eth0"]
        run([*pair, "netns", str(pid)])
        run(["ip", "address", "add", f"{plan.host_ip}/24", "dev", self.link])
        run(["ip", "link", "set", self.link, "up"])

    def _import(self, images: list[image.Image]) -> None:
        """Import the images that containerd lacks."""
        ctr = [str(binaries.tool("ctr")), f"--address={CONTAINERD}", "--namespace=k8s.io"]
        there = run(self.enter(*ctr, "images", "ls", "--quiet")).split()
        for one in images:
            if one.name not in there:
                small = one.archive.stat().st_size < SMALL_BYTES
                with contextlib.nullcontext() if small else step(f"importing {one.name}"):
                    run(self.enter(*ctr, "images", "import", "--local", one.archive))
            if one.again not in there:
                run(self.enter(*ctr, "images", "tag", "--force", one.name, one.again))

    def _clean(self) -> None:
        """Kill the box's processes, and remove what outlives them."""
        process = self.process()
        if process:
            process.kill()
            process.wait(PATIENCE_SECONDS)
        for started in STARTED:
            started.poll()
        # The kernel removes the link only some time after the box has ended, so we delete it.
        if Path("/sys/class/net", self.link).exists():
            subprocess.run(["ip", "link", "delete", self.link], stderr=subprocess.DEVNULL)
        remove_cgroups(self.cgroup)
        for name in ("process.json", "plan.json"):
            (self.folder / name).unlink(missing_ok=True)
        shutil.rmtree(self.folder / "private", ignore_errors=True)


def is_well(plan: Plan) -> bool:
    """Whether the box's API server answers, and its node is ready."""
    try:
        return node_is_ready(plan, administrator(plan))
    except (OSError, ssl.SSLError):
        return False


def first_node(subnet: str) -> Node:
    """The node that holds the control plane."""
    network = IPv4Network(subnet)
    return Node(name="node-1", ip=str(network[2]), pods=f"{network[17 << 8]}/24")


def routes() -> list[IPv4Network]:
    """The networks to which this machine has a route, without the default route."""
    listed = json.loads(run(["ip", "-json", "-4", "route", "show", "table", "all"]))
    return [IPv4Network(route["dst"]) for route in listed if route["dst"] != "default"]


def free_subnet(wanted: str | None, taken: list[IPv4Network]) -> str:
    """The first subnet whose part for nodes overlaps no network in `taken`."""
    for subnet in [wanted] if wanted else SUBNETS:
        nodes = next(IPv4Network(subnet).subnets(new_prefix=24))
        if not any(nodes.overlaps(network) for network in taken):
            return subnet
    raise ClusterError(
        f"this machine already has a route to {wanted or 'each of ' + ', '.join(SUBNETS)}; "
        "name another private /16 as Box(subnet=...)"
    )


def kernel_mounts_nfs() -> bool:
    """Whether the kernel has an NFS client. Loads it if it is a module."""
    if shutil.which("modprobe"):
        subprocess.run(["modprobe", "nfs"], stderr=subprocess.DEVNULL, check=False)
    return "\tnfs\n" in Path("/proc/filesystems").read_text()


def refuse_overlay(folder: Path) -> None:
    """Fail on overlayfs, because the file systems of containers cannot lie on an overlay."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = run(["stat", "--file-system", "--format=%T", folder]).strip()
    if kind == "overlayfs":
        raise ClusterError(
            f"{folder} lies on overlayfs, where containers cannot start; "
            "set XDG_CACHE_HOME to a folder on a disk"
        )
