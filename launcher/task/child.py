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
from launcher.task import processes

# MultiWorkerMirroredStrategy catches SIGTERM. A thread of it logs this, and the training goes on.
# A program that handles SIGTERM has replaced TensorFlow's handler, so nothing is logged.
CAUGHT = re.compile(r"(\d+) preemption_notifier\.cc:\d+\] SIGTERM caught")


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
        self._stopped_by = 0
        self._waits = True  # whether a program that trains on after the signal keeps its grace
        self._timers: list[threading.Timer] = []
        self._lock = threading.Lock()  # held to signal and to reap, because a reaped id is reused
        self._members = {self.pid}  # signals go to them: the program, later what it has left
        self._threads: set[int] = set()  # of the members, when they were told to stop
        self._killed = False
        threading.Thread(target=self._wait, daemon=True).start()

    def last_lines(self) -> tuple[str, ...]:
        """The last lines of output so far."""
        return self._output.last_lines()

    def send(self, number: int) -> None:
        """Sends a signal to the program alone, as the kubelet does; SIGKILL to its whole group."""
        with self._lock:
            self._send(self._members, number)
            if number == signal.SIGKILL:
                self._killed = True
                if self.pid in self._members:
                    self._send({-self.pid}, number)

    def stop(self, grace: float, number: int = signal.SIGTERM, waits: bool = True) -> None:
        """Asks the program to end, and kills its group `grace` seconds after the first call.

        Without `waits`, the program is killed as soon as TensorFlow logs that it caught SIGTERM.
        """
        if self._stopped_by:
            return
        # Timer waits on the monotonic clock.
        self._timers = [
            threading.Timer(grace, self.send, [signal.SIGKILL]),
            threading.Timer(grace / 2, self._pass_on),
        ]
        for timer in self._timers:
            timer.daemon = True
            timer.start()
        with self._lock:
            self._stopped_by, self._waits = number, waits
            self._ask(self._members)
            if number == signal.SIGINT:  # as a terminal does; a shell waits for its program
                self._send({-pid for pid in self._members if processes.is_shell(pid)}, number)

    def _ask(self, members: set[int]) -> None:
        """Sends members the signal that stops them. What reads from a pipe ends with its writer."""
        for pid in members:
            if not self._waits and not processes.maps(
                pid, "jaxlib"
            ):  # JAX logs CAUGHT, too, and saves
                self._threads |= set(processes.threads(pid))
        self._send({pid for pid in members if not processes.reads_pipe(pid)}, self._stopped_by)

    def _pass_on(self) -> None:
        """Sends the signal to what a shell has started, and to a reader that has no writer."""
        with self._lock:
            pids = {-os.getpgid(pid) for pid in self._members if processes.is_shell(pid)}
            if all(map(processes.reads_pipe, self._members)):
                pids |= self._members
            self._send(pids, self._stopped_by)

    def _send(self, pids: set[int], number: int) -> None:
        for pid in pids:
            # A group may hold only its dead leader.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)

    def _wait(self) -> None:
        assert self._process.stdout
        pump = threading.Thread(target=self._pump, args=[self._process.stdout], daemon=True)
        pump.start()
        at = self._wait_for_members()
        for timer in self._timers:
            timer.cancel()
        processes.kill_children()  # processes that have left the group
        pump.join(timeout=5)  # the pipe ends with its last writer, and all are dead
        self._ended(Ended(from_wait(self._process.returncode), self.last_lines(), at))

    def _wait_for_members(self) -> float:
        """Waits for the program's end, and reaps orphans meanwhile. Returns when it has exited."""
        at = 0.0
        while self._members:
            end = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            assert end
            pid = end.si_pid
            if pid == self.pid:
                # before the cleanup: the controller compares when tasks failed
                at = time.monotonic()
            with self._lock:
                if pid in self._members:
                    self._member_ended(pid, (end.si_code, end.si_status))
                if pid == self.pid:
                    if not self._members:
                        self._send({-pid}, signal.SIGKILL)  # processes left in its group
                    self._process.wait()
                else:
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG)
        return at

    def _member_ended(self, pid: int, end: tuple[int, int]) -> None:
        """Decides what becomes of the processes that a member leaves behind.

        A program that the signal kills, like a shell, has not passed it on: its children get the
        signal in its place, and the rest of the grace.
        """
        self._members.remove(pid)
        left = set(processes.children()) - self._members - {pid}
        if end == (os.CLD_KILLED, self._stopped_by) and not self._killed:
            self._members |= left
            self._ask(left)
        elif self._stopped_by and all(map(processes.reads_pipe, self._members)):
            self._send(left, signal.SIGKILL)  # they would keep the pipe to its reader open

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
                    caught = CAUGHT.search(text) if self._threads else None
                    if caught and int(caught[1]) in self._threads:
                        say("TensorFlow has caught SIGTERM and trains on: killing the program")
                        self.send(signal.SIGKILL)
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
