"""Brings the program's code into the task: from any source, into one folder, by one digest."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from launcher import tree
from launcher.exits import Code, LauncherError
from launcher.settings import Delivery, Source


@dataclass(frozen=True)
class Place:
    """Where a task finds things: the source that the kubelet mounted, and where it may write."""

    mount: Path | None
    work: Path


@dataclass(frozen=True)
class Pulled:
    """The folder that the program runs in, and the digest of what is there.

    Code that comes with the image is proven by the image and has no digest.
    """

    folder: Path
    digest: str


def pull(delivery: Delivery, place: Place, cancelled: threading.Event) -> Pulled:
    """Brings the code into `place.work`, and there reuses what has not changed since the last time.

    Raises LauncherError: CODE_MISSING where there is no code, or other code than asked for, IO
    where it cannot be read or written, TRY_AGAIN where it changes while it is read.
    """
    source = delivery.source
    if source.kind == "image":
        return _in_place(source)
    origin = tree.Origin(_origin(source, place), str(source), source.server or "the disk")
    folder = place.work / "code"
    digest = tree.copy(origin, folder, delivery.timeout, cancelled)
    if not digest:
        raise LauncherError(Code.CODE_MISSING, f"{source} must hold a program; it is empty")
    return Pulled(folder, digest)


def _in_place(source: Source) -> Pulled:
    folder = Path(source.path)
    if not folder.is_dir():
        raise LauncherError(Code.CODE_MISSING, f"{source} must be a folder; there is none")
    return Pulled(folder, "")


def _origin(source: Source, place: Place) -> Path:
    if source.kind == "folder":
        return Path(source.path)
    if place.mount is None:
        raise LauncherError(
            Code.CONFIGURATION, f"TFRUN_SOURCE must say where {source} is mounted; it is not set"
        )
    return place.mount / source.path if source.kind == "claim" else place.mount
