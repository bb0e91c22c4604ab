"""Pulls the program's code into a local folder and computes its digest."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from launcher.exits import Code, LauncherError
from launcher.settings import Source

SKIPPED = frozenset({".git", "__pycache__"})
CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Pulled:
    """The folder that the program runs in, and the digest of what is there.

    The digest is SHA-256 over names, modes and bytes, not times. Code that comes with the image
    is proven by the image and has none.
    """

    folder: Path
    digest: str


def pull(source: Source, mount: Path | None, work: Path) -> Pulled:
    """Brings the code into `work`. `mount` is where the kubelet mounted an NFS source.

    Raises LauncherError CODE_MISSING where there is no code, IO where it cannot be copied.
    """
    origin = mount if source.kind == "nfs" else Path(source.path)
    if origin is None:
        raise LauncherError(
            Code.CONFIGURATION, f"TFRUN_SOURCE must say where {source} is mounted; it is not set"
        )
    try:
        if not origin.is_dir():
            raise LauncherError(Code.CODE_MISSING, f"{source} must be a folder; there is none")
        if source.kind == "image":
            return Pulled(origin, "")
        folder = work / "code"
        shutil.rmtree(folder, ignore_errors=True)
        digest = _copy(origin, folder)
    except OSError as error:
        raise LauncherError(
            Code.IO, f"{source} cannot be copied: {error.strerror}: {error.filename}"
        ) from None
    if digest is None:
        raise LauncherError(Code.CODE_MISSING, f"{source} must hold a program; it is empty")
    return Pulled(folder, digest)


def _copy(origin: Path, folder: Path) -> str | None:
    """Copies a tree and returns its digest, None where there is no file in it."""
    total = hashlib.sha256()
    files = 0
    folder.mkdir(parents=True)
    for name in _walk(origin, Path()):
        info = (origin / name).lstat()
        total.update(os.fsencode(f"{name}\0{stat.S_IMODE(info.st_mode):o}\0"))
        if stat.S_ISDIR(info.st_mode):
            (folder / name).mkdir()
            continue
        files += 1
        if stat.S_ISLNK(info.st_mode):
            target = os.readlink(origin / name)
            total.update(os.fsencode(f"{target}\0"))
            (folder / name).symlink_to(target)
        elif stat.S_ISREG(info.st_mode):
            content = hashlib.sha256()
            with (origin / name).open("rb") as reader, (folder / name).open("wb") as writer:
                for chunk in iter(lambda: reader.read(CHUNK_BYTES), b""):
                    content.update(chunk)
                    writer.write(chunk)
            total.update(content.digest())
            (folder / name).chmod(stat.S_IMODE(info.st_mode) | stat.S_IRUSR | stat.S_IWUSR)
    return total.hexdigest()[:16] if files else None


def _walk(origin: Path, below: Path) -> Iterator[Path]:
    """Every name in the tree, a folder before what it holds, in the order of their bytes."""
    with os.scandir(origin / below) as entries:
        listed = sorted(entries, key=lambda entry: os.fsencode(entry.name))
    for entry in listed:
        if entry.name in SKIPPED:
            continue
        yield below / entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(origin, below / entry.name)
