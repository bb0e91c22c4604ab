"""How a task, a controller and a run end: exit codes, phases, the termination message.

A program's exit code passes through, and a signal becomes 128 + its number, as in a shell. The
launcher's own failures use the codes below (after BSD's sysexits), so that a code tells who failed.
"""

from __future__ import annotations

import enum
import json
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TERMINATION_MESSAGE_BYTES = 4096  # the kubelet keeps only the end of a longer message
SIGNALLED = 128  # plus the number of the signal that ended the process


class ExitCode(enum.IntEnum):
    """The launcher's own exit codes."""

    OK = 0
    USAGE = 64  # the command line is wrong
    CODE_MISSING = 66  # the program's code is missing, or not the code that the values name
    PEERS_UNAVAILABLE = 69  # the other tasks could not be reached in time
    BUG = 70  # the launcher itself failed
    IO = 74  # reading or writing failed
    TRY_AGAIN = 75  # a temporary fault outside the program
    DEADLINE = 124  # the run took too long, or made no progress
    CONFIGURATION = 78  # values, environment or job.json are wrong
    COMMAND_NOT_EXECUTABLE = 126  # as in a shell
    COMMAND_NOT_FOUND = 127  # as in a shell


class Phase(enum.Enum):
    """How a task, a controller or a run ended, as in the termination message."""

    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    STOPPED = "Stopped"  # from outside: a signal, a drained node, an uninstall


@dataclass(frozen=True)
class End:
    """The end of a task, of the controller or of the whole run.

    `found` says that the controller did not decide this end: it is on record, or tasks report it.
    """

    phase: Phase
    exit_code: int
    reason: str
    task: str = ""
    last_lines: tuple[str, ...] = ()
    found: bool = False

    @property
    def words(self) -> str:
        """The reason in the termination message."""
        return f"ended already: {self.reason}" if self.found else self.reason

    def record(self) -> dict[str, Any]:
        """The end as it is recorded: without the last lines, which can be long."""
        return {
            "phase": self.phase.value,
            "task": self.task,
            "exitCode": self.exit_code,
            "reason": self.reason,
        }

    def message(self) -> str:
        """One JSON line of at most TERMINATION_MESSAGE_BYTES, its line break included.

        It drops the oldest lines first, then cuts the reason. JSON is ASCII: a character is a byte.
        """
        lines = list(self.last_lines)
        reason = self.words
        while True:
            text = json.dumps({**self.record(), "reason": reason, "lastLines": lines})
            excess = len(text) + 1 - TERMINATION_MESSAGE_BYTES
            if excess <= 0:
                return text
            if lines:
                lines.pop(0)
            elif not reason:
                return text
            else:
                # One character takes up to 12 bytes: an escaped pair of surrogates.
                reason = reason[: -max(excess // 12, 1)]


def end_of(record: Mapping[str, Any]) -> End:
    """The end in a record or a termination message.

    Without a valid phase it is FAILED; without a valid exit code it has BUG.
    """
    phases = {phase.value: phase for phase in Phase}
    exit_code, lines = record.get("exitCode"), record.get("lastLines")
    return End(
        phases.get(str(record.get("phase")), Phase.FAILED),
        exit_code if isinstance(exit_code, int) and 0 <= exit_code <= 255 else int(ExitCode.BUG),
        str(record.get("reason", "")),
        str(record.get("task", "")),
        tuple(str(line) for line in lines) if isinstance(lines, list) else (),
    )


class LauncherError(Exception):
    """A failure with one of the launcher's own codes; `reason` is for the user.

    `last_lines` is the output of a program that the launcher ran, such as git.
    """

    def __init__(self, exit_code: ExitCode, reason: str, last_lines: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.exit_code = exit_code
        self.reason = reason
        self.last_lines = last_lines


def describe(exit_code: int) -> str:
    """An exit code in words. It guesses no cause: 137 is a SIGKILL, for whatever reason."""
    if exit_code > SIGNALLED:
        try:
            name = signal.Signals(exit_code - SIGNALLED).name
            return f"killed by {name} (exit code {exit_code})"
        except ValueError:
            pass
    return f"exit code {exit_code}"


def signalled(number: int) -> int:
    """The exit code, as in a shell, of a process that this signal ended."""
    return SIGNALLED + number


def from_wait(returncode: int) -> int:
    """The exit code, as in a shell, for a Popen return code: -15 becomes 143."""
    return returncode if returncode >= 0 else signalled(-returncode)


def fail_with(mistakes: Sequence[str], where: str) -> None:
    """Raises LauncherError(CONFIGURATION) with every mistake, if there is one."""
    if mistakes:
        raise LauncherError(
            ExitCode.CONFIGURATION,
            f"{len(mistakes)} mistake{'s' if len(mistakes) > 1 else ''} in {where}:\n"
            + "\n".join(f"  {mistake}" for mistake in mistakes),
        )
