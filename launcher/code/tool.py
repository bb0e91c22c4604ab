"""Runs a tool to its end: git or pip."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.shared.exits import ExitCode, LauncherError, from_wait
from launcher.shared.process import LINE_BYTES, Output, start

WATCH_SECONDS = 0.2
# Variables that change what a tool does or prints, rather than how it reaches a server. A tool gets
# none of them; the program gets them all.
SHIELDED = re.compile(
    r"PYTHON(?!PATH$|HOME$|USERBASE$|NOUSERSITE$)|LD_PRELOAD$"
    r"|GIT_(?!ASKPASS$|CONFIG|EXEC_PATH$|HTTP|PRO|SSH|SSL)"
    r"|PIP_(TARGET|PREFIX|ROOT|USER|PYTHON|REQUIRE_VIRTUALENV|REQUIREMENT|EDITABLE|SRC|QUIET|VERBOSE"
    r"|DRY_RUN|REPORT|UPGRADE|FORCE_REINSTALL|IGNORE_INSTALLED)$"
)
LOGIN = re.compile(r"(https?://)[^\s/@]+@")


@dataclass(frozen=True)
class Finished:
    """A tool's exit code, as in a shell, and its last lines of output, without passwords."""

    exit_code: int
    last_lines: tuple[str, ...]


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """The variables that a tool gets."""
    return {name: value for name, value in env.items() if not SHIELDED.match(name)}


def run(
    argv: Sequence[str | Path],
    env: Mapping[str, str],
    cwd: Path,
    silence: float,
    cancelled: threading.Event,
) -> Finished:
    """Runs a tool; kills it after `silence` seconds without output, or when cancelled.

    Raises LauncherError: CONFIGURATION if the image does not have it, IO if it was silent,
    TRY_AGAIN if cancelled.
    """
    try:
        process = start(argv, env, cwd)
    except OSError as error:
        raise LauncherError(
            ExitCode.CONFIGURATION, f"the image must have {argv[0]}: {error.strerror}"
        ) from None
    output = _Output(process)
    try:
        while output.reader.is_alive():
            output.reader.join(WATCH_SECONDS)
            if cancelled.is_set():
                raise LauncherError(ExitCode.TRY_AGAIN, f"{argv[0]}: cancelled")
            if time.monotonic() - output.told_at > silence:
                raise LauncherError(ExitCode.IO, f"{argv[0]} has printed nothing for {silence:g} s")
        lines = tuple(LOGIN.sub(r"\1****@", line) for line in output.last_lines())
        return Finished(from_wait(process.wait()), lines)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class _Output(Output):
    """The last lines that a process prints, and when it last printed."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        super().__init__()
        self.told_at = time.monotonic()
        self.reader = threading.Thread(target=self._read, args=[process], daemon=True)
        self.reader.start()

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout
        with process.stdout:
            while data := os.read(process.stdout.fileno(), LINE_BYTES):
                self.told_at = time.monotonic()
                self.take(data)
        self.take(b"\n")
