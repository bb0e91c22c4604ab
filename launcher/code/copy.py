"""Copies a folder with many requests in flight at once, and computes the digest of its content.

On NFS each file costs several round trips, whatever its size: one at a time they are the slow part
of every start. Files that have not changed since the last copy are reused, not read again.

Each attempt writes to its own folder, because its threads may still act after a timeout.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Callable

from launcher.code import ignore, links
from launcher.code.manifest import Manifest, stamp_of_copy, stamp_of_origin
from launcher.code.pool import Pool
from launcher.code.stall import Stall
from launcher.shared.exits import ExitCode, LauncherError
from launcher.shared.log import say

THREADS = 64  # requests in flight at once: each mostly waits for the network
READ_BYTES = 1024 * 1024
PART_BYTES = 8 * READ_BYTES  # a thread copies one part of a large file; the digest depends on it
ATTEMPTS = 3  # if the origin changes meanwhile
ZEROS = bytes(READ_BYTES)
# Errors that show that the origin has changed since it was listed.
MOVED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.ESTALE)
FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Origin:
    """A folder to copy, its name in messages, and the server to name if it does not answer."""

    folder: Path
    label: str
    server: str


class _ChangedError(Exception):
    """The origin changed during the copy; the argument is the name that showed it."""


class _GoneError(Exception):
    """A listed name has vanished, and nothing of it was copied."""


@dataclass
class _Large:
    """A file that several threads copy, with the digests of its parts."""

    stamp: list[int]
    parts: list[bytes]
    missing: int


def copy(origin: Origin, folder: Path, timeout: float, cancelled: threading.Event) -> str:
    """Makes `folder` a copy of the origin and returns its digest; "" if it holds no file.

    The digest is over names, execute bits, bytes and links; not over times, owners or order. The
    file `folder`.json records what was copied. The origin may be silent for `timeout` seconds.
    Raises LauncherError: CODE_MISSING if there is no readable folder or a link leads out of it,
    CONFIGURATION if its .tfrunignore is wrong, IO if it cannot be read or written, TRY_AGAIN if it
    keeps changing or the copy was cancelled.
    """
    changed, begin = "", time.monotonic()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(ATTEMPTS):
            cancelled.wait(attempt)  # the writer may be done soon
            for left in folder.parent.glob(f"{folder.name}.new-*"):
                shutil.rmtree(left, ignore_errors=True)
            new = Path(tempfile.mkdtemp(prefix=f"{folder.name}.new-", dir=folder.parent))
            made = _Copy(origin, folder, new, timeout, cancelled)
            made.strict = attempt < ATTEMPTS - 1
            try:
                made.run()
            except _ChangedError as error:
                changed = _words(str(error))
                say(f"{origin.label}: {changed} changed while it was copied")
                continue
            new.chmod(0o755)
            shutil.rmtree(folder, ignore_errors=True)
            new.rename(folder)
            say(f"{made} in {time.monotonic() - begin:.1f} s")
            return made.manifest.save()
    except OSError as error:
        raise LauncherError(
            ExitCode.IO, f"{origin.label} cannot be copied: {error.strerror}: {error.filename}"
        ) from None
    raise LauncherError(
        ExitCode.TRY_AGAIN,
        f"{origin.label} must not change while it is copied; {changed} did, {ATTEMPTS} times. "
        f"If a program writes it, name it in {ignore.FILE}",
    )


class _Copy:
    """One attempt. All names are relative to the origin; `""` is the origin itself."""

    def __init__(
        self, origin: Origin, old: Path, new: Path, timeout: float, cancelled: threading.Event
    ) -> None:
        self.origin = origin
        self.source = str(origin.folder)
        self.old = str(old)
        self.new = str(new)
        self.stall = Stall(timeout, cancelled)
        self.pool = Pool(self.stall)
        self.strict = True  # else it skips what has vanished
        self.manifest = Manifest(Path(f"{old}.json"))
        self.read: list[int] = []  # the sizes of the files that were read
        self.ignored = ignore.Ignored("")

    def __str__(self) -> str:
        read, total, size = len(self.read), len(self.manifest.files), sum(self.read) / 1e6
        return f"read {read} of {total} files, {size:.1f} MB, of {self.origin.label}"

    def run(self) -> None:
        """Returns when everything is copied."""
        self._put("", self._begin)
        self.pool.run(THREADS, f"the copy of {self.origin.label}", self._silent)

    def _silent(self, seconds: float) -> str:
        at = _words(self.pool.reading())
        return (
            f"{self.origin.label} cannot be copied: {self.origin.server} has not answered for "
            f"{seconds:.0f} s, reading {at}"
        )

    # What the threads do.

    def _put(self, name: str, task: Callable[[], None]) -> None:
        self.pool.put(name, partial(self._do, name, task))

    def _do(self, name: str, task: Callable[[], None]) -> None:
        try:
            task()
        except _GoneError:
            pass
        except OSError as error:
            raise self._wrong(name, error) from None

    @contextlib.contextmanager
    def _first(self, name: str) -> Iterator[None]:
        """For the first access to a listed name: the last attempt skips one that has vanished."""
        try:
            yield
        except OSError as error:
            if error.errno in MOVED and name and not self.strict:
                raise _GoneError from None
            raise

    def _wrong(self, name: str, error: OSError) -> Exception:
        if error.errno in MOVED:
            return _ChangedError(name)
        what = f"{self.origin.label} cannot be copied: {error.strerror}"
        if error.errno in FULL:
            what += f" in {Path(self.new).parent}, writing {_words(name)}"
            return LauncherError(ExitCode.IO, what)
        at = str(error.filename)
        if isinstance(error, PermissionError) and not (error.filename2 or at.startswith(self.new)):
            skip = f", or name it in {ignore.FILE}" if name else ""
            what += f": user {os.geteuid()} may not read {_words(name or at)}. Allow it{skip}"
            return LauncherError(ExitCode.CODE_MISSING, what)
        return LauncherError(ExitCode.IO, f"{what}: {_words(name)}")

    def _begin(self) -> None:
        try:
            there = stat.S_ISDIR(os.stat(self.source).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            there = False
        if not there:
            raise LauncherError(
                ExitCode.CODE_MISSING, f"{self.origin.label} must be a folder that exists"
            )
        try:
            with open(f"{self.source}/{ignore.FILE}", "rb") as file:
                self.ignored = ignore.Ignored(os.fsdecode(file.read()))
        except FileNotFoundError:
            pass
        self._list("")

    def _list(self, below: str) -> None:
        with self._first(below), os.scandir(f"{self.source}/{below}") as entries:
            listed = list(entries)
        if below:
            os.mkdir(f"{self.new}/{below}")
            self.manifest.add(below, b"d")
        prefix = f"{below}/" if below else ""
        for entry in listed:
            self._take(prefix + entry.name, entry)

    def _take(self, name: str, entry: os.DirEntry[str]) -> None:
        folder = entry.is_dir(follow_symlinks=False)
        if self.ignored(name, folder):
            return
        if folder:
            self._put(name, partial(self._list, name))
        elif entry.is_symlink():
            self._put(name, partial(self._link, name))
        elif entry.is_file(follow_symlinks=False):
            self._put(name, partial(self._file, name))
        # Sockets, pipes and devices are not code.

    def _link(self, name: str) -> None:
        with self._first(name):
            target = os.readlink(f"{self.source}/{name}")
        # An absolute link leads to a place in the container, such as a volume.
        if links.leaves(name, target) and not target.startswith("/"):
            raise LauncherError(
                ExitCode.CODE_MISSING,
                f"{self.origin.label} must hold all that it needs: the link {name} leads to "
                f"{target}, outside of it. Use the folder that holds both as source and set "
                f"program.workingDir, or name the link in {ignore.FILE}",
            )
        os.symlink(target, f"{self.new}/{name}")
        self.manifest.add(name, b"l" + os.fsencode(target))

    def _file(self, name: str) -> None:
        with self._first(name):
            reader = self._open(name)
        try:
            info = os.fstat(reader)
            if not stat.S_ISREG(info.st_mode):
                raise _ChangedError(name)
            stamp = stamp_of_origin(info)
            if self._reuse(name, stamp):
                return
            mode = stat.S_IMODE(info.st_mode) & 0o777 | stat.S_IRUSR | stat.S_IWUSR
            writer = os.open(f"{self.new}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            try:
                if info.st_size >= READ_BYTES:
                    os.ftruncate(writer, info.st_size)  # so that holes are not written
                if info.st_size <= PART_BYTES:
                    digest = self._read(name, reader, writer, stamp, 0, info.st_size)
            finally:
                os.close(writer)
        finally:
            os.close(reader)
        if info.st_size > PART_BYTES:
            self._put_parts(name, stamp)
        else:
            self._done(name, stamp, [digest])

    def _open(self, name: str) -> int:
        # O_NONBLOCK: a pipe in place of the file would block.
        return os.open(f"{self.source}/{name}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)

    def _put_parts(self, name: str, stamp: list[int]) -> None:
        size = stamp[0]
        begins = range(0, size, PART_BYTES)
        large = _Large(stamp, [b""] * len(begins), len(begins))
        for number, begin in enumerate(begins):
            end = min(begin + PART_BYTES, size)
            self._put(name, partial(self._part, name, large, number, begin, end))

    def _part(self, name: str, large: _Large, number: int, begin: int, end: int) -> None:
        # One handle for each part: NFS clients read ahead, and choose connections, per handle.
        reader = self._open(name)
        try:
            writer = os.open(f"{self.new}/{name}", os.O_WRONLY)
            try:
                digest = self._read(name, reader, writer, large.stamp, begin, end)
            finally:
                os.close(writer)
        finally:
            os.close(reader)
        with self.pool.lock:
            large.parts[number] = digest
            large.missing -= 1
            last = not large.missing
        if last:
            self._done(name, large.stamp, large.parts)

    def _read(
        self, name: str, reader: int, writer: int, stamp: list[int], begin: int, end: int
    ) -> bytes:
        """Copies a range of an open file and returns the digest of its bytes."""
        content = hashlib.sha256()
        buffer = bytearray(min(READ_BYTES, end - begin))
        at = begin
        while at < end:
            got = os.preadv(reader, [memoryview(buffer)[: end - at]], at)
            if not got or self.stall.over:
                raise _ChangedError(name)
            data = memoryview(buffer)[:got]
            content.update(data)
            if got < READ_BYTES or not buffer.startswith(ZEROS):
                _write(writer, data, at)
            at += got
            self.stall.moved += 1
        if stamp_of_origin(os.fstat(reader)) != stamp:
            raise _ChangedError(name)
        return content.digest()

    def _done(self, name: str, stamp: list[int], parts: list[bytes]) -> None:
        info = os.lstat(f"{self.new}/{name}")
        kind = "x" if info.st_mode & stat.S_IXUSR else "f"
        content = hashlib.sha256(b"".join(parts)).hexdigest()
        self.read.append(info.st_size)
        self.manifest.add_file(name, stamp, info, kind + content)

    def _reuse(self, name: str, stamp: list[int]) -> bool:
        """Reuses what the last pull copied, if neither side has changed since."""
        was = self.manifest.last.get(name)
        if not was or was[0] != stamp:
            return False
        old = f"{self.old}/{name}"
        try:
            info = os.lstat(old)
            if stamp_of_copy(info) != was[1]:
                return False
            # A link, so that the last copy stays whole if this fails.
            os.link(old, f"{self.new}/{name}")
        except OSError:  # some file systems have no links
            return False
        self.manifest.add_file(name, stamp, info, was[2])
        return True


def _words(name: str) -> str:
    """A name as people read it."""
    return name if name.isprintable() and name else repr(name) if name else "the folder"


def _write(writer: int, data: memoryview, at: int) -> None:
    while data:
        written = os.pwrite(writer, data, at)
        data, at = data[written:], at + written
