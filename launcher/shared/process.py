"""Starting processes: every one has a session of its own, no input, and one stream of output."""

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
    """Starts a process whose output and errors come through one pipe. Raises OSError."""
    return subprocess.Popen(
        argv,
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # a Ctrl-C reaches the launcher alone, which stops it in its way
    )


def adopt_orphans() -> None:
    """Makes grandchildren whose parent ends this process's children, as PID 1 has by nature."""
    if os.getpid() == 1 or not sys.platform.startswith("linux"):
        return
    import ctypes  # not needed in a pod

    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
