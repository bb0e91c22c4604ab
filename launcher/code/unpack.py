"""Unpacks an untrusted tar or zip.

A member may try to write elsewhere, so only files, folders and links that stay inside the folder
are made. The links are made last, so that no file is written through one.
"""

from __future__ import annotations

import contextlib
import lzma
import os
import stat
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from launcher.code import links
from launcher.shared.exits import ExitCode, LauncherError

UNPACKED_BYTES = 16 * 1024**3
UNPACKED_FILES = 200_000
LINK_BYTES = 4096
HEADER_BYTES = 1024 * 1024  # of one extended header of a tar, such as a long name
HEADERS_OF_ONE = 8
READ_BYTES = 1024 * 1024
ZIP, ZSTD = (b"PK\x03\x04", b"PK\x05\x06"), b"\x28\xb5\x2f\xfd"
# What the standard library raises for damaged archives.
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


def unpack(label: str, file: Path, folder: Path, cancelled: threading.Event) -> None:
    """Unpacks the archive in `file` into the new `folder`; messages name the archive by `label`.

    Raises LauncherError: CODE_MISSING if the archive is damaged or refused, CONFIGURATION if the
    image cannot read it, TRY_AGAIN if cancelled. Raises OSError if the folder cannot be written.
    """
    with file.open("rb") as reader:
        magic = reader.read(4)
    folder.mkdir()
    unpacking = _Unpacking(label, folder, cancelled)
    try:
        with contextlib.ExitStack() as stack:
            if magic in ZIP:
                entries = _zip(label, stack.enter_context(zipfile.ZipFile(file)))
            elif magic == ZSTD and sys.version_info < (3, 14):
                entries = _tar(stack.enter_context(_zstd(label, file)))
            else:
                entries = _tar(stack.enter_context(tarfile.open(file, tarinfo=_Member)))
            for entry in stack.enter_context(contextlib.closing(entries)):
                unpacking.take(entry)
    except DAMAGED as error:
        why = str(error) or type(error).__name__
        raise untrusted(label, f"an intact tar or zip: {why}") from None
    except OSError as error:
        if error.errno:
            raise
        raise untrusted(label, f"an intact tar or zip: {error}") from None
    unpacking.link()


def untrusted(label: str, rule: str) -> LauncherError:
    """The failure of an archive that breaks a rule."""
    return LauncherError(ExitCode.CODE_MISSING, f"{label} must hold {rule}")


@dataclass(frozen=True)
class _Entry:
    """One member: a link has `target`, a file has `reader`."""

    name: str
    kind: str
    mode: int
    target: str = ""
    reader: IO[bytes] | None = None


class _Member(tarfile.TarInfo):
    _nested = 0  # headers being read, each kept in memory until its member is read

    @classmethod
    def fromtarfile(cls, opened: tarfile.TarFile) -> _Member:
        """Reads a member and its headers, each inside the one before."""
        if cls._nested > HEADERS_OF_ONE:
            raise tarfile.TarError(f"a member has more than {HEADERS_OF_ONE} headers")
        cls._nested += 1
        try:
            return super().fromtarfile(opened)
        finally:
            cls._nested -= 1

    def _proc_gnusparse_10(self, *_: object) -> None:
        raise tarfile.TarError("sparse files are refused: their maps can have any size")

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        """Parses a header. The caller reads an extended one whole, so its size has a limit."""
        found = super().frombuf(buf, encoding, errors)
        if found.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.TarError("sparse files are refused: their maps can have any size")
        if found.type in HEADERS and not 0 <= found.size <= HEADER_BYTES:
            # Not ReadError: tarfile.open would then try other formats.
            raise tarfile.TarError(f"a header has {found.size} bytes, more than {HEADER_BYTES}")
        return found


@contextlib.contextmanager
def _zstd(label: str, file: Path) -> Iterator[tarfile.TarFile]:
    command = ["zstd", "--decompress", "--stdout", "--quiet", str(file)]
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
    except OSError:
        raise LauncherError(
            ExitCode.CONFIGURATION,
            f"{label} is compressed by zstd, which the image does not have: use .tar.gz or .tar.xz",
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
        # tarfile keeps every member, with its headers, in memory.
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


def _zip(label: str, opened: zipfile.ZipFile) -> Generator[_Entry, None, None]:
    for info in opened.infolist():
        name, mode = info.filename, info.external_attr >> 16
        if info.flag_bits & 1:
            raise zipfile.BadZipFile(f"{name} is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # Other methods may expand one read without limit.
            raise untrusted(label, f"files that are stored or deflated; {name} is not")
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
    def __init__(self, label: str, folder: Path, cancelled: threading.Event) -> None:
        self.label = label
        self.folder = folder
        self.cancelled = cancelled
        self.links: list[tuple[str, str]] = []
        self.files = 0
        self.bytes = 0

    def take(self, entry: _Entry) -> None:
        """Makes what an entry says, except links."""
        self.files += 1
        if self.files > UNPACKED_FILES:
            raise untrusted(self.label, f"at most {UNPACKED_FILES} files")
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
                raise untrusted(self.label, f"only files, folders and links; {name} is not one")
        except (FileExistsError, IsADirectoryError, NotADirectoryError):
            raise untrusted(self.label, f"each name once; {name} comes twice") from None

    def link(self) -> None:
        """Makes the links, then verifies them: where they lead is known once all are there."""
        for name, target in self.links:
            if links.leaves(name, target):
                raise self._leaves(name, target)
            try:
                os.symlink(target, self.folder / name)
            except FileExistsError:
                raise untrusted(self.label, f"each name once; {name} comes twice") from None
        root = os.path.realpath(self.folder)
        for name, target in self.links:
            found = os.path.realpath(self.folder / name)
            if os.path.commonpath([root, found]) != root:
                raise self._leaves(name, target)

    def _leaves(self, name: str, target: str) -> LauncherError:
        return untrusted(self.label, f"links that stay inside; {name} leads to {target}")

    def _inside(self, name: str) -> str:
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if name.startswith("/") or ".." in parts or "\0" in name:
            raise untrusted(self.label, f"only names inside the folder; {name!r} is not")
        return "/".join(parts)

    def _copy(self, entry: _Entry, path: Path) -> None:
        """Copies the target of a hard link. No symbolic link exists yet that could redirect it."""
        target = self.folder / self._inside(entry.target)
        if not target.is_file():
            raise untrusted(self.label, f"what its links lead to; {entry.target} is missing")
        with target.open("rb") as reader:
            self._write(reader, path, target.stat().st_mode)

    def _write(self, reader: IO[bytes], path: Path, mode: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with open(os.open(path, flags, mode & 0o777 | 0o600), "wb") as writer:
            while data := reader.read(READ_BYTES):
                self.bytes += len(data)
                if self.bytes > UNPACKED_BYTES:
                    raise untrusted(self.label, f"at most {UNPACKED_BYTES} bytes, unpacked")
                if self.cancelled.is_set():
                    raise LauncherError(ExitCode.TRY_AGAIN, f"{self.label}: cancelled")
                writer.write(data)
