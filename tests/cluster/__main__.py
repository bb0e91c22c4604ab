"""`python -m tests.cluster`: start, stop and inspect the cluster that the tests run on."""

from __future__ import annotations

import argparse
import dataclasses
import sys

from tests.cluster import Cluster, binaries, down, ensure
from tests.cluster.box import Box, is_well
from tests.cluster.progress import announce, guarded


def main() -> int:
    """Run one command. Results, which scripts read, go to stdout; progress goes to stderr."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start the cluster unless it runs, and print how to use it")
    up.add_argument("--context", help="use this context of your kubeconfig instead")
    commands.add_parser("down", help="stop the cluster; what was built is kept")
    commands.add_parser("status", help="say whether the Kubernetes in a box runs")
    tool = commands.add_parser("tool", help="print the paths of tools; build the missing ones")
    tool.add_argument("name", nargs="+")
    commands.add_parser("argocd", help="build Argo CD, which only runs in the box, if the box runs")
    commands.add_parser("openapi", help="print the path of the Kubernetes API's schemas")
    chosen = parser.parse_args()
    if chosen.command == "up":
        show(ensure(chosen.context))
    elif chosen.command == "down":
        down()
    elif chosen.command == "status":
        return status()
    elif chosen.command == "tool":
        announce(binaries.steps(chosen.name))
        folder = binaries.tools(*chosen.name)
        print(*(folder / name for name in chosen.name), sep="\n")
    elif chosen.command == "argocd":
        if Box().alive():
            print(binaries.argocd())
    else:
        print(binaries.openapi())
    return 0


def show(cluster: Cluster) -> None:
    """Print a cluster as shell variables, and a command to inspect it."""
    for field in dataclasses.fields(cluster):
        print(f"{field.name.upper()}={getattr(cluster, field.name)}")
    print(f"# {cluster.kubectl} --kubeconfig {cluster.kubeconfig} get pods --all-namespaces")


def status() -> int:
    """Print the state of the box. Return 0 only if it is ready."""
    plan = Box().alive()
    well = bool(plan and is_well(plan))
    print("ready" if well else "started, but not ready" if plan else "stopped")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(guarded(main))
