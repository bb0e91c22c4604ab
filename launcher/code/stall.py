"""Waits for work that may stall: a system call on a server that is away can hang for ever.

Daemon threads do the work, and the caller waits for them only so long. A thread that hangs longer
may still act afterwards, and must do no harm then.
"""

from __future__ import annotations

import threading
import time
from typing import Callable, TypeVar

from launcher.shared.exits import ExitCode, LauncherError

WATCH_SECONDS = 0.5

T = TypeVar("T")


class Stall:
    """What threads report of their work, and how long the caller waits while nothing moves.

    `moved` grows with everything that comes. Threads may add to it without a lock: only that it
    changes matters. Once `over` is set, nobody waits for the work any more.
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
        """One more piece of work is to be done."""
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
        """Returns when all is done; raises what failed first.

        Raises LauncherError: IO once nothing has come for `timeout` seconds, in the words that
        `silent` has for so many seconds; TRY_AGAIN where it was cancelled.
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
                    raise LauncherError(ExitCode.TRY_AGAIN, f"{label} is no longer wanted")
                if now - since >= self.timeout:
                    raise LauncherError(ExitCode.IO, silent(now - since))
                self.changed.wait(min(WATCH_SECONDS, self.timeout))


def call(act: Callable[[Stall], T], label: str, timeout: float, cancelled: threading.Event) -> T:
    """What `act` returns or raises, with a thread of its own. Raises LauncherError as `wait`."""
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
