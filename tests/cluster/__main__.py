"""`python -m tests.cluster`: start, stop and look at the cluster that the tests run on."""

from __future__ import annotations

import argparse
import dataclasses
import sys

from tests.cluster import Cluster, ClusterError, binaries, down, ensure
from tests.cluster.box import Box, is_well


def main() -> int:
    """Run one command; what a script wants to read goes to stdout, progress to stderr."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start the cluster, or show that it runs")
    up.add_argument("--context", help="use this context of your kubeconfig instead")
    commands.add_parser("down", help="stop the cluster; what was built is kept")
    commands.add_parser("status", help="say whether the Kubernetes in a box runs")
    tool = commands.add_parser("tool", help="print the path of a tool, built if need be")
    tool.add_argument("name")
    commands.add_parser("openapi", help="print the path of the Kubernetes API's schemas")
    chosen = parser.parse_args()
    try:
        if chosen.command == "up":
            show(ensure(chosen.context))
        elif chosen.command == "down":
            down()
        elif chosen.command == "status":
            return status()
        elif chosen.command == "tool":
            print(binaries.tool(chosen.name))
        else:
            print(binaries.openapi())
    except ClusterError as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 1
    return 0


def show(cluster: Cluster) -> None:
    """Print a cluster as shell variables, and how to look at it."""
    for field in dataclasses.fields(cluster):
        print(f"{field.name.upper()}={getattr(cluster, field.name)}")
    print(f"# {cluster.kubectl} --kubeconfig {cluster.kubeconfig} get pods --all-namespaces")


def status() -> int:
    """Say how the box is; 0 only where it is well."""
    plan = Box().alive()
    well = bool(plan and is_well(plan))
    print("ready" if well else "started, but not ready" if plan else "stopped")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
