"""Waits for work that may stall: a system call can hang for ever while a server does not answer.

Daemon threads do the work, and the caller waits for them only until a timeout. A thread that hangs
longer may act after that, and must then do no harm.
"""

from __future__ import annotations

import threading
import time
from typing import Callable, TypeVar

from launcher.shared.exits import ExitCode, LauncherError

WATCH_SECONDS = 0.5

T = TypeVar("T")


class Stall:
    """What threads report of their work, and how long the caller waits without progress.

    `moved` grows with all data that arrives. Threads add to it without a lock, because only its
    change matters. Once `over` is set, the caller no longer waits.
    """

    def __init__(self, timeout: float, cancelled: threading.Event) -> None:
        self.timeout = timeout
        self.cancelled = cancelled
        self.changed = threading.Condition()
        self.pending = 0
        self.moved = 0
        self.failure: Exception | None = None
        self.over = False

    def add(self) -> None:
        """Adds a piece of work."""
        with self.changed:
            self.pending += 1

    def done(self, failure: Exception | None = None) -> None:
        """One piece of work is done, or has failed."""
        with self.changed:
            self.moved += 1
            self.pending -= 1
            self.failure = self.failure or failure
            if not self.pending or failure:
                self.changed.notify()

    def wait(self, label: str, silent: Callable[[float], str]) -> None:
        """Returns when all work is done; raises what failed first.

        Raises LauncherError: IO after `timeout` seconds without progress, with the message that
        `silent` gives for these seconds; TRY_AGAIN if cancelled.
        """
        try:
            self._watch(label, silent)
        finally:
            self.over = True
        if self.failure:
            raise self.failure

    def _watch(self, label: str, silent: Callable[[float], str]) -> None:
        seen, since = -1, time.monotonic()
        with self.changed:
            while self.pending and not self.failure:
                now = time.monotonic()
                if self.moved != seen:
                    seen, since = self.moved, now
                if self.cancelled.is_set():
                    raise LauncherError(ExitCode.TRY_AGAIN, f"{label}: cancelled")
                if now - since >= self.timeout:
                    raise LauncherError(ExitCode.IO, silent(now - since))
                self.changed.wait(min(WATCH_SECONDS, self.timeout))


def call(act: Callable[[Stall], T], label: str, timeout: float, cancelled: threading.Event) -> T:
    """What `act` returns or raises on a new thread. Raises LauncherError as `wait` does."""
    stall = Stall(timeout, cancelled)
    results: list[T] = []

    def run() -> None:
        try:
            results.append(act(stall))
        except Exception as error:
            stall.done(error)
        else:
            stall.done()

    stall.add()
    threading.Thread(target=run, daemon=True).start()
    stall.wait(label, lambda seconds: f"{label} has not answered for {seconds:.0f} s")
    return results[0]
