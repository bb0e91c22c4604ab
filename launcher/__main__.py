"""`python -m launcher task | controller | local | status`. Only this module exits."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import traceback
from collections.abc import Sequence

if not __package__:  # `python -I launcher`: then no variable hides the launcher from Python
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

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
    controller = commands.add_parser("controller", help="run the controller of a run")
    controller.set_defaults(run=_controller, in_pod=True)
    with contextlib.suppress(ModuleNotFoundError):  # a pod has no launcher.local
        from launcher.local.commands import add

        add(commands)
    return parser


def _add_task(commands: argparse._SubParsersAction[_Parser]) -> None:
    task = commands.add_parser(
        "task",
        help="run one task",
        description="Runs one task as the controller at TFRUN_CONTROLLER directs. Without that "
        "variable PS_REPLICAS and WORKER_REPLICAS describe the cluster: a worker runs PROGRAM, "
        "a ps runs a TensorFlow server.",
    )
    task.add_argument(
        "--flags",
        action="store_true",
        help="add --ps_hosts, --worker_hosts, --job_name and --task_index to PROGRAM",
    )
    task.add_argument("program", nargs="*", metavar="PROGRAM", help="the command to run, after --")
    task.set_defaults(run=_task, in_pod=True)


# Each subcommand imports only what it needs, so that a task starts fast.


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


def main(argv: Sequence[str]) -> int:
    """Runs one subcommand and returns the exit code."""
    arguments = _parser().parse_args(argv)
    # We look it up before anything can fail, so that every failure is written there.
    log = termination_log(os.environ) if "in_pod" in arguments else None
    end: End
    code: int
    try:
        end, code = arguments.run(arguments)
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
            say(f"cannot write the termination message: {error}")
    return code


def command() -> None:
    """The `tfrun` command of an installed package."""
    code = main(sys.argv[1:])
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            # Nobody reads the stream any more. With text left in it Python would exit with 120.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)


if __name__ == "__main__":
    command()
