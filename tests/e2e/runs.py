"""Functions that change and inspect a run on the real Kubernetes."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any, Callable

from tests.cluster.release import Folders, Release, RunEnd
from tests.lines import Lines

# A task pod's grace period is 30 s. A pod that is gone sooner has not waited for it to pass.
PROMPT_SECONDS = 28
GO = "/tmp/go"  # noqa: S108
UNTIL_TOLD = f"until [ -e {GO} ]; do sleep 0.1; done"
# For tiny programs: no ps and no TensorFlow server, so that many fit on a small node.
SERVERLESS = {
    "mode": "all-reduce",
    "worker.resources.requests": {"cpu": "10m", "memory": "32Mi"},
}
OnNfs = Callable[[Path], Folders]


def tiny(script: str) -> dict[str, Any]:
    """Settings of a run whose workers run a shell script: no code to copy, no TensorFlow."""
    return {
        "code.image.path": "/tmp",  # noqa: S108
        "program.command": ["sh", "-c", script],
        "chiefFirst": False,
    }


def tell(release: Release, pod: str, container: str = "task") -> None:
    """Lets a program that waits UNTIL_TOLD continue."""
    release.kubectl("exec", pod, "-c", container, "--", "touch", GO)


def finish(release: Release) -> tuple[RunEnd, str]:
    """Follows the run to its end. Returns how it ended, and the controller's whole log."""
    log = "\n".join(release.follow())
    return release.end(), log


def leads(release: Release, pattern: str) -> re.Match[str]:
    """Waits for a line of the newest controller."""
    with Lines(release.logs(release.controller())) as log:
        return log.wait_for(pattern)


def children(log: str) -> list[int]:
    """The generations in which a task started its child, from the log of its pod."""
    return [int(number) for number in re.findall(r"generation (\d+): started ", log)]


def kill_child(release: Release, pod: str, signal: str = "KILL") -> None:
    """Signals the child in a task's container. The kernel sends KILL when memory runs out."""
    pids = re.findall(r"generation \d+: started .*\(process (\d+)\)", release.kubectl("logs", pod))
    release.kubectl("exec", pod, "--", "sh", "-c", f"kill -{signal} {pids[-1]}")


def stateful_sets(release: Release) -> list[tuple[str, int, int, dict[str, Any]]]:
    """The role, the replicas, the metadata.generation and the last end of each StatefulSet.

    An end is without the Jobs that it was recorded by: each new one adds itself.
    """
    return [
        (
            each["metadata"]["labels"]["tfrun/role"],
            each["spec"]["replicas"],
            each["metadata"]["generation"],
            last_end(each["metadata"].get("annotations", {})),
        )
        for each in release.get("statefulset")
    ]


def last_end(annotations: dict[str, str]) -> dict[str, Any]:
    """The end that was recorded last; empty if there is none."""
    end: dict[str, Any] = json.loads(annotations.get("tfrun/ends", "[{}]"))[-1]
    return {key: value for key, value in end.items() if key != "jobs"}


def task_pods(release: Release) -> list[dict[str, Any]]:
    return [
        pod
        for pod in release.get("pod")
        if pod["metadata"]["labels"].get("tfrun/role") in ("ps", "worker")
    ]


def wait_until_tasks_are_gone(release: Release) -> float:
    """Waits until the task pods are gone. Returns the seconds that it took."""
    begin = time.monotonic()
    selector = f"app.kubernetes.io/instance={release.name},tfrun/role in (ps,worker)"
    release.kubectl("wait", "pod", "-l", selector, "--for=delete", f"--timeout={PROMPT_SECONDS}s")
    return time.monotonic() - begin


def wait_for_what_pods_need(release: Release, seconds: float = 30) -> None:
    """Waits for what Kubernetes itself puts into a new namespace.

    One by one, because `kubectl wait --for=create` ends at once if two are missing.
    """
    for need in ("serviceaccount/default", "configmap/kube-root-ca.crt"):
        release.kubectl("wait", "--for=create", need, f"--timeout={seconds:g}s")


def everything(release: Release) -> set[str]:
    """All objects in a namespace, except events."""
    kinds = release.kubectl("api-resources", "--namespaced", "--verbs=list", "-o", "name").split()
    kinds = [kind for kind in kinds if not kind.startswith("events")]
    return set(release.kubectl("get", ",".join(kinds), "-o", "name").split())


def check_failed(release: Release, end: RunEnd, code: int) -> None:
    assert (end.condition, end.exit_code) == ("Failed", code)
    assert (end.message["phase"], end.message["exitCode"]) == ("Failed", code)
    assert len(release.controllers()) == 1  # final: Kubernetes starts no other controller
    wait_until_tasks_are_gone(release)
    assert [(role, pods) for role, pods, _, _ in stateful_sets(release)] == [
        ("ps", 0),
        ("worker", 0),
    ]
