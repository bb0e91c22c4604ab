"""Fetches an archive over HTTP or from a file, checks it, and unpacks it without trusting it.

Nothing of it is read before its SHA-256 is right. What it holds may still be meant to write
elsewhere: only plain files, folders and links that stay inside are made, links last, so that none
is ever written through.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.client
import io
import lzma
import math
import os
import stat
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Union
from urllib.parse import urlsplit

from launcher.code import copy, stall
from launcher.code.credentials import Credentials
from launcher.code.stall import Patience
from launcher.shared.exits import Code, LauncherError
from launcher.shared.log import say

FETCHED_BYTES = 4 * 1024**3
UNPACKED_BYTES = 16 * 1024**3
UNPACKED_FILES = 200_000
LINK_BYTES = 4096
HEADER_BYTES = 1024 * 1024  # of a tar: a long name, or more about a member
HEADERS_OF_ONE = 8
READ_BYTES = 1024 * 1024
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before another try
PASSING = frozenset({408, 425, 429})  # and all from 500 on
ZIP, ZSTD = (b"PK\x03\x04", b"PK\x05\x06"), b"\x28\xb5\x2f\xfd"
# What the standard library says to archives that are damaged.
DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    lzma.LZMAError,
    zlib.error,
    struct.error,
    EOFError,
    LookupError,
    MemoryError,
    OverflowError,
    RuntimeError,
    ValueError,
)
HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
Opened = Union[io.BufferedReader, http.client.HTTPResponse]


@dataclass(frozen=True)
class Archive:
    """Where it is, what it must be, and how to get at it.

    `timeout` is how many seconds the server may be silent, tries included.
    """

    url: str
    sha256: str
    credentials: Credentials | None
    timeout: float

    def __str__(self) -> str:
        return f"code.archive {self.url}"


def fetch(archive: Archive, folder: Path, cancelled: threading.Event) -> None:
    """Makes `folder` what the archive holds.

    Raises LauncherError: CODE_MISSING where there is no such archive or it is not to be trusted, IO
    where it cannot be read or written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="archive-", dir=folder.parent) as name:
        file, unpacked = Path(name, "archive"), Path(name, "unpacked")
        try:
            _download(archive, file, cancelled)
            _unpack(archive, file, unpacked, cancelled)
            unpacked.rename(folder)
        except OSError as error:
            raise LauncherError(
                Code.IO, f"{archive} cannot be unpacked: {error.strerror or error}"
            ) from None


# Fetching.


def _download(archive: Archive, file: Path, cancelled: threading.Event) -> None:
    """Tries a few times, as long as something came within the timeout."""
    heard = time.monotonic()
    for pause in (*PAUSES, math.inf):
        left = archive.timeout - (time.monotonic() - heard)
        writer = file.open("wb")
        attempt = functools.partial(_try_download, archive, writer)
        failure, moved = stall.call(attempt, str(archive), left, cancelled)
        if not failure:
            return
        heard = time.monotonic() if moved else heard
        if time.monotonic() + pause - heard >= archive.timeout:
            raise LauncherError(Code.IO, f"{archive} cannot be fetched: {failure}")
        say(f"{archive} cannot be fetched: {failure}; again in {pause:.0f} s")
        if cancelled.wait(pause):
            raise LauncherError(Code.TRY_AGAIN, f"{archive} is no longer wanted")


def _try_download(archive: Archive, writer: IO[bytes], waiting: Patience) -> tuple[str, bool]:
    """Why it failed, if for a reason that may pass, and whether anything came."""
    content = hashlib.sha256()
    size = 0
    try:
        with writer, _open(archive) as reader:
            # Counted here: before Python 3.12 read1 does not, and waits for more at the end.
            length = getattr(reader, "length", None)
            most = FETCHED_BYTES + 1 if length is None else length
            while data := reader.read1(min(READ_BYTES, most - size)):
                size += len(data)
                waiting.moved += 1
                if size > FETCHED_BYTES:
                    raise _untrusted(archive, f"at most {FETCHED_BYTES} bytes")
                content.update(data)
                writer.write(data)
                if waiting.over:
                    break
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in PASSING or error.code >= 500:
            return f"the server says {error.code} {error.reason}", False
        hint = " (code.secret names what to log in with)" if error.code in (401, 403) else ""
        raise LauncherError(
            Code.CODE_MISSING, f"{archive} must be there: the server says {error.code}{hint}"
        ) from None
    except FileNotFoundError:
        raise LauncherError(Code.CODE_MISSING, f"{archive} must be there; it is not") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.errno in copy.FULL:
            raise
        return str(getattr(error, "reason", "") or error or type(error).__name__), size > 0
    if length is not None and size < length:
        return f"it ended {length - size} bytes early", True
    if content.hexdigest() != archive.sha256:
        raise LauncherError(
            Code.CODE_MISSING,
            f"{archive} must be what code.archive.sha256 says, {archive.sha256}; it is "
            f"{content.hexdigest()}, {size} bytes",
        )
    return "", True


def _open(archive: Archive) -> Opened:
    if archive.url.startswith("file:"):
        return Path(urllib.request.url2pathname(urlsplit(archive.url).path)).open("rb")
    request = urllib.request.Request(archive.url, headers={"User-Agent": "tfrun"})  # noqa: S310
    if archive.credentials:
        # Not sent on to where a redirect leads.
        request.add_unredirected_header("Authorization", archive.credentials.header())
    opened: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=archive.timeout)  # noqa: S310
    return opened


# Unpacking.


@dataclass(frozen=True)
class _Entry:
    """One member. `target` is of a link, `reader` of a file."""

    name: str
    kind: str
    mode: int
    target: str = ""
    reader: IO[bytes] | None = None


def _untrusted(archive: Archive, rule: str) -> LauncherError:
    return LauncherError(Code.CODE_MISSING, f"{archive} must hold {rule}")


def _unpack(archive: Archive, file: Path, folder: Path, cancelled: threading.Event) -> None:
    with file.open("rb") as reader:
        magic = reader.read(4)
    folder.mkdir()
    unpacking = _Unpacking(archive, folder, cancelled)
    try:
        with contextlib.ExitStack() as stack:
            if magic in ZIP:
                entries = _zip(archive, stack.enter_context(zipfile.ZipFile(file)))
            elif magic == ZSTD and sys.version_info < (3, 14):
                entries = _tar(stack.enter_context(_zstd(archive, file)))
            else:
                entries = _tar(stack.enter_context(tarfile.open(file, tarinfo=_Member)))
            for entry in stack.enter_context(contextlib.closing(entries)):
                unpacking.take(entry)
    except DAMAGED as error:
        why = str(error) or type(error).__name__
        raise _untrusted(archive, f"a tar or zip that is whole: {why}") from None
    except OSError as error:
        if error.errno:
            raise
        raise _untrusted(archive, f"a tar or zip that is whole: {error}") from None
    unpacking.link()


class _Member(tarfile.TarInfo):
    _nested = 0  # headers that are being read: each is held until what it is about is read

    @classmethod
    def fromtarfile(cls, opened: tarfile.TarFile) -> _Member:
        """A member with its headers, which are read one within the other."""
        if cls._nested > HEADERS_OF_ONE:
            raise tarfile.TarError(f"a member has more than {HEADERS_OF_ONE} headers")
        cls._nested += 1
        try:
            return super().fromtarfile(opened)
        finally:
            cls._nested -= 1

    def _proc_gnusparse_10(self, *_: object) -> None:
        raise tarfile.TarError("it has sparse files, whose maps may have any size")

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        """A header; what it announces of more headers is read whole by the caller."""
        found = super().frombuf(buf, encoding, errors)
        if found.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.TarError("it has sparse files, whose maps may have any size")
        if found.type in HEADERS and not 0 <= found.size <= HEADER_BYTES:
            # No ReadError: that would let the other ways to open a tar be tried.
            raise tarfile.TarError(f"a header has {found.size} bytes, more than {HEADER_BYTES}")
        return found


@contextlib.contextmanager
def _zstd(archive: Archive, file: Path) -> Iterator[tarfile.TarFile]:
    command = ["zstd", "--decompress", "--stdout", "--quiet", str(file)]
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
    except OSError:
        raise LauncherError(
            Code.CONFIGURATION,
            f"{archive} is compressed by zstd, which the image does not have: use .tar.gz or .xz",
        ) from None
    assert process.stdout
    try:
        with (
            process.stdout as output,
            tarfile.open(fileobj=output, mode="r|", tarinfo=_Member) as opened,
        ):
            yield opened
            while output.read(READ_BYTES):
                pass
        if process.wait():
            raise tarfile.ReadError(f"zstd ended with {process.returncode}")
    finally:
        process.kill()
        process.wait()


def _tar(opened: tarfile.TarFile) -> Generator[_Entry, None, None]:
    while member := opened.next():
        # It keeps all of them, with their headers, and says so nowhere.
        opened.members.clear()  # type: ignore[attr-defined]
        if sum(len(k) + len(v) for k, v in opened.pax_headers.items()) > HEADER_BYTES:
            raise tarfile.TarError(f"its global headers have more than {HEADER_BYTES} bytes")
        name, mode = member.name, member.mode
        if member.isdir():
            yield _Entry(name, "folder", mode)
        elif member.issym():
            yield _Entry(name, "link", mode, member.linkname)
        elif member.islnk():
            yield _Entry(name, "copy", mode, member.linkname)
        elif member.isfile():
            yield _Entry(name, "file", mode, reader=opened.extractfile(member))
        else:
            yield _Entry(name, "device", mode)


def _zip(archive: Archive, opened: zipfile.ZipFile) -> Generator[_Entry, None, None]:
    for info in opened.infolist():
        name, mode = info.filename, info.external_attr >> 16
        if info.flag_bits & 1:
            raise zipfile.BadZipFile(f"{name} is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # The others may make anything of one read.
            raise _untrusted(archive, f"files that are stored or deflated; {name} is not")
        if info.is_dir():
            yield _Entry(name, "folder", mode)
            continue
        with opened.open(info) as reader:
            if stat.S_ISLNK(mode):
                yield _Entry(name, "link", mode, os.fsdecode(reader.read(LINK_BYTES)))
            elif stat.S_IFMT(mode) in (0, stat.S_IFREG):
                yield _Entry(name, "file", mode or 0o644, reader=reader)
            else:
                yield _Entry(name, "device", mode)


class _Unpacking:
    def __init__(self, archive: Archive, folder: Path, cancelled: threading.Event) -> None:
        self.archive = archive
        self.folder = folder
        self.cancelled = cancelled
        self.links: list[tuple[str, str]] = []
        self.files = 0
        self.bytes = 0

    def take(self, entry: _Entry) -> None:
        """Makes what an entry says, but for links."""
        self.files += 1
        if self.files > UNPACKED_FILES:
            raise _untrusted(self.archive, f"at most {UNPACKED_FILES} files")
        name = self._inside(entry.name)
        path = self.folder / name
        try:
            if entry.kind == "folder":
                path.mkdir(parents=True, exist_ok=True)
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            if entry.kind == "link":
                self.links.append((name, entry.target))
            elif entry.kind == "copy":
                self._copy(entry, path)
            elif entry.kind == "file" and entry.reader:
                self._write(entry.reader, path, entry.mode)
            else:
                raise _untrusted(self.archive, f"files, folders and links alone; {name} is another")
        except (FileExistsError, IsADirectoryError, NotADirectoryError):
            raise _untrusted(self.archive, f"each name once; {name} comes twice") from None

    def link(self) -> None:
        """Makes the links. Where they lead is known only once all are there."""
        for name, target in self.links:
            if copy.leaves(name, target):
                raise self._leaves(name, target)
            try:
                os.symlink(target, self.folder / name)
            except FileExistsError:
                raise _untrusted(self.archive, f"each name once; {name} comes twice") from None
        root = os.path.realpath(self.folder)
        for name, target in self.links:
            found = os.path.realpath(self.folder / name)
            if os.path.commonpath([root, found]) != root:
                raise self._leaves(name, target)

    def _leaves(self, name: str, target: str) -> LauncherError:
        return _untrusted(self.archive, f"links that stay inside; {name} leads to {target}")

    def _inside(self, name: str) -> str:
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if name.startswith("/") or ".." in parts or "\0" in name:
            raise _untrusted(self.archive, f"names inside of a folder; {name!r} is not")
        return "/".join(parts)

    def _copy(self, entry: _Entry, path: Path) -> None:
        """A hard link. No symbolic link is there yet that could lead it elsewhere."""
        target = self.folder / self._inside(entry.target)
        if not target.is_file():
            raise _untrusted(self.archive, f"what its links lead to; {entry.target} is not there")
        with target.open("rb") as reader:
            self._write(reader, path, target.stat().st_mode)

    def _write(self, reader: IO[bytes], path: Path, mode: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with open(os.open(path, flags, mode & 0o777 | 0o600), "wb") as writer:
            while data := reader.read(READ_BYTES):
                self.bytes += len(data)
                if self.bytes > UNPACKED_BYTES:
                    raise _untrusted(self.archive, f"at most {UNPACKED_BYTES} bytes, unpacked")
                if self.cancelled.is_set():
                    raise LauncherError(Code.TRY_AGAIN, f"{self.archive} is no longer wanted")
                writer.write(data)
