"""`make demo`: trains the breast-cancer example on a real Kubernetes, from nothing to the model."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.cluster import Cluster, ClusterError, ensure
from tests.cluster.release import Folders, Release, RunEnd, put_on_nfs
from tests.result import EXAMPLE, NotLearntError, result

NAME = "breast-cancer"
NAMESPACE = "tfrun-demo"


def main(argv: Sequence[str]) -> int:
    """Runs the demo and returns the run's exit code; 1 where the model has not learnt."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--context", help="a context of your kubeconfig to run on")
    parser.add_argument(
        "--code", type=Path, default=EXAMPLE, help="the folder of train.py (default: the example)"
    )
    chosen = parser.parse_args(argv)
    try:
        cluster = ensure(chosen.context)
        return train(Release(cluster, NAMESPACE, NAME), chosen.code)
    except ClusterError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


def train(release: Release, code: Path) -> int:
    """Installs the release, follows the run to its end, and says what came of it."""
    say("removing what an earlier demo left")
    release.uninstall()
    folders = put_on_nfs(release.cluster, NAME, code)
    say(f"the code is on the NFS export {folders.settings['code.nfs.path']}; helm install")
    begin = time.monotonic()
    try:
        release.install([EXAMPLE / "values.yaml"], folders.settings)
        job = release.job()
        say(f"following it: kubectl logs --follow job/{job}")
        for line in release.follow():
            print(line, flush=True)
        end = release.end()
    except KeyboardInterrupt:
        say("interrupted: removing the release")
        release.uninstall()
        return 130
    if end.condition != "Complete":
        return failed(end)
    return succeeded(release.cluster, folders, end, time.monotonic() - begin)


def failed(end: RunEnd) -> int:
    """Says how the run failed (the log has said the rest), and returns the program's own code."""
    say(f"the job has failed: {end.message['reason']}")
    return int(end.message.get("exitCode", end.exit_code)) or 1


def succeeded(cluster: Cluster, folders: Folders, end: RunEnd, seconds: float) -> int:
    """Prints the result and what to try next; the model must have learnt something."""
    next_steps = [
        f"export KUBECONFIG={cluster.kubeconfig}",
        f"{cluster.kubectl} -n {NAMESPACE} get job,statefulset  # complete; no pods",
        "$EDITOR examples/breast-cancer/train.py && make demo     # no image to build",
        "make cluster-down",
    ]
    trained = f"trained in {seconds:.0f} s from helm install to the Job's completion"
    try:
        print(result(end.message.get("lastLines", []), trained, folders.data, next_steps))
    except NotLearntError as error:
        say(str(error))
        return 1
    return 0


def say(text: str) -> None:
    """Prints one line about what the demo does."""
    print(f"demo: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
