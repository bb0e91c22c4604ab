"""Copies a folder repeatedly, watches each read, and compares the results."""

from __future__ import annotations

import os
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.code import copy as module
from launcher.code.copy import Origin
from launcher.shared.exits import ExitCode, LauncherError

PATIENCE = 60.0  # seconds, for what should take almost none


class Copier:
    """Copies `source` into the same folder each time that it is called."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.origin = Origin(source, "code.nfs s:/e", "s")
        self.folder = folder / "work" / "code"
        self.cancelled = threading.Event()

    def __call__(self, timeout: float = PATIENCE) -> str:
        return module.copy(self.origin, self.folder, timeout, self.cancelled)

    def fails(self, code: ExitCode, words: str, timeout: float = PATIENCE) -> None:
        with pytest.raises(LauncherError, match=words) as error:
            self(timeout)
        assert error.value.exit_code is code


class Reads:
    """Counts the bytes that are read from files, and calls `act` before each read."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.bytes = 0
        self.act: Callable[[], object] = lambda: None
        self.preadv = os.preadv
        patch.setattr(os, "preadv", self)

    def __call__(self, *arguments: Any) -> int:
        self.act()
        got = self.preadv(*arguments)
        self.bytes += got
        return got


def same(a: Path, b: Path) -> None:
    subprocess.run(["diff", "-r", "--no-dereference", a, b], check=True)


def contents(folder: Path) -> dict[bytes, Any]:
    """Every name with its kind, execute bit and bytes, read independently of the launcher."""
    found: dict[bytes, Any] = {}
    for at, folders, files in os.walk(os.fsencode(folder)):
        for name in (*folders, *files):
            path = os.path.join(at, name)
            info = os.lstat(path)
            below = os.path.relpath(path, os.fsencode(folder))
            if stat.S_ISLNK(info.st_mode):
                found[below] = os.readlink(path)
            elif stat.S_ISDIR(info.st_mode):
                found[below] = None
            else:
                with open(path, "rb") as file:
                    found[below] = (bool(info.st_mode & stat.S_IXUSR), file.read())
    return found
