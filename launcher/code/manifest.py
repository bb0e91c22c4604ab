"""What a copy holds: its digest, and what tells the next copy which files have not changed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DIGEST_DIGITS = 32


class Manifest:
    """The names that a copy holds, and for each file what tells whether it has changed.

    It is kept in the file `memory`. Several threads may add to it at once.
    """

    def __init__(self, memory: Path) -> None:
        self.memory = memory
        self.last: Mapping[str, Any] = _load(memory)  # the files of the last copy
        self.files: dict[str, list[Any]] = {}
        self.entries: list[tuple[bytes, bytes]] = []

    def add(self, name: str, what: bytes) -> None:
        """Adds a name and what the digest says of it, its kind first."""
        self.entries.append((os.fsencode(name), what))

    def add_file(self, name: str, stamp: list[int], info: os.stat_result, what: str) -> None:
        """Adds a file with the stamp of its origin; `info` is of its copy."""
        self.files[name] = [stamp, stamp_of_copy(info), what]
        self.add(name, what.encode())

    def save(self) -> str:
        """Keeps it for the next copy and returns the digest; "" where there is no file."""
        text = json.dumps(self.files)
        temporary = self.memory.with_suffix(".tmp")
        temporary.write_text(text)
        temporary.replace(self.memory)
        if not any(kind != b"d" for _, kind in self.entries):
            return ""
        total = hashlib.sha256()
        for name, what in sorted(self.entries):
            total.update(b"%d %b %d %b " % (len(name), name, len(what), what))
        return total.hexdigest()[:DIGEST_DIGITS]


def stamp_of_origin(info: os.stat_result) -> list[int]:
    """What changes with a file on the origin."""
    return [info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino]


def stamp_of_copy(info: os.stat_result) -> list[int]:
    """The same of its copy. A copy may be moved, which changes its ctime."""
    return [info.st_size, info.st_mtime_ns, info.st_ino]


def _load(memory: Path) -> Mapping[str, Any]:
    try:
        known = json.loads(memory.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
