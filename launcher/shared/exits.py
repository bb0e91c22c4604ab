"""Every way to end: its name, its code, its owner, its one line.

A program's own code passes through, a signal becomes 128 + its number as in a shell, and the
launcher's own ends use the codes below (after BSD's sysexits), so that a code tells who failed.
"""

from __future__ import annotations

import enum
import json
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TERMINATION_MESSAGE_BYTES = 4096  # the kubelet keeps the last ones of a longer text
SIGNALLED = 128  # a greater exit code names the signal that ended the process


class ExitCode(enum.IntEnum):
    """The launcher's own exit codes."""

    OK = 0
    USAGE = 64  # the command line is wrong
    CODE_MISSING = 66  # the program's code is not where the values say
    PEERS_UNAVAILABLE = 69  # the other tasks could not be reached in time
    BUG = 70  # the launcher itself failed
    IO = 74  # reading or writing failed
    TRY_AGAIN = 75  # a passing fault outside the program
    DEADLINE = 124  # the run took too long, or made no progress
    CONFIGURATION = 78  # values, environment or job.json are wrong
    COMMAND_NOT_EXECUTABLE = 126  # as a shell says it
    COMMAND_NOT_FOUND = 127  # as a shell says it


class Phase(enum.Enum):
    """How something ended, as the termination message says it."""

    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    STOPPED = "Stopped"  # from outside: a signal, a drained node, an uninstall


@dataclass(frozen=True)
class End:
    """The end of a task, of the controller or of the whole run.

    `found` says that a controller found the run ended, on record or with the tasks, and did not
    decide the end itself.
    """

    phase: Phase
    exit_code: int
    reason: str
    task: str = ""
    last_lines: tuple[str, ...] = ()
    found: bool = False

    @property
    def words(self) -> str:
        """The reason as people read it in the termination message."""
        return f"ended already: {self.reason}" if self.found else self.reason

    def record(self) -> dict[str, Any]:
        """What is kept of it on record: all but the last lines, which may be long."""
        return {
            "phase": self.phase.value,
            "task": self.task,
            "exitCode": self.exit_code,
            "reason": self.reason,
        }

    def message(self) -> str:
        """One JSON line that with its line break is at most TERMINATION_MESSAGE_BYTES long.

        The oldest lines give way first. JSON's escapes make it ASCII: a character is a byte.
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
                # One character may be as many as 12 bytes, an escaped pair of surrogates.
                reason = reason[: -max(excess // 12, 1)]


def end_of(record: Mapping[str, Any]) -> End:
    """The end that a record or a termination message tells.

    A missing or wrong field counts as a failure of the launcher.
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
    """A failure with one of the launcher's own codes; the message is for the user.

    `last_lines` are those of a program that the launcher ran.
    """

    def __init__(self, exit_code: ExitCode, reason: str, last_lines: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.exit_code = exit_code
        self.reason = reason
        self.last_lines = last_lines


def describe(exit_code: int) -> str:
    """What an exit code says, and no more: 137 is a SIGKILL, not yet an out-of-memory kill."""
    if exit_code > SIGNALLED:
        try:
            name = signal.Signals(exit_code - SIGNALLED).name
            return f"killed by {name} (exit code {exit_code})"
        except ValueError:
            pass
    return f"exit code {exit_code}"


def signalled(number: int) -> int:
    """The shell's exit code of a process that the signal of this number ended."""
    return SIGNALLED + number


def from_wait(returncode: int) -> int:
    """The shell's code for a Popen return code: -15 becomes 143."""
    return returncode if returncode >= 0 else signalled(-returncode)


def fail_with(mistakes: Sequence[str], where: str) -> None:
    """Raises LauncherError(CONFIGURATION) with every mistake, if there is one."""
    if mistakes:
        raise LauncherError(
            ExitCode.CONFIGURATION,
            f"{len(mistakes)} mistake{'s' if len(mistakes) > 1 else ''} in {where}:\n"
            + "\n".join(f"  {mistake}" for mistake in mistakes),
        )
