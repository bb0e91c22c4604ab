"""Runs commands, several at once where that saves time, and ends all of them on an interruption."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

GRACE_SECONDS = 5  # that an interrupted command has to end, after SIGINT and again after SIGTERM


class ClusterError(Exception):
    """A failure that you can act on. Its text says all that you need."""


@dataclass(frozen=True)
class Command:
    """A command that runs, and the files that its output goes to."""

    process: subprocess.Popen[bytes]
    out: BinaryIO
    err: BinaryIO
    grace: float  # seconds

    def end(self) -> None:
        """End it and its children."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(self.grace)


@dataclass
class Commands:
    """The commands of this process."""

    running: dict[int, Command] = field(default_factory=dict)  # by thread
    stopping: bool = False  # tasks beside each other are ending: start no further command


COMMANDS = Commands()


def refuse_to_start() -> None:
    """Raise ClusterError where the tasks that run beside each other are ending."""
    if COMMANDS.stopping:
        raise ClusterError("interrupted")


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    grace: float = GRACE_SECONDS,
) -> str:
    """Run a command and return its output. If it fails, raise ClusterError with its last lines.

    An interruption sends it SIGINT; `grace` seconds later SIGTERM, and then SIGKILL.
    """
    refuse_to_start()
    words = [str(word) for word in command]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            words,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,  # so that its children end with it
        )
        running = Command(process, out, err, grace)
        COMMANDS.running[threading.get_ident()] = running
        try:
            code = process.wait()
        except BaseException:
            running.end()
            raise
        finally:
            del COMMANDS.running[threading.get_ident()]
        printed, complaint = whole(out), whole(err)
    if code != 0:
        # Some commands print the cause to stdout and only "failed" to stderr.
        quote = last_lines(f"{printed.rstrip()}\n{complaint}")
        raise ClusterError(f"{' '.join(words)} ended with {code}:\n{quote}")
    return printed


def beside(*tasks: Callable[[], object]) -> None:
    """Run tasks in parallel, and wait for all of them.

    If one fails or is interrupted, we end the commands of the others and raise its exception.
    """
    threads: list[int] = []

    def work(task: Callable[[], object]) -> None:
        threads.append(threading.get_ident())
        task()

    futures: list[Future[None]] = []
    with ThreadPoolExecutor(len(tasks)) as pool:
        try:
            futures += [pool.submit(work, task) for task in tasks]
            for future in as_completed(futures):
                future.result()
        except BaseException:
            with stopping():
                while not all(future.done() for future in futures):
                    for thread in threads:
                        if command := COMMANDS.running.get(thread):
                            command.end()
                    time.sleep(0.05)
            raise


@contextmanager
def stopping() -> Iterator[None]:
    """No command starts, and a second Ctrl-C does not prevent that the running ones are ended."""
    main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    COMMANDS.stopping = True
    try:
        yield
    finally:
        COMMANDS.stopping = False
        if main:
            signal.signal(signal.SIGINT, handler)


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
