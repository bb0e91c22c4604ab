"""What the kernel's /proc tells of processes. Where there is no /proc, it tells nothing."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

SHELLS = frozenset({"bash", "busybox", "dash", "sh", "zsh"})


def children() -> list[int]:
    """The ids of this process's children."""
    found = []
    for pid in _numbers("/proc"):
        with contextlib.suppress(OSError):
            # pid (name) state ppid ...: the name can hold any character, brackets too.
            stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
            if int(stat.rpartition(")")[2].split()[1]) == os.getpid():
                found.append(pid)
    return found


def kill_children() -> None:
    """Kills this process's children, and what these leave behind."""
    while pids := children():
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def threads(pid: int) -> list[int]:
    """The ids of a process's threads."""
    return _numbers(f"/proc/{pid}/task")


def maps(pid: int, library: str) -> bool:
    """Whether a process has loaded a file whose path contains this text."""
    with contextlib.suppress(OSError):
        return library in Path(f"/proc/{pid}/maps").read_text(errors="replace")
    return False


def is_shell(pid: int) -> bool:
    """Whether a process runs a shell."""
    return os.path.basename(_link(pid, "exe")) in SHELLS


def reads_pipe(pid: int) -> bool:
    """Whether a process's standard input is a pipe."""
    return _link(pid, "fd/0").startswith("pipe:")


def _numbers(folder: str) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(name) for name in os.listdir(folder) if name.isdecimal()]
    return []


def _link(pid: int, name: str) -> str:
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/{name}")
    return ""
