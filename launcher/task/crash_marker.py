"""A file that outlives the container: which child ran when the launcher was killed with it.

The work folder outlives a restart of the container. With cgroup v2 the kernel kills all processes
of a container when one of them takes too much memory, so only the next launcher can report that.
"""

from __future__ import annotations

import contextlib
import json
import signal
from pathlib import Path

from launcher.shared.exits import signalled
from launcher.shared.protocol import ChildReport

BOOT = Path("/proc/sys/kernel/random/boot_id")
NAME = "child.json"
KILLED = signalled(signal.SIGKILL)


def mark(work: Path, generation: int | None) -> None:
    """Writes the generation of the child that runs; None removes the file."""
    file = work / NAME
    with contextlib.suppress(OSError):  # without the file the child counts as lost from outside
        if generation is None:
            file.unlink()
        else:
            work.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({"generation": generation, "boot": BOOT.read_text()}))


def left_behind(work: Path) -> ChildReport | None:
    """The child that was killed with the last launcher of this pod, if the node stayed up."""
    try:
        noted = json.loads((work / NAME).read_text())
        if noted["boot"] != BOOT.read_text():
            return None
        generation = int(noted["generation"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    reason = (
        "killed together with its launcher, perhaps out of memory "
        f"(exit code {KILLED}; see the pod's Last State)"
    )
    return ChildReport(generation, exit_code=KILLED, reason=reason)
