"""The subcommands that a person calls; in a pod this folder is not there."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.shared.exits import End, ExitCode, LauncherError

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[Any]


def add(commands: Commands) -> None:
    """Adds `local` and `status` to the command line; `run` of what is parsed runs them."""
    _add_local(commands)
    _add_status(commands)


def _add_local(commands: Commands) -> None:
    local = commands.add_parser(
        "local",
        help="a whole run as processes on this machine",
        description="Runs what a values file describes as processes on 127.0.0.1.",
    )
    local.add_argument(
        "-f",
        "--values",
        action="append",
        required=True,
        type=Path,
        metavar="FILE",
        help="a values file; may be given more than once, and the later one wins",
    )
    local.add_argument(
        "--code",
        type=Path,
        metavar="FOLDER",
        help="the folder of the program, in place of the source that the values name",
    )
    local.add_argument(
        "--port", type=int, metavar="PORT", help="the first port of the tasks (default: any free)"
    )
    local.set_defaults(run=_local)


def _add_status(commands: Commands) -> None:
    status = commands.add_parser(
        "status",
        help="how a run is",
        description="Shows how the run of a release is, through kubectl and its configuration.",
    )
    status.add_argument("release", nargs="?", default="", metavar="RELEASE")
    status.add_argument("-n", "--namespace", help="the release's namespace")
    status.add_argument("--context", help="a context of your kubeconfig")
    status.add_argument("--address", metavar="HOST:PORT", help="ask this controller instead")
    status.add_argument("--json", action="store_true", help="one JSON document")
    status.add_argument("--watch", action="store_true", help="go on, and print every change")
    status.set_defaults(run=_status)


# Imports belong to their subcommand: `launcher task` must start fast.


def _local(arguments: argparse.Namespace) -> tuple[End, int]:
    from launcher.local import run

    end = run.run(arguments.values, arguments.code, arguments.port)
    return end, end.exit_code


def _status(arguments: argparse.Namespace) -> tuple[End, int]:
    from launcher.local import status

    if not arguments.release and not arguments.address:
        raise LauncherError(ExitCode.USAGE, "status needs the name of a release")
    kubectl = ["kubectl"]
    kubectl += ["--context", arguments.context] if arguments.context else []
    kubectl += ["--namespace", arguments.namespace] if arguments.namespace else []
    end = status.run(arguments.release, kubectl, arguments.address, arguments.json, arguments.watch)
    return end, end.exit_code
