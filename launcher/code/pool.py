"""A pool of threads, for requests that mostly wait for the network."""

from __future__ import annotations

import queue
import threading
from typing import Callable

from launcher.code.stall import Stall


class Pool:
    """Runs tasks on threads; a task may put more tasks.

    Each task has the name of what it reads. The first exception ends the pool.
    """

    def __init__(self, stall: Stall) -> None:
        self.stall = stall
        self.lock = threading.Lock()
        self._tasks: queue.SimpleQueue[tuple[str, Callable[[], None]] | None] = queue.SimpleQueue()
        self._reading: list[str] = []

    def put(self, name: str, task: Callable[[], None]) -> None:
        """Queues a task."""
        self.stall.add()
        self._tasks.put((name, task))

    def run(self, threads: int, label: str, silent: Callable[[float], str]) -> None:
        """Returns when all tasks are done. `label` and `silent` go to Stall.wait."""
        for _ in range(threads):
            threading.Thread(target=self._work, daemon=True).start()
        try:
            self.stall.wait(label, silent)
        finally:
            for _ in range(threads):
                self._tasks.put(None)

    def reading(self) -> str:
        """One of the names that are being read: the first in the alphabet."""
        with self.lock:
            return min(self._reading, default="")

    def _work(self) -> None:
        while True:
            task = self._tasks.get()
            if task is None or self.stall.over:
                return
            name, act = task
            failure: Exception | None = None
            with self.lock:
                self._reading.append(name)
            try:
                act()
            except Exception as error:  # or `run` would wait for a dead thread
                failure = error
            with self.lock:
                self._reading.remove(name)
            self.stall.done(failure)
