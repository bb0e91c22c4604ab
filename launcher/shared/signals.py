"""Delivers signals as events, even while the main thread waits."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable
from typing import Callable

READ_BYTES = 64


def listen(numbers: Iterable[int], put: Callable[[int], None]) -> None:
    """Calls `put` with the number of each of these signals, on a new thread.

    Python runs signal handlers only on the main thread, but the kernel may deliver a signal to
    another thread. A main thread that waits for an event would then not wake up.
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
