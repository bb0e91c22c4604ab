"""Starts processes, each in its own session, without input and with one output stream."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36


def start(
    argv: Sequence[str | Path], env: Mapping[str, str], cwd: Path | None = None
) -> subprocess.Popen[bytes]:
    """Starts a process; one pipe carries its output and its errors. Raises OSError."""
    return subprocess.Popen(
        argv,
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C reaches only the launcher, which stops its processes
    )


def adopt_orphans() -> None:
    """Makes orphaned descendants children of this process, as they are of PID 1."""
    if os.getpid() == 1 or not sys.platform.startswith("linux"):
        return
    import ctypes  # imported here because pods do not need it

    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
