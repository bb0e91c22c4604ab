"""The copy of a tree: what arrives, what its digest says, and every way in which it can fail."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import random
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.code import copy as module
from launcher.code.copy import PART_BYTES, READ_BYTES, Origin
from launcher.shared.exits import Code, LauncherError

ROOT = Path(__file__).parents[3]
PATIENCE = 60.0  # a bound for what should take no time


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "lib" / "deep").mkdir(parents=True)
    (folder / "train.py").write_text("print('hello')\n")
    (folder / "lib" / "deep" / "data.bin").write_bytes(random.Random(1).randbytes(100_000))
    return folder


class Copier:
    """Copies into one place, again and again."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.origin = Origin(source, "code.nfs s:/e", "s")
        self.folder = folder / "work" / "code"
        self.cancelled = threading.Event()

    def __call__(self, timeout: float = PATIENCE) -> str:
        return module.copy(self.origin, self.folder, timeout, self.cancelled)

    def fails(self, code: Code, words: str, timeout: float = PATIENCE) -> None:
        with pytest.raises(LauncherError, match=words) as error:
            self(timeout)
        assert error.value.code is code


@pytest.fixture
def copy(source: Path, tmp_path: Path) -> Copier:
    return Copier(source, tmp_path)


class Reads:
    """Counts the bytes that are read of files, and may do something at a read."""

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


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


def same(a: Path, b: Path) -> None:
    subprocess.run(["diff", "-r", "--no-dereference", a, b], check=True)


def contents(folder: Path) -> dict[bytes, Any]:
    """Every name with its kind, its execute bit and its bytes, by other means than the copy's."""
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


# What arrives.


def test_any_name_is_copied(source: Path, copy: Copier) -> None:
    names = [b"with space", b"two\nlines", b"\xff\xfe not utf-8", b" ", b"-rf", b"*", "ö".encode()]
    for name in names:
        (source / os.fsdecode(name)).mkdir()
        (source / os.fsdecode(name) / os.fsdecode(name)).write_bytes(name)
    assert copy()
    assert contents(copy.folder) == contents(source)
    assert set(names) <= contents(copy.folder).keys()
    assert copy() == copy()  # names survive in its memory too


@pytest.mark.parametrize(
    "size",
    [0, 1, READ_BYTES - 1, READ_BYTES, READ_BYTES + 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES],
)
def test_a_file_of_any_size_is_copied(size: int, source: Path, copy: Copier, reads: Reads) -> None:
    (source / "file").write_bytes(random.Random(size).randbytes(size))
    copy()
    assert contents(copy.folder) == contents(source)
    assert reads.bytes == sum(p.stat().st_size for p in source.rglob("*") if p.is_file())


def test_holes_stay_holes(source: Path, copy: Copier) -> None:
    size = 4 * PART_BYTES + 5
    with (source / "sparse").open("wb") as file:
        file.truncate(size)
        file.seek(2 * PART_BYTES)
        file.write(b"data")
    copy()
    made = copy.folder / "sparse"
    assert made.stat().st_size == size
    assert made.stat().st_blocks * 512 <= 2 * READ_BYTES
    assert contents(copy.folder) == contents(source)


def test_modes_are_kept_and_what_must_be_written_can_be(source: Path, copy: Copier) -> None:
    for mode in (0o755, 0o600, 0o444, 0o500):
        (source / f"{mode:o}").write_text("x")
        (source / f"{mode:o}").chmod(mode)
    copy()
    made = {int(path.name, 8): path.stat().st_mode & 0o777 for path in copy.folder.glob("[0-9]*")}
    assert made == {0o755: 0o755, 0o600: 0o600, 0o444: 0o644, 0o500: 0o700}


def test_what_is_neither_file_nor_folder_nor_link_is_left_behind(
    source: Path, copy: Copier
) -> None:
    before = copy()
    os.mkfifo(source / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(source / "socket"))
        assert copy() == before
    assert not (copy.folder / "pipe").exists()


def test_names_that_tfrunignore_names_are_left_behind(source: Path, copy: Copier) -> None:
    comment = "#" * 200_000  # however long it is
    (source / ".tfrunignore").write_text(f"{comment}\n*.bin\n/data/\n")
    (source / "data").mkdir()
    (source / "data" / "secret").touch()
    (source / "data").chmod(0)  # it is not even looked into
    before = copy()
    assert sorted(path.name for path in copy.folder.rglob("*")) == [
        ".tfrunignore", "deep", "lib", "train.py",
    ]  # fmt: skip
    (source / "new.bin").touch()
    assert copy() == before


# Links.


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("link", "train.py"),
        ("link", "lib/../train.py"),
        ("lib/link", "../train.py"),
        ("lib/deep/link", "../.."),
        ("link", "/data/vocabulary.txt"),
        ("link", "not/there"),
        ("loop", "loop"),
    ],
)
def test_links_are_kept_as_they_are(source: Path, copy: Copier, name: str, target: str) -> None:
    (source / name).symlink_to(target)
    copy()
    assert os.readlink(copy.folder / name) == target


@pytest.mark.parametrize(
    ("name", "target"),
    [("link", "../shared"), ("lib/link", "../../shared"), ("link", "lib/../../source/train.py")],
)
def test_a_link_that_leaves_the_folder_is_named(
    source: Path, copy: Copier, name: str, target: str
) -> None:
    (source / name).symlink_to(target)
    copy.fails(Code.CODE_MISSING, f"the link {name} leads to {target}, outside of it")
    (source / ".tfrunignore").write_text("link\n")
    assert copy()


# The digest.


def test_the_digest_by_hand(source: Path, copy: Copier) -> None:
    (source / "run").write_text("#!/bin/sh\n")
    (source / "run").chmod(0o711)
    (source / "link").symlink_to("run")
    (source / "large").write_bytes(b"x" * (PART_BYTES + 1))

    def file(*parts: bytes) -> str:
        hashes = b"".join(hashlib.sha256(part).digest() for part in parts)
        return hashlib.sha256(hashes).hexdigest()

    entries = {
        "large": "f" + file(b"x" * PART_BYTES, b"x"),
        "lib": "d",
        "lib/deep": "d",
        "lib/deep/data.bin": "f" + file((source / "lib/deep/data.bin").read_bytes()),
        "link": "lrun",
        "run": "x" + file(b"#!/bin/sh\n"),
        "train.py": "f" + file(b"print('hello')\n"),
    }
    text = "".join(f"{len(k)} {k} {len(v)} {v} " for k, v in sorted(entries.items()))
    assert copy() == hashlib.sha256(text.encode()).hexdigest()[:32]


def test_the_digest_does_not_know_who_was_first(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(200):
        (source / f"{i}").write_text(f"{i}")
    digests: set[str] = set()
    for threads in (1, 3, 16, 16, 16):
        monkeypatch.setattr(module, "THREADS", threads)
        digests.add(Copier(source, tmp_path / f"{len(digests)}-{threads}")())
    assert len(digests) == 1


def test_any_byte_of_a_large_file_counts(source: Path, tmp_path: Path) -> None:
    large = source / "large"
    large.write_bytes(bytes(2 * PART_BYTES + 9))
    digests = {Copier(source, tmp_path / "before")()}
    for at in (0, PART_BYTES - 1, PART_BYTES, 2 * PART_BYTES + 8):
        with large.open("r+b") as file:
            file.seek(at)
            file.write(b"!")
        digests.add(Copier(source, tmp_path / f"{at}")())
    assert len(digests) == 5


# Again.


def test_a_second_copy_reads_nothing(source: Path, copy: Copier, reads: Reads) -> None:
    (source / "large").write_bytes(bytes(PART_BYTES + 1))
    before = copy()
    kept = copy.folder.stat().st_ino
    reads.bytes = 0
    assert copy() == before
    assert reads.bytes == 0
    assert contents(copy.folder) == contents(source)
    assert copy.folder.stat().st_ino != kept  # it was made anew, of the same files


def test_a_second_copy_reads_what_changed_on_either_side(
    source: Path, copy: Copier, reads: Reads
) -> None:
    before = copy()
    reads.bytes = 0
    (copy.folder / "train.py").write_text("by the program itself\n")
    (copy.folder / "made-by-the-program").write_text("x")
    assert copy() == before
    assert reads.bytes == len("print('hello')\n")
    assert contents(copy.folder) == contents(source)

    # As an editor saves: the same size, the same time, another file.
    info = (source / "train.py").stat()
    (source / "new").write_text("print('HELLO')\n")
    os.utime(source / "new", ns=(info.st_atime_ns, info.st_mtime_ns))
    (source / "new").rename(source / "train.py")
    assert copy() != before
    assert contents(copy.folder) == contents(source)

    time.sleep(0.02)  # a tick of the file system's clock
    (source / "train.py").chmod(0o755)
    copy()
    assert contents(copy.folder) == contents(source)


@pytest.mark.parametrize("harm", ["lost", "not JSON", "a list"])
def test_a_memory_that_is_damaged_is_no_harm(source: Path, copy: Copier, harm: str) -> None:
    before = copy()
    memory = copy.folder.with_name("code.json")
    memory.unlink()
    if harm != "lost":
        memory.write_text({"not JSON": "{", "a list": "[]"}[harm])
    assert copy() == before
    same(source, copy.folder)


# Faults.


def test_a_file_that_grows_is_read_again(source: Path, copy: Copier, reads: Reads) -> None:
    def grow() -> None:
        reads.act = lambda: None
        with (source / "train.py").open("a") as file:
            file.write("print('more')\n")

    (source / "lib" / "deep" / "data.bin").unlink()
    reads.act = grow
    digest = copy()
    same(source, copy.folder)
    assert "more" in (copy.folder / "train.py").read_text()
    assert digest == copy()


def test_a_file_that_shrinks_is_read_again(source: Path, copy: Copier, reads: Reads) -> None:
    def shrink() -> None:
        reads.act = lambda: None
        os.truncate(source / "train.py", 3)

    (source / "lib" / "deep" / "data.bin").unlink()
    reads.act = shrink
    copy()
    same(source, copy.folder)


def test_a_file_that_always_changes_is_named(source: Path, copy: Copier, reads: Reads) -> None:
    (source / "lib" / "deep" / "data.bin").unlink()
    sizes = itertools.count(20)  # times may be too coarse to tell
    reads.act = lambda: os.truncate(source / "train.py", next(sizes))
    copy.fails(Code.TRY_AGAIN, r"must not change while it is copied; train\.py did, 3 times")


@pytest.mark.parametrize("what", ["a file", "a folder"])
def test_what_vanishes_was_never_there(
    source: Path, copy: Copier, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An editor saves train.py: the folder was listed before, and is opened after."""
    name = "_file" if what == "a file" else "_list"
    act = getattr(module._Copy, name)

    def vanish(self: module._Copy, below: str) -> None:
        if below == ("train.py" if what == "a file" else "lib") and not (source / "new").exists():
            shutil.move(source / below, source / "new")
        act(self, below)

    monkeypatch.setattr(module._Copy, name, vanish)
    copy()
    assert (copy.folder / "new").exists()
    same(source, copy.folder)


def test_what_comes_and_goes_all_the_time_was_never_there(
    source: Path, copy: Copier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run writes its checkpoints beside the code."""
    begin, act, attempts = module._Copy._begin, module._Copy._file, []

    def come(self: module._Copy) -> None:
        (source / "temporary").touch()
        begin(self)

    def go(self: module._Copy, name: str) -> None:
        if name == "temporary":
            attempts.append(self)
            (source / name).unlink()
        act(self, name)

    monkeypatch.setattr(module._Copy, "_begin", come)
    monkeypatch.setattr(module._Copy, "_file", go)
    copy()
    assert len(attempts) == module.ATTEMPTS
    same(source, copy.folder)


@pytest.mark.parametrize("name", ["train.py", "large"])
def test_what_vanishes_while_it_is_read_was_there(
    source: Path, copy: Copier, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of it is no program, and no digest names it."""
    (source / "large").write_bytes(bytes(3 * PART_BYTES))
    read, reads = module._Copy._read, []

    def vanish(self: module._Copy, at: str, *arguments: Any) -> bytes:
        if at == name:
            reads.append(at)
            if name == "train.py" or not len(reads) % 3:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return read(self, at, *arguments)

    monkeypatch.setattr(module._Copy, "_read", vanish)
    copy.fails(Code.TRY_AGAIN, f"must not change while it is copied; {name} did, 3 times")
    assert not copy.folder.exists()


def test_a_copy_that_fails_takes_nothing_away(
    source: Path, copy: Copier, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, made = copy(), contents(copy.folder)
    (source / "train.py").write_text("edited\n")
    monkeypatch.setattr(module, "THREADS", 2)

    def fail() -> None:
        deadline = time.monotonic() + PATIENCE
        while not list(copy.folder.parent.glob("code.new-*/lib/deep/data.bin")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    reads.act = fail
    copy.fails(Code.IO, "Connection timed out")
    assert contents(copy.folder) == made
    reads.act = lambda: None
    reads.bytes = 0
    assert copy() != before
    assert reads.bytes == len("edited\n")  # what it had is taken over as ever
    assert (copy.folder / "lib" / "deep" / "data.bin").stat().st_nlink == 1


def test_without_hard_links_all_is_read_again(
    source: Path, copy: Copier, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = copy()

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    assert copy() == before
    same(source, copy.folder)


def test_large_files_are_not_all_open_at_once(
    source: Path, copy: Copier, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PART_BYTES", 2)
    for i in range(4 * module.THREADS):
        (source / f"{i}").write_text("abc")
    (source / "lib" / "deep" / "data.bin").unlink()
    most = [len(os.listdir("/proc/self/fd"))]
    begin = most[0]
    reads.act = lambda: most.append(len(os.listdir("/proc/self/fd")))
    copy()
    assert len(most) > 8 * module.THREADS
    assert max(most) <= begin + 3 * module.THREADS  # each reads, writes, and counts
    same(source, copy.folder)


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(
    source: Path, copy: Copier, monkeypatch: pytest.MonkeyPatch
) -> None:
    act = module._Copy._file

    def swap(self: module._Copy, name: str) -> None:
        if name == "train.py":
            (source / name).unlink(missing_ok=True)
            os.mkfifo(source / name)
        act(self, name)

    monkeypatch.setattr(module._Copy, "_file", swap)
    copy()
    assert not (copy.folder / "train.py").exists()


@pytest.fixture
def away(reads: Reads) -> Iterator[threading.Event]:
    """A server that does not answer a read before the test ends."""
    back = threading.Event()
    reads.act = lambda: back.wait(PATIENCE)
    yield back
    back.set()


def test_a_server_that_stays_away_is_named(
    source: Path, copy: Copier, away: threading.Event
) -> None:
    (source / "lib" / "deep" / "data.bin").unlink()
    begin = time.monotonic()
    copy.fails(
        Code.IO, r"s:/e cannot be copied: s has not answered for \d s, reading train\.py", 1.0
    )
    assert time.monotonic() - begin < PATIENCE / 2
    # What was under way ends without harm once the server is back, while another copy is made.
    left = threading.active_count()
    away.set()
    assert copy()
    deadline = time.monotonic() + PATIENCE
    while threading.active_count() >= left:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    same(source, copy.folder)


def test_a_slow_server_is_not_one_that_is_away(source: Path, copy: Copier, reads: Reads) -> None:
    for i in range(8 * module.THREADS):
        (source / f"{i}").write_text("x")
    reads.act = lambda: time.sleep(0.3)
    assert copy(timeout=2.0)


def test_a_copy_that_nobody_wants_ends(copy: Copier, away: threading.Event) -> None:
    ended = threading.Timer(0.2, copy.cancelled.set)
    ended.start()
    copy.fails(Code.TRY_AGAIN, "no longer wanted")
    assert not away.is_set()


def test_an_error_of_the_server_is_told_with_its_name(copy: Copier, reads: Reads) -> None:
    def fail() -> None:
        raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    reads.act = fail
    copy.fails(Code.IO, "s:/e cannot be copied: Connection timed out: (train.py|lib/deep/data.bin)")


FULL = """
import sys, threading
from pathlib import Path
from launcher.code import copy
from launcher.shared import exits
try:
    copy.copy(copy.Origin(Path(sys.argv[1]), "code.nfs s:/e", "s"), Path(sys.argv[2], "code"), 60,
              threading.Event())
except exits.LauncherError as error:
    print(int(error.code), error.reason)
"""
NAMESPACES = ["unshare", "--map-root-user", "--mount"]


def test_a_full_disk_is_named(source: Path, tmp_path: Path) -> None:
    if subprocess.run([*NAMESPACES, "true"], check=False).returncode:
        pytest.skip("needs namespaces, for a disk of its own")
    (source / "large").write_bytes(b"x" * 3 * READ_BYTES)
    (tmp_path / "disk").mkdir()
    script = 'mount -t tmpfs -o size=1m none "$1"; exec "$2" -c "$3" "$4" "$1"'
    words: list[str | Path] = [tmp_path / "disk", sys.executable, FULL, source]
    done = subprocess.run(
        [*NAMESPACES, "sh", "-ec", script, "sh", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    told, _, writing = done.stdout.partition(", writing ")
    assert told == (
        f"74 code.nfs s:/e cannot be copied: No space left on device in {tmp_path}/disk"
    ), done.stderr
    # Files are copied side by side, and any of them may find that nothing is left.
    assert (source / writing.rstrip("\n")).is_file()
