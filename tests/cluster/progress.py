"""What you see while slow steps run: their number, their progress, and the time they take.

    cluster: step 2 of 8, 0:21: compiling kubelet, kube-apiserver, ...
    cluster: step 2 of 8, 0:36: 412 of at most 3,054 packages
    cluster: step 3 of 8, 0:36: I: Retrieving libssl3

Steps may run in parallel, each in its own thread. While a step runs, we print the last line of its
command's output every 15 s, so that you can tell a download from a compilation.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO

from tests.cluster.commands import COMMANDS, ClusterError

HEARTBEAT_SECONDS = 15
WIDTH = 100  # of a sign of life
NEW_LINE = b"\n"
INTERRUPTED = 130  # the exit code that shells give to Ctrl-C


@dataclass
class Account:
    """The steps of this process."""

    total: int = 0  # known steps, begun or not
    begun: int = 0
    start: float = field(default_factory=time.monotonic)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self) -> int:
        """Count a step that begins, and return its number."""
        with self.lock:
            self.begun += 1
            self.total = max(self.total, self.begun)
            return self.begun


ACCOUNT = Account()


def guarded(main: Callable[[], int]) -> int:
    """Run a program and return its exit code: a failure is one message, not a traceback.

    SIGTERM and SIGHUP act like Ctrl-C, because the commands of `run` get no signal from a terminal.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        return main()
    except ClusterError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("interrupted: what is complete is kept, and the next make continues from there")
        return INTERRUPTED


def say(text: str) -> None:
    """Print one progress line to stderr."""
    sys.stderr.write(f"cluster: {text}\n")  # one write: lines of two threads do not mix
    sys.stderr.flush()


def announce(steps: int) -> None:
    """Set the number of steps that follow, so that each step can print the total."""
    ACCOUNT.total = ACCOUNT.begun + steps


@contextmanager
def step(name: str, packages: int = 0) -> Iterator[None]:
    """Report a step: its start, what it does every 15 s, and the time that it took.

    If its command prints a line for each of at most `packages` packages, we print their number.
    """
    start = time.monotonic()
    thread = threading.get_ident()
    over = threading.Event()
    number = ACCOUNT.begin()

    def tell(text: str) -> None:
        elapsed = int(time.monotonic() - ACCOUNT.start)
        say(f"step {number} of {ACCOUNT.total}, {elapsed // 60}:{elapsed % 60:02}: {text}")

    def beat() -> None:
        while not over.wait(HEARTBEAT_SECONDS):
            doing = activity(thread, packages)
            tell(doing or f"running for {time.monotonic() - start:.0f} s")

    tell(f"{name} ...")
    threading.Thread(target=beat, daemon=True).start()
    try:
        yield
    finally:
        over.set()
    tell(f"{name}: done in {time.monotonic() - start:.1f} s")


def activity(thread: int, packages: int) -> str:
    """What a thread's command does: its last line of output; empty if it has printed nothing."""
    with contextlib.suppress(KeyError, ValueError, OSError):  # the command may end meanwhile
        command = COMMANDS.running[thread]
        newest = max(command.out, command.err, key=last_written)
        printed = os.pread(newest.fileno(), os.fstat(newest.fileno()).st_size, 0)
        if packages:
            return f"{printed.count(NEW_LINE):,} of at most {packages:,} packages"
        lines = printed.decode(errors="replace").replace("\r", "\n").split("\n")
        return next((line.strip()[:WIDTH] for line in reversed(lines) if line.strip()), "")
    return ""


def last_written(file: BinaryIO) -> tuple[bool, float]:
    """A sort key: the time of a file's last write; empty files come first."""
    status = os.fstat(file.fileno())
    return status.st_size > 0, status.st_mtime
