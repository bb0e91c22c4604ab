"""The first process of a box, in its own namespaces: `python -m tests.cluster.node`.

It prints `hello`, reads a plan (one line of JSON) from stdin, creates the node's mounts and
network, and starts each component when those that it needs are ready. Its messages on stdout are
pairs in JSON: first `hello`, then `progress` for each component, at the end `ready`, or `failed`
with the reason. After `ready` it restarts each component that ends, unless a file `hold/NAME`
exists, which stops the component. When this process ends, the kernel removes every process, mount
and interface of the box.

If stdin closes before the plan arrives, this process ends, because its starter has ended.
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

from tests.cluster.commands import ClusterError, last_lines, run
from tests.cluster.components import RUN, Component, components, files
from tests.cluster.packages import SYSTEM_PATH
from tests.cluster.plan import Plan

PATIENCE_SECONDS = 90
# Folders with a fixed path. Each box mounts its own there, because nodes that shared one would
# delete each other's files.
PRIVATE = ("/var/lib/kubelet", "/var/lib/cni", "/var/lib/nfs", "/var/log")


@dataclass
class Running:
    """A component that was started."""

    component: Component
    process: subprocess.Popen[bytes]
    started: float
    ready: bool = False


def main() -> None:
    """Be the box's init: reap orphans, and end when the child that does the work ends."""
    child = os.fork()
    while child:
        ended, status = os.wait()
        if ended == child:
            raise SystemExit(os.waitstatus_to_exitcode(status))
    report("hello", "")
    line = sys.stdin.readline()
    if not line:
        raise SystemExit("stdin closed before the plan arrived")
    plan = Plan.from_json(line)
    os.environ.clear()  # the machine's settings, such as proxies, are not the node's
    os.environ |= {"PATH": f"{plan.tools}:{SYSTEM_PATH}", "HOME": "/root"}
    try:
        prepare(plan)
        supervise(plan)
    except (ClusterError, OSError) as failure:
        report("failed", str(failure))
        raise SystemExit(1) from None


def prepare(plan: Plan) -> None:
    """Create the node's mounts, network and configuration files."""
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
    # There is no default route, so that connections to the internet fail at once. The services need
    # a route, because without one the kernel refuses a packet before kube-proxy redirects it.
    run(["ip", "route", "add", plan.services, "via", plan.host_ip])
    # Pods see each other's addresses; all other hosts see the node's address.
    leaving = ["-s", plan.pods, "!", "-d", plan.pods]
    run(["iptables", "-t", "nat", "-A", "POSTROUTING", *leaving, "-j", "MASQUERADE"])
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    Path("/proc/sys/net/ipv4/icmp_ratelimit").write_text("0")  # no limit for "unreachable" replies
    for file, content in files(plan).items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)


def supervise(plan: Plan) -> None:
    """Start each component when those that it needs are ready. Then keep all of them running."""
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
    """Start a component, with its output in its log."""
    with log(plan.state, component.name).open("ab") as output:
        process = subprocess.Popen(
            component.command, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    return Running(component, process, time.monotonic())


def check(plan: Plan, one: Running) -> None:
    """Report when a component has become ready. Raises ClusterError if it has ended."""
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
    """The file with a component's output."""
    return state / "log" / f"{name}.log"


def log_end(state: Path, name: str) -> str:
    """The last lines of a component's log."""
    return last_lines(log(state, name).read_text(errors="replace"))


def report(kind: str, text: str) -> None:
    """Send a message to the process that started the box, if it still reads."""
    try:
        print(json.dumps([kind, text]), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
