"""Brings the program's code from any source into one folder, with a digest of its content."""

from __future__ import annotations

import contextlib
import hashlib
import os
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
    """The folders and the environment of a task.

    The source and the Secret that the kubelet mounted, and the folder to write to. `env` is the
    program's environment, which says how servers are reached.
    """

    mount: Path | None
    secret: Path | None
    work: Path
    env: Mapping[str, str]


@dataclass(frozen=True)
class Pulled:
    """The code folder, and the digest of its content.

    Code in the image has no digest, because the image has one. `libraries` is the folder of the
    installed requirements, if any: their `packages` and `scripts`. `commit` is the one to which a
    branch was resolved.
    """

    folder: Path
    digest: str
    libraries: Path | None = None
    commit: str = ""


def pull(
    delivery: Delivery, place: Place, python: str, commit: str, cancelled: threading.Event
) -> Pulled:
    """Brings the code into `place.work`, and reuses there what has not changed since the last pull.

    `python` runs the code. `commit` is the commit of a branch; if empty, this resolves the branch.
    Raises LauncherError: CODE_MISSING if there is no code, or other code than asked for, IO if it
    cannot be read or written, TRY_AGAIN if it keeps changing or the pull was cancelled,
    CONFIGURATION if the values or the image are wrong.
    """
    if delivery.source.moves:
        commit = commit or _resolve(delivery, place, cancelled)
        delivery = replace(delivery, source=replace(delivery.source, pin=commit))
    pulled = replace(_pull(delivery, place, cancelled), commit=commit)
    if delivery.digest and pulled.digest != delivery.digest:
        raise LauncherError(
            ExitCode.CODE_MISSING,
            f"{delivery.source} must have the digest that code.digest says, {delivery.digest}; it "
            f"has {pulled.digest}: restore the code or change code.digest",
        )
    if not delivery.requirements:
        return pulled
    kept = place.work / "requirements"
    libraries = requirements.install(
        pulled.folder, pulled.digest, python, place.env, kept, cancelled
    )
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
    login = credentials.read(place.secret)
    repository = git.Repository(source.url, login, delivery.timeout, place.env)
    try:
        commit = git.resolve(repository, source.pin, place.work, cancelled)
    except OSError as error:
        raise _unwritten(source, error) from None
    say(f"{source} is commit {commit}")
    return commit


def _in_place(delivery: Delivery, cancelled: threading.Event) -> Pulled:
    source = delivery.source
    folder = Path(source.path)
    # It may be on one of `volumes`, whose server may not answer.
    with contextlib.suppress(PermissionError):
        if stall.call(lambda _: folder.is_dir(), str(source), delivery.timeout, cancelled):
            return Pulled(folder, "")
    what = f"{source} must be a folder that user {os.geteuid()} may read"
    raise LauncherError(ExitCode.CODE_MISSING, what)


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
    """The folder is named by a digest of the source, so that nothing is fetched twice."""
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

            repository = git.Repository(source.url, login, timeout, place.env)
            git.fetch(repository, source.pin, folder, cancelled)
        else:
            # Imported here, because its modules would slow down the start of every task.
            from launcher.code import archive

            wanted = archive.Archive(source.url, source.pin, login, timeout, place.env)
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
