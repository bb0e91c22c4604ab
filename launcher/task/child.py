"""Runs a child process: its own session, signals, grace period, output line by line, its end.

The launcher is a container's first process, so it also reaps the orphans that its child leaves.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Callable

from launcher.shared import log
from launcher.shared.exits import ExitCode, LauncherError, from_wait
from launcher.shared.log import say
from launcher.shared.process import LINE_BYTES, Output, adopt_orphans, start


@dataclass(frozen=True)
class Ended:
    """A child's end: its exit code as in a shell, its last lines of output, and when it exited."""

    exit_code: int
    last_lines: tuple[str, ...]
    at: float  # seconds of the monotonic clock


class Child:
    """A running child process. It calls `ended` once, on its own thread."""

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: Path,
        ended: Callable[[Ended], None],
        line: Callable[[str], None] | None = None,
        copy: Path | None = None,
    ) -> None:
        """Starts the child. Each line of output goes to `line`, and into the file `copy`.

        Raises LauncherError if `argv` cannot be started in `cwd`.
        """
        adopt_orphans()
        try:
            self._process = start(argv, env, cwd)
        except OSError as error:
            raise _cannot_start(argv, env, cwd, error) from None
        self.pid = self._process.pid
        self._output = Output()
        self._ended = ended
        self._line = line
        self._copy = copy
        self._kill_timer: threading.Timer | None = None
        self._reaping = threading.Lock()
        self._reaped = False
        threading.Thread(target=self._wait, daemon=True).start()

    def last_lines(self) -> tuple[str, ...]:
        """The last lines of output so far."""
        return self._output.last_lines()

    def send(self, number: int) -> None:
        """Sends a signal to the child's whole process group."""
        with self._reaping:
            if not self._reaped:  # a reaped child's id may be another process's
                # The group may hold only its dead leader.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, number)

    def stop(self, grace: float, number: int = signal.SIGTERM) -> None:
        """Asks the group to end, and kills it `grace` seconds after the first call."""
        if self._kill_timer:
            return
        # Timer waits on the monotonic clock.
        self._kill_timer = threading.Timer(grace, self.send, [signal.SIGKILL])
        self._kill_timer.daemon = True
        self._kill_timer.start()
        self.send(number)

    def _wait(self) -> None:
        assert self._process.stdout
        pump = threading.Thread(target=self._pump, args=[self._process.stdout], daemon=True)
        pump.start()
        self._wait_for_exit()
        at = time.monotonic()  # before the cleanup: the controller compares when tasks failed
        if self._kill_timer:
            self._kill_timer.cancel()
        self.send(signal.SIGKILL)  # processes left in its group
        with self._reaping:
            self._process.wait()
            self._reaped = True
        _kill_orphans()  # processes that have left the group
        pump.join(timeout=5)  # the pipe ends with its last writer, and all are dead
        self._ended(Ended(from_wait(self._process.returncode), self.last_lines(), at))

    def _wait_for_exit(self) -> None:
        """Waits until the child has exited, but does not reap it; reaps orphans meanwhile."""
        while True:
            result = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            if result is None or result.si_pid == self.pid:
                return
            with contextlib.suppress(ChildProcessError):
                os.waitpid(result.si_pid, os.WNOHANG)

    def _pump(self, stream: IO[bytes]) -> None:
        copy = self._open_copy()
        # sys.stdout is None if it was closed when the launcher started.
        outputs = [out for out in (sys.stdout and sys.stdout.buffer, copy) if out]
        with stream, copy or contextlib.nullcontext():
            mid_line = False
            # The last line gets an end, or the next child would continue it.
            while data := os.read(stream.fileno(), LINE_BYTES) or (mid_line and b"\n"):
                for text in self._output.take(data):
                    if self._line:
                        self._line(text)
                with log.stdout:
                    for out in outputs:
                        # Keep reading when an output is closed, or the child would block.
                        with contextlib.suppress(OSError, ValueError):
                            out.write(data)
                            out.flush()
                    log.mid_line = mid_line = not data.endswith(b"\n")

    def _open_copy(self) -> IO[bytes] | None:
        if not self._copy:
            return None
        try:
            self._copy.parent.mkdir(parents=True, exist_ok=True)
            return self._copy.open("ab")
        except OSError as error:
            say(f"logs must name a folder that tasks can write to: {error}")
            return None


def _cannot_start(
    argv: Sequence[str], env: Mapping[str, str], cwd: Path, error: OSError
) -> LauncherError:
    if not os.path.isdir(cwd):
        what = f"program.workingDir must be a folder of the code; {cwd} is not"
        return LauncherError(ExitCode.CODE_MISSING, what)
    word, code = argv[0], ExitCode.COMMAND_NOT_EXECUTABLE
    path = os.path.join(cwd, word) if "/" in word else shutil.which(word, path=env.get("PATH"))
    why = f"cannot be run: {error.strerror}"
    if isinstance(error, FileNotFoundError):
        code, why = ExitCode.COMMAND_NOT_FOUND, "is not found in the image or the code"
        if path and os.path.lexists(path):
            why = f"needs {_needed(path)}"
    elif str(error.filename) == str(cwd):
        why += f": user {os.geteuid()} may not enter {cwd}"
    else:
        why += ". A script needs its execute bit and #!, or its interpreter, like [sh, run.sh]"
    return LauncherError(code, f"program.command {word!r} {why}")


def _needed(path: str) -> str:
    """What a file that exists lacks."""
    head = Path(path).read_bytes()[:4096] if os.access(path, os.R_OK) else b""
    if head.partition(b"\n")[0].endswith(b"\r"):
        return "lines that end with LF, not CR LF (see dos2unix)"
    named = re.search(rb"\A#!\s*(\S+)|(/\S*/ld-\S*?)\0", head)
    what = os.fsdecode(named[1] or named[2]) if named else os.path.realpath(path)
    return f"{what}, which is not found"


def _kill_orphans() -> None:
    while True:
        orphans = _children()
        if not orphans:
            return
        for pid in orphans:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _children() -> list[int]:
    """The ids of this process's children; none where there is no /proc."""
    children = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # pid (name) state ppid ...: the name can hold any character, brackets too.
            after_name = stat.read_text(errors="replace").rpartition(")")[2].split()
            if int(after_name[1]) == os.getpid():
                children.append(int(stat.parent.name))
    return children
