"""What a person sees while a slow step runs: its name, a sign of life, and how long it took."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

HEARTBEAT_SECONDS = 30


class ClusterError(Exception):
    """A failure that a person can act on; its text is all they need to see."""


def say(text: str) -> None:
    """Print one progress line to stderr."""
    print(f"cluster: {text}", file=sys.stderr, flush=True)


@contextmanager
def step(name: str) -> Iterator[None]:
    """Report a step: when it starts, every 30 s while it runs, and the time it took."""
    start = time.monotonic()
    over = threading.Event()

    def beat() -> None:
        while not over.wait(HEARTBEAT_SECONDS):
            say(f"{name}: still at it, {time.monotonic() - start:.0f} s")

    say(f"{name} ...")
    threading.Thread(target=beat, daemon=True).start()
    try:
        yield
    finally:
        over.set()
    say(f"{name}: {time.monotonic() - start:.1f} s")


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run a command to its end and return its output; a failure quotes its last lines."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise ClusterError(
            f"{' '.join(str(word) for word in command)} ended with {done.returncode}:\n"
            + last_lines(done.stderr or done.stdout)
        )
    return done.stdout


def last_lines(text: str, count: int = 15) -> str:
    """The end of a log, indented for quoting."""
    return "\n".join(f"    {line}" for line in text.splitlines()[-count:])


def within(seconds: float, true: Callable[[], bool]) -> bool:
    """Whether something comes true before the time is over."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
