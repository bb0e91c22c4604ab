"""`python -m launcher task | controller | local | status`. The only place that exits."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from launcher.shared.environment import termination_log
from launcher.shared.exits import End, ExitCode, LauncherError, Phase
from launcher.shared.log import say


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        self.print_usage(sys.stderr)
        self.exit(ExitCode.USAGE, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="launcher", description="Runs distributed TensorFlow training.")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_task(commands)
    commands.add_parser("controller", help="the controller of a run")
    _add_local(commands)
    _add_status(commands)
    return parser


def _add_task(commands: argparse._SubParsersAction[_Parser]) -> None:
    task = commands.add_parser(
        "task",
        help="one task of a run",
        description="Plays one task's part: what the controller that TFRUN_CONTROLLER names says; "
        "or with PS_REPLICAS and WORKER_REPLICAS in the environment, PROGRAM on a worker and a "
        "TensorFlow server on a ps.",
    )
    task.add_argument(
        "--flags",
        action="store_true",
        help="give the program --ps_hosts, --worker_hosts, --job_name and --task_index",
    )
    task.add_argument("program", nargs="*", metavar="PROGRAM", help="after --")


def _add_local(commands: argparse._SubParsersAction[_Parser]) -> None:
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


def _add_status(commands: argparse._SubParsersAction[_Parser]) -> None:
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


# Imports belong to their subcommand: a task must start fast, and pods lack local's files.


def _task(arguments: argparse.Namespace) -> tuple[End, int]:
    from launcher.task import environment, loop

    end = loop.run(
        environment.task_settings(os.environ, arguments.program, arguments.flags), os.environ
    )
    return end, end.exit_code


def _controller(_: argparse.Namespace) -> tuple[End, int]:
    from launcher.controller import environment, loop

    end = loop.run(environment.controller_settings(os.environ))
    return end, loop.exit_code(end)


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


COMMANDS = {"task": _task, "controller": _controller, "local": _local, "status": _status}


def main(argv: Sequence[str]) -> int:
    """Runs one subcommand and returns the exit code."""
    arguments = _parser().parse_args(argv)
    # Known before anything that can be wrong, so that this is told there as well.
    log = None if arguments.command == "local" else termination_log(os.environ)
    try:
        end, code = COMMANDS[arguments.command](arguments)
    except LauncherError as error:
        say(error.reason)
        end = End(Phase.FAILED, int(error.exit_code), error.reason)
        code = end.exit_code
    except Exception as error:
        traceback.print_exc()
        end = End(Phase.FAILED, int(ExitCode.BUG), f"the launcher failed: {error!r}")
        code = end.exit_code
    if log:
        try:
            log.write_text(end.message() + "\n")
        except OSError as error:
            say(f"the termination message cannot be written: {error}")
    return code


def command() -> None:
    """The `tfrun` command of an installed package."""
    code = main(sys.argv[1:])
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            # Nobody reads it any more. What is left must not make Python's exit code 120 of ours.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)


if __name__ == "__main__":
    command()
