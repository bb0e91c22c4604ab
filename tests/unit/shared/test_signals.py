"""Signals arrive as events."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

# The main thread waits and blocks both signals, so the kernel delivers them to the other thread.
PROGRAM = """
import queue, signal, threading
from launcher.shared import signals

events = queue.SimpleQueue()
ready = threading.Event()
threading.Thread(target=lambda: (ready.set(), threading.Event().wait()), daemon=True).start()
signals.listen([signal.SIGTERM, signal.SIGUSR1], events.put)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1])
ready.wait()
print("ready", flush=True)
print(events.get(), events.get(), flush=True)
"""


def test_a_signal_delivered_to_another_thread_is_still_an_event() -> None:
    program = [sys.executable, "-c", PROGRAM]
    root = Path(__file__).parents[3]
    with subprocess.Popen(program, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        for number in (signal.SIGUSR1, signal.SIGTERM):
            process.send_signal(number)
        said, _ = process.communicate(timeout=30)
    assert sorted(said.split()) == sorted(map(str, map(int, (signal.SIGUSR1, signal.SIGTERM))))
