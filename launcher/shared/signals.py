"""Signals as events, whatever the threads of this process are doing."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable
from typing import Callable

READ_BYTES = 64


def listen(numbers: Iterable[int], put: Callable[[int], None]) -> None:
    """Calls `put` with the number of each such signal that comes, on a thread of its own.

    Python runs its handlers on the main thread alone, and the kernel may give a signal to another
    one: a main thread that waits for an event would sleep on.
    https://docs.python.org/3/library/signal.html#signal.set_wakeup_fd
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    wanted = frozenset(numbers)
    for number in wanted:
        signal.signal(number, lambda *_: None)

    def work() -> None:
        while True:
            for number in os.read(reader, READ_BYTES):
                if number in wanted:
                    put(number)

    threading.Thread(target=work, daemon=True).start()
