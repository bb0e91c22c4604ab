"""Argo CD's processes inside a box: `python -m tests.cluster.argocd_processes FOLDER PROGRAMS`.

This is the first process of a PID namespace of its own: when it ends, the kernel kills the others.
It prints `ready` when all of them answer. It ends when its stdin closes, which also happens when
its starter is killed, or when one of the others ends.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from pathlib import Path

from tests.cluster.components import listens

NAMESPACE = "argocd"
PATIENCE_SECONDS = 60
REDIS = ("127.0.0.1", 6379)
# Name -> command. The ports are Argo CD's own, except for those that two programs share.
COMMANDS = {
    "redis": ["redis-server", "--bind", REDIS[0], "--save", "", "--dir", "."],
    "repo-server": ["argocd-repo-server", "--disable-tls", "--client-ca-path="],
    "application-controller": [
        "argocd-application-controller",
        f"--namespace={NAMESPACE}",
        "--repo-server=127.0.0.1:8081",
        "--repo-server-plaintext",
    ],
    "applicationset-controller": [
        "argocd-applicationset-controller",
        f"--namespace={NAMESPACE}",
        "--argocd-repo-server=127.0.0.1:8081",
        "--repo-server-plaintext",
        "--metrics-addr=127.0.0.1:12345",
        "--probe-addr=127.0.0.1:12346",
        "--webhook-addr=127.0.0.1:7001",
    ],
}
PORTS = (REDIS[1], 8081, 8082, 12346)  # of each process one
WITH_REDIS = ("repo-server", "application-controller")


def main() -> None:
    """Start the processes, and wait for the end."""
    folder, programs = Path(sys.argv[1]), sys.argv[2]
    os.environ["PATH"] = f"{folder / 'bin'}:{programs}:{os.environ['PATH']}"
    os.environ |= {
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "KUBECONFIG": str(folder / "kubeconfig"),
        "ARGOCD_FAKE_IN_CLUSTER": "true",
        "ARGOCD_GPG_ENABLED": "false",
    }
    running = {}
    for name, command in COMMANDS.items():
        if name in WITH_REDIS:
            command = [*command, "--redis={}:{}".format(*REDIS)]
        with (folder / f"{name}.log").open("w") as log:
            running[name] = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
    deadline = time.monotonic() + PATIENCE_SECONDS
    ready = False
    while not select.select([sys.stdin], [], [], 0.1)[0]:
        for name, process in running.items():
            if process.poll() is not None:
                raise SystemExit(f"{name} ended with {process.returncode}")
        if not ready and are_ready():
            ready = True
            print("ready", flush=True)
        if not ready and time.monotonic() > deadline:
            raise SystemExit(f"Argo CD was not ready within {PATIENCE_SECONDS} s")


def are_ready() -> bool:
    """Whether all processes listen."""
    return all(listens(("127.0.0.1", port)) for port in PORTS)


if __name__ == "__main__":
    main()
