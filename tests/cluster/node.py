"""The inside of a box: the first process in namespaces of its own, `python -m tests.cluster.node`.

It says `hello`, reads a plan (one line of JSON) from stdin, makes the node's mounts and network,
and starts the components, each as soon as it can be. What it says on stdout are pairs of JSON:
first `hello`, then `progress` for each component, last `ready` or `failed` with the reason. From
then on it starts again what ends, but for components that a file `hold/NAME` stops. When it ends
itself, the kernel ends every process, mount and interface of the box.

It gives up when stdin closes before a plan has come: whoever wanted the box is gone.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.components import RUN, Component, components, files
from tests.cluster.packages import SYSTEM_PATH
from tests.cluster.plan import Plan
from tests.cluster.progress import ClusterError, last_lines, run

PATIENCE_SECONDS = 90
# Folders with one fixed place on a machine; two nodes that shared one would delete each other's.
PRIVATE = ("/var/lib/kubelet", "/var/lib/cni", "/var/lib/nfs", "/var/log")


@dataclass
class Running:
    """A component that was started."""

    component: Component
    process: subprocess.Popen[bytes]
    started: float
    ready: bool = False


def main() -> None:
    """Be the box's init: collect orphans, and end with the child that does the work."""
    child = os.fork()
    while child:
        ended, status = os.wait()
        if ended == child:
            raise SystemExit(os.waitstatus_to_exitcode(status))
    report("hello", "")
    line = sys.stdin.readline()
    if not line:
        raise SystemExit("nobody wants this box any more")
    plan = Plan.from_json(line)
    os.environ.clear()  # proxies and the like are the machine's, not the node's
    os.environ |= {"PATH": f"{plan.tools}:{SYSTEM_PATH}", "HOME": "/root"}
    try:
        prepare(plan)
        supervise(plan)
    except (ClusterError, OSError) as failure:
        report("failed", str(failure))
        raise SystemExit(1) from None


def prepare(plan: Plan) -> None:
    """Make the node's mounts, network and configuration files."""
    socket.sethostname(plan.node.name)
    run(["mount", "--make-rshared", "/"])
    run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", RUN])
    for folder in PRIVATE:
        own = plan.state / "private" / folder.strip("/").replace("/", "-")
        own.mkdir(parents=True)
        run(["mount", "--bind", own, folder])
    for folder in ("/var/log/pods", "/var/log/containers", "/var/lib/nfs/ganesha"):
        Path(folder).mkdir()
    if plan.mount_nfs:
        run(["mount", "--bind", plan.mount_nfs, "/sbin/mount.nfs"])
    run(["ip", "link", "set", "lo", "up"])
    run(["ip", "address", "add", f"{plan.node.ip}/24", "dev", "eth0"])
    run(["ip", "link", "set", "eth0", "up"])
    # No way out but to the machine: what asks for the internet hears "unreachable" at once. The
    # services need a route only for the kernel to look at a packet that kube-proxy then redirects.
    run(["ip", "route", "add", plan.services, "via", plan.host_ip])
    # Pods see each other's addresses; whatever else they reach sees the node's.
    leaving = ["-s", plan.pods, "!", "-d", plan.pods]
    run(["iptables", "-t", "nat", "-A", "POSTROUTING", *leaving, "-j", "MASQUERADE"])
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    Path("/proc/sys/net/ipv4/icmp_ratelimit").write_text("0")  # say "unreachable" each time
    for file, content in files(plan).items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)


def supervise(plan: Plan) -> None:
    """Start every component as soon as those it needs are ready; then keep them all running."""
    waiting = components(plan)
    running: list[Running] = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while waiting or not all(one.ready for one in running):
        done = {one.component.name for one in running if one.ready}
        for component in [one for one in waiting if done.issuperset(one.after)]:
            waiting.remove(component)
            running.append(start(plan, component))
        for one in running:
            check(plan, one)
        if time.monotonic() > deadline:
            late = [one.component.name for one in running if not one.ready]
            quotes = "\n".join(f"{name}:\n{log_end(plan.state, name)}" for name in late)
            raise ClusterError(f"not ready after {PATIENCE_SECONDS} s: {', '.join(late)}\n{quotes}")
        time.sleep(0.05)
    report("ready", "")
    while True:
        for index, one in enumerate(running):
            held = plan.hold(one.component.name).exists()
            if one.process.poll() is None and held:
                one.process.kill()
            elif one.process.poll() is not None and not held:
                running[index] = start(plan, one.component)
        time.sleep(0.5)


def start(plan: Plan, component: Component) -> Running:
    """Start a component; its output goes to its log."""
    with log(plan.state, component.name).open("ab") as output:
        process = subprocess.Popen(
            component.command, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    return Running(component, process, time.monotonic())


def check(plan: Plan, one: Running) -> None:
    """See whether a component has become ready, or has ended, which is the end of the start."""
    if one.ready:
        return
    name = one.component.name
    code = one.process.poll()
    if code is not None:
        raise ClusterError(f"{name} ended with {code}:\n{log_end(plan.state, name)}")
    if one.component.ready():
        one.ready = True
        report("progress", f"{name}: {time.monotonic() - one.started:.1f} s")


def log(state: Path, name: str) -> Path:
    """Where a component's output goes."""
    return state / "log" / f"{name}.log"


def log_end(state: Path, name: str) -> str:
    """The last lines of a component's log."""
    return last_lines(log(state, name).read_text(errors="replace"))


def report(kind: str, text: str) -> None:
    """Tell whoever started the box, if they still listen."""
    try:
        print(json.dumps([kind, text]), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
