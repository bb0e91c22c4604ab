"""Makes archives for tests, and checks that one is refused."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import subprocess
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest

from launcher.code import archive
from launcher.code.archive import Archive
from launcher.shared.exits import ExitCode, LauncherError

PACK = {
    "tar": ["tar", "-cf"],
    "tar.gz": ["tar", "-czf"],
    "tar.bz2": ["tar", "-cjf"],
    "tar.xz": ["tar", "-cJf"],
    "tar.zst": ["tar", "--zstd", "-cf"],
}
FILE, FOLDER, LINK, HARD = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


def of(file: Path, **changes: Any) -> Archive:
    given: dict[str, Any] = {
        "url": file.as_uri(),
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "credentials": None,
        "timeout": 5.0,
        "env": {},
    }
    return Archive(**(given | changes))


def refused(file: Path, folder: Path, words: str, code: ExitCode = ExitCode.CODE_MISSING) -> None:
    with pytest.raises(LauncherError, match=words) as error:
        archive.fetch(of(file), folder, threading.Event())
    assert error.value.exit_code is code
    assert list(folder.parent.iterdir()) == []  # neither a part of it nor the archive stays


def same(a: Path, b: Path) -> None:
    subprocess.run(["diff", "-r", "--no-dereference", a, b], check=True)
    assert (b / "lib" / "run").stat().st_mode & stat.S_IXUSR
    assert os.readlink(b / "lib" / "link") == "../train.py"


def tar(file: Path, *members: tuple[str, bytes, str]) -> Path:
    """A tar of members, each (name, type, content or link target)."""
    with tarfile.open(file, "w") as opened:
        for name, kind, text in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind == tarfile.REGTYPE:
                info.size = len(text)
            else:
                info.linkname = text
            opened.addfile(info, io.BytesIO(text.encode()))
    return file
