"""The subcommands for people. Pods do not have this package."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.shared.exits import End, ExitCode, LauncherError

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[Any]


def add(commands: Commands) -> None:
    """Adds `local` and `status` to the command line; the parsed arguments' `run` runs them."""
    _add_local(commands)
    _add_status(commands)


def _add_local(commands: Commands) -> None:
    local = commands.add_parser(
        "local",
        help="run the controller and all tasks on this machine",
        description="Runs what a values file describes as processes on 127.0.0.1.",
    )
    local.add_argument(
        "-f",
        "--values",
        action="append",
        required=True,
        type=Path,
        metavar="FILE",
        help="a values file; repeat it for more files: later ones override earlier ones",
    )
    local.add_argument(
        "--code",
        type=Path,
        metavar="FOLDER",
        help="the folder of the program, instead of the values' source",
    )
    local.add_argument(
        "--port", type=int, metavar="PORT", help="the first port of the tasks (default: any free)"
    )
    local.set_defaults(run=_local)


def _add_status(commands: Commands) -> None:
    status = commands.add_parser(
        "status",
        help="show the state of a run",
        description="Shows the state of a release's run. Uses kubectl and your kubeconfig.",
    )
    status.add_argument("release", nargs="?", default="", metavar="RELEASE")
    status.add_argument("-n", "--namespace", help="the release's namespace")
    status.add_argument("--context", help="a context of your kubeconfig")
    status.add_argument("--address", metavar="HOST:PORT", help="ask it, without kubectl")
    status.add_argument("--json", action="store_true", help="print JSON")
    status.add_argument("--watch", action="store_true", help="keep running, and print every change")
    status.set_defaults(run=_status)


# Each subcommand imports only what it needs, so that `launcher task` starts fast.


def _local(arguments: argparse.Namespace) -> tuple[End, int]:
    try:
        from launcher.local import run
    except ModuleNotFoundError as error:
        if error.name not in ("psutil", "yaml"):
            raise
        what = f"local needs PyYAML and psutil: {sys.executable} -m pip install PyYAML psutil"
        raise LauncherError(ExitCode.CONFIGURATION, what) from None

    end = run.run(arguments.values, arguments.code, arguments.port)
    return end, end.exit_code


def _status(arguments: argparse.Namespace) -> tuple[End, int]:
    from launcher.local import status

    if not arguments.release and not arguments.address:
        raise LauncherError(ExitCode.USAGE, "status needs the name of a release, or --address")
    kubectl = ["kubectl"]
    kubectl += ["--context", arguments.context] if arguments.context else []
    kubectl += ["--namespace", arguments.namespace] if arguments.namespace else []
    end = status.run(arguments.release, kubectl, arguments.address, arguments.json, arguments.watch)
    return end, end.exit_code
