"""`make demo`: trains the breast-cancer example on a real Kubernetes."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.cluster import Cluster, ensure
from tests.cluster.progress import INTERRUPTED, guarded
from tests.cluster.release import Folders, Release, RunEnd, put_on_nfs
from tests.result import EXAMPLE, NotLearntError, result

NAME = "breast-cancer"
NAMESPACE = "tfrun-demo"


def main(argv: Sequence[str]) -> int:
    """Runs the demo, and returns the run's exit code, or 1 if the model is not good enough."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--context", help="a context of your kubeconfig to run on")
    parser.add_argument(
        "--code", type=Path, default=EXAMPLE, help="the folder of train.py (default: the example)"
    )
    chosen = parser.parse_args(argv)
    return train(Release(ensure(chosen.context), NAMESPACE, NAME), chosen.code)


def train(release: Release, code: Path) -> int:
    """Installs the release, follows the run to its end, and prints the result."""
    say("removing the release of an earlier demo")
    release.uninstall()
    folders = put_on_nfs(release.cluster, NAME, code)
    say(f"copied the code to {folders.settings['code.nfs.path']}; installing the release")
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
        return INTERRUPTED
    if end.condition != "Complete":
        return failed(end)
    return succeeded(release.cluster, folders, end, time.monotonic() - begin)


def failed(end: RunEnd) -> int:
    """Prints why the run failed, and returns the program's exit code."""
    say(f"the job has failed: {end.message['reason']}")
    return int(end.message.get("exitCode", end.exit_code)) or 1


def succeeded(cluster: Cluster, folders: Folders, end: RunEnd, seconds: float) -> int:
    """Prints the result and what to try next. Returns 1 if the model is not good enough."""
    next_steps = [
        f"export KUBECONFIG={cluster.kubeconfig}",
        f"{cluster.kubectl} -n {NAMESPACE} get job,statefulset  # complete; no pods left",
        "$EDITOR examples/breast-cancer/train.py && make demo     # no image is built",
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
    """Prints one line of progress."""
    print(f"demo: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
