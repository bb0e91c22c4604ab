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
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

HEARTBEAT_SECONDS = 15
WIDTH = 100  # of a quoted line
GRACE_SECONDS = 10  # from SIGTERM to SIGKILL, for commands that are interrupted
NEW_LINE = b"\n"


class ClusterError(Exception):
    """A failure that you can act on. Its text says all that you need."""


@dataclass(frozen=True)
class Command:
    """A command that runs, and the files that its output goes to."""

    process: subprocess.Popen[bytes]
    out: BinaryIO
    err: BinaryIO


@dataclass
class Account:
    """The steps and commands of this process."""

    total: int = 0  # known steps, begun or not
    begun: int = 0
    start: float = field(default_factory=time.monotonic)
    running: dict[int, Command] = field(default_factory=dict)  # thread -> the command that it runs


ACCOUNT = Account()


def say(text: str) -> None:
    """Print one progress line to stderr."""
    print(f"cluster: {text}", file=sys.stderr, flush=True)


def announce(steps: int) -> None:
    """Add future steps to the total, which each step prints."""
    ACCOUNT.total = max(ACCOUNT.total, ACCOUNT.begun) + steps


@contextmanager
def step(name: str, packages: int = 0) -> Iterator[None]:
    """Report a step: its start, what it does every 15 s, and the time that it took.

    If its command prints a line for each of at most `packages` packages, we print their number.
    """
    start = time.monotonic()
    thread = threading.get_ident()
    over = threading.Event()
    ACCOUNT.begun += 1
    number = ACCOUNT.begun
    if ACCOUNT.begun > ACCOUNT.total:
        ACCOUNT.total = ACCOUNT.begun

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
        command = ACCOUNT.running[thread]
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


def beside(*tasks: Callable[[], object]) -> None:
    """Run tasks in parallel, and wait for all of them.

    If one fails or is interrupted, we end the commands of the others and raise its exception.
    """
    threads: set[int] = set()

    def work(task: Callable[[], object]) -> None:
        threads.add(threading.get_ident())
        task()

    with ThreadPoolExecutor(len(tasks)) as pool:
        futures = [pool.submit(work, task) for task in tasks]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            while not all(future.done() for future in futures):
                for thread in threads:
                    if command := ACCOUNT.running.get(thread):
                        end(command.process)
                time.sleep(0.05)
            raise


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run a command and return its output. If it fails, raise ClusterError with its last lines."""
    words = [str(word) for word in command]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            words,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,  # so that `end` also ends its children
        )
        ACCOUNT.running[threading.get_ident()] = Command(process, out, err)
        try:
            code = process.wait()
        except BaseException:
            end(process)
            raise
        finally:
            del ACCOUNT.running[threading.get_ident()]
        printed, complaint = whole(out), whole(err)
    if code != 0:
        quote = last_lines(complaint or printed)
        raise ClusterError(f"{' '.join(words)} ended with {code}:\n{quote}")
    return printed


def end(process: subprocess.Popen[bytes]) -> None:
    """End a command of `run` and its children."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)


def whole(file: BinaryIO) -> str:
    """All that was written to a file."""
    file.seek(0)
    return file.read().decode(errors="replace")


def last_lines(text: str, count: int = 15) -> str:
    """The end of a log, indented for quoting."""
    return "\n".join(f"    {line}" for line in text.splitlines()[-count:])


def within(seconds: float, true: Callable[[], bool]) -> bool:
    """Whether a condition becomes true in time."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
