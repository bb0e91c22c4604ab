"""Runs a program that somebody else wrote to its end: git, pip, zstd."""

from __future__ import annotations

import collections
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
from launcher.shared.process import start

KEPT_LINES = 20
READ_BYTES = 64 * 1024
WATCH_SECONDS = 0.2


@dataclass(frozen=True)
class Finished:
    """How it ended: its code as a shell says it, and its last lines of output."""

    exit_code: int
    last_lines: tuple[str, ...]


def run(
    argv: Sequence[str | Path],
    env: Mapping[str, str],
    cwd: Path,
    silence: float,
    cancelled: threading.Event,
) -> Finished:
    """Runs it, and ends it once it has told nothing for `silence` seconds or nobody wants it.

    Raises LauncherError: CONFIGURATION where the image does not have it, IO where it was silent,
    TRY_AGAIN where it was cancelled.
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
                raise LauncherError(ExitCode.TRY_AGAIN, f"{argv[0]} was ended: nobody wants it")
            if time.monotonic() - output.told_at > silence:
                raise LauncherError(ExitCode.IO, f"{argv[0]} has told nothing for {silence:g} s")
        return Finished(from_wait(process.wait()), tuple(output.lines))
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class _Output:
    """The last lines that a process tells, and when it told the last one."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.lines: collections.deque[str] = collections.deque(maxlen=KEPT_LINES)
        self.told_at = time.monotonic()
        self.reader = threading.Thread(target=self._read, args=[process], daemon=True)
        self.reader.start()

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout
        rest = ""
        with process.stdout:
            while data := os.read(process.stdout.fileno(), READ_BYTES):
                self.told_at = time.monotonic()
                *lines, rest = re.split(r"[\r\n]+", rest + data.decode(errors="replace"))
                self.lines.extend(line for line in lines if line.strip())
        if rest.strip():
            self.lines.append(rest)
