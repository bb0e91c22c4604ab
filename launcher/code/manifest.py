"""What a copy holds: its digest, and stamps that show the next copy which files are unchanged."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DIGEST_DIGITS = 32


class Manifest:
    """The names in a copy, and for each file the stamps that show whether it has changed.

    `memory` is its file. Several threads may add to it at once.
    """

    def __init__(self, memory: Path) -> None:
        self.memory = memory
        self.last: Mapping[str, Any] = _load(memory)  # the files of the last copy
        self.files: dict[str, list[Any]] = {}
        self.entries: list[tuple[bytes, bytes]] = []

    def add(self, name: str, what: bytes) -> None:
        """Adds a name and what the digest covers of it: its kind, then its content."""
        self.entries.append((os.fsencode(name), what))

    def add_file(self, name: str, stamp: list[int], info: os.stat_result, what: str) -> None:
        """Adds a file; `stamp` is of its origin, `info` of its copy."""
        self.files[name] = [stamp, stamp_of_copy(info), what]
        self.add(name, what.encode())

    def save(self) -> str:
        """Saves it for the next copy and returns the digest; "" if there is no file."""
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
    """The stamp of a file at the origin: it changes with the file."""
    return [info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino]


def stamp_of_copy(info: os.stat_result) -> list[int]:
    """The same for its copy, without ctime, which changes when the copy is moved."""
    return [info.st_size, info.st_mtime_ns, info.st_ino]


def _load(memory: Path) -> Mapping[str, Any]:
    try:
        known = json.loads(memory.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
