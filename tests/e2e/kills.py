"""Ways to kill processes in pods from outside of the pods."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import psutil

from tests.cluster.release import Release

KILLER_POD = "killer"
# Kills the launcher that is the first process of a pod's container, and with it the container.
KILLER = """
import os, pathlib, signal, sys
killed = 0
for folder in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        if sys.argv[1] not in (folder / "cgroup").read_text().replace("_", "-"):
            continue
        ids = (folder / "status").read_text().split("NSpid:")[1].split("\\n")[0].split()
        if ids[-1] == "1" and b"launcher" in (folder / "cmdline").read_bytes():
            os.kill(int(folder.name), signal.SIGKILL)
            killed += 1
    except OSError:
        pass
sys.exit(f"{killed} were there" if killed != 1 else 0)
"""


def kill_container(release: Release, pod: str) -> None:
    """Kills a container's first process, as the kernel does when memory runs out.

    Another pod does it, because the kernel protects a PID namespace's first process from inside.
    """
    make_killer(release)
    kill_container_of(release, uid(release, pod))


def kill_container_of(release: Release, pod_uid: str) -> None:
    """The same without delay: the killer pod exists, and the pod's uid is known."""
    release.kubectl("exec", KILLER_POD, "--", "python3", "-c", KILLER, pod_uid)


def make_killer(release: Release) -> None:
    """Creates the pod that kills. A test that must kill without delay calls this beforehand."""
    if f"pod/{KILLER_POD}" in release.kubectl("get", "pod", "-o", "name").split():
        return
    spec = {
        "hostPID": True,
        "terminationGracePeriodSeconds": 0,
        "containers": [
            {
                "name": KILLER_POD,
                "image": release.cluster.image,
                "command": ["sleep", "1000000"],
                "securityContext": {"privileged": True},
            }
        ],
    }
    image = f"--image={release.cluster.image}"
    override = f"--overrides={json.dumps({'spec': spec})}"
    release.kubectl("run", KILLER_POD, image, "--restart=Never", override)
    release.kubectl("wait", f"pod/{KILLER_POD}", "--for=condition=Ready", "--timeout=60s")


def kill_child_on_this_machine(uid: str) -> None:
    """Kills the child in a pod that runs on this machine, without Kubernetes."""
    (child,) = (
        process
        for process in psutil.process_iter()
        if uid in _cgroup(process) and "TF_CONFIG" in _environment(process)
    )
    child.kill()


def uid(release: Release, pod: str) -> str:
    return release.kubectl("get", "pod", pod, "-o", "jsonpath={.metadata.uid}")


def _cgroup(process: psutil.Process) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process.pid}/cgroup").read_text().replace("_", "-")
    return ""


def _environment(process: psutil.Process) -> dict[str, str]:
    with contextlib.suppress(psutil.Error):
        return process.environ()
    return {}
