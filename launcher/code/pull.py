"""Brings the program's code into the task: from any source, into one folder, by one digest."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from launcher.code import copy, credentials, requirements, stall
from launcher.shared.exits import ExitCode, LauncherError
from launcher.shared.log import say
from launcher.shared.sources import Delivery, Source

FETCHED = frozenset({"archive", "git", "inline"})


@dataclass(frozen=True)
class Place:
    """Where a task finds things.

    The source and the Secret that the kubelet mounted, and where the task may write.
    """

    mount: Path | None
    secret: Path | None
    work: Path


@dataclass(frozen=True)
class Pulled:
    """The folder that the program runs in, and the digest of what is there.

    Code that comes with the image is proven by the image and has no digest. `libraries` is where
    its requirements are installed, if they are.
    """

    folder: Path
    digest: str
    libraries: Path | None = None
    commit: str = ""


def pull(
    delivery: Delivery, place: Place, python: str, commit: str, cancelled: threading.Event
) -> Pulled:
    """Brings the code into `place.work`, and there reuses what has not changed since the last time.

    `python` is what will run it, `commit` what a branch was found to mean, if it was: otherwise
    this finds it out. Raises LauncherError: CODE_MISSING where there is no code, or other code than
    asked for, IO where it cannot be read or written, TRY_AGAIN where it changes while it is read.
    """
    if delivery.source.moves:
        commit = commit or _resolve(delivery, place, cancelled)
        delivery = replace(delivery, source=replace(delivery.source, pin=commit))
    pulled = replace(_pull(delivery, place, cancelled), commit=commit)
    if delivery.digest and pulled.digest != delivery.digest:
        raise LauncherError(
            ExitCode.CODE_MISSING,
            f"{delivery.source} must have the digest that code.digest says, {delivery.digest}; it "
            f"has {pulled.digest}: somebody has changed it",
        )
    if not delivery.requirements:
        return pulled
    kept = place.work / "requirements"
    libraries = requirements.install(pulled.folder, pulled.digest, python, kept, cancelled)
    return replace(pulled, libraries=libraries)


def _pull(delivery: Delivery, place: Place, cancelled: threading.Event) -> Pulled:
    source = delivery.source
    if source.kind == "image":
        return _in_place(delivery, cancelled)
    if source.kind in FETCHED:
        found = _fetched(delivery, place, cancelled)
    else:
        found = _mounted(source, place)
    server = source.server or (f"the claim {source.claim}" if source.claim else "the disk")
    origin = copy.Origin(found, str(source), server)
    folder = place.work / "code"
    digest = copy.copy(origin, folder, delivery.timeout, cancelled)
    if not digest:
        raise LauncherError(ExitCode.CODE_MISSING, f"{source} must hold a program; it is empty")
    return Pulled(folder, digest)


def _resolve(delivery: Delivery, place: Place, cancelled: threading.Event) -> str:
    from launcher.code import git

    source = delivery.source
    repository = git.Repository(source.url, credentials.read(place.secret), delivery.timeout)
    try:
        commit = git.resolve(repository, source.pin, place.work, cancelled)
    except OSError as error:
        raise _unwritten(source, error) from None
    say(f"{source} is commit {commit}")
    return commit


def _in_place(delivery: Delivery, cancelled: threading.Event) -> Pulled:
    source = delivery.source
    folder = Path(source.path)
    # It may be one of `volumes`, whose server is away.
    if not stall.call(lambda _: folder.is_dir(), str(source), delivery.timeout, cancelled):
        raise LauncherError(ExitCode.CODE_MISSING, f"{source} must be a folder; there is none")
    return Pulled(folder, "")


def _mounted(source: Source, place: Place) -> Path:
    if source.kind == "folder":
        return Path(source.path)
    if place.mount is None:
        raise LauncherError(
            ExitCode.CONFIGURATION,
            f"TFRUN_SOURCE must say where {source} is mounted; it is not set",
        )
    return place.mount / source.path if source.kind == "claim" else place.mount


def _fetched(delivery: Delivery, place: Place, cancelled: threading.Event) -> Path:
    """What is fetched is named by what it must be: once it is there, it is not fetched again."""
    source, kept = delivery.source, place.work / "fetched"
    name = hashlib.sha256(repr((source.kind, source.url, source.pin, source.files)).encode())
    folder = kept / name.hexdigest()[:16]
    if folder.is_dir():
        return folder
    shutil.rmtree(kept, ignore_errors=True)
    login, timeout = credentials.read(place.secret), delivery.timeout
    try:
        if source.kind == "inline":
            _write(source.files, folder)
        elif source.kind == "git":
            from launcher.code import git

            git.fetch(git.Repository(source.url, login, timeout), source.pin, folder, cancelled)
        else:
            # A task must start fast, and this takes the standard library's archives along.
            from launcher.code import archive

            wanted = archive.Archive(source.url, source.pin, login, timeout)
            archive.fetch(wanted, folder, cancelled)
    except OSError as error:
        raise _unwritten(source, error) from None
    return folder


def _unwritten(source: Source, error: OSError) -> LauncherError:
    what = f"{source} cannot be written: {error.strerror}: {error.filename}"
    return LauncherError(ExitCode.IO, what)


def _write(files: Mapping[str, str], folder: Path) -> None:
    new = folder.with_name(folder.name + ".new")
    for name, text in files.items():
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        (new / name).write_bytes(text.encode())
    new.rename(folder)
