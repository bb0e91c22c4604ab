"""A copy whose source changes, vanishes or does not answer, or whose disk is full."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.code import copy as module
from launcher.code.copy import PART_BYTES, READ_BYTES
from launcher.shared.exits import ExitCode
from tests.unit.code.copies import PATIENCE, Copier, Reads, contents, same

ROOT = Path(__file__).parents[3]


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
    sizes = itertools.count(20)  # because timestamps may be too coarse
    reads.act = lambda: os.truncate(source / "train.py", next(sizes))
    copy.fails(ExitCode.TRY_AGAIN, r"must not change while it is copied; train\.py did, 3 times")


@pytest.mark.parametrize("what", ["a file", "a folder"])
def test_a_file_or_folder_that_vanishes_before_it_is_opened_is_left_out_of_the_copy(
    source: Path, copy: Copier, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An editor replaces train.py after the folder was listed and before the file is opened."""
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


def test_a_file_that_comes_and_goes_all_the_time_is_left_out_of_the_copy(
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
def test_a_file_that_vanishes_while_it_is_read_fails_the_copy(
    source: Path, copy: Copier, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy must not hold a part of a file."""
    (source / "large").write_bytes(bytes(3 * PART_BYTES))
    read, reads = module._Copy._read, []

    def vanish(self: module._Copy, at: str, *arguments: Any) -> bytes:
        if at == name:
            reads.append(at)
            if name == "train.py" or not len(reads) % 3:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return read(self, at, *arguments)

    monkeypatch.setattr(module._Copy, "_read", vanish)
    copy.fails(ExitCode.TRY_AGAIN, f"must not change while it is copied; {name} did, 3 times")
    assert not copy.folder.exists()


def test_a_copy_that_fails_leaves_the_last_copy_as_it_was(
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
    copy.fails(ExitCode.IO, "Connection timed out")
    assert contents(copy.folder) == made
    reads.act = lambda: None
    reads.bytes = 0
    assert copy() != before
    assert reads.bytes == len("edited\n")  # the files of the last copy are still reused
    assert (copy.folder / "lib" / "deep" / "data.bin").stat().st_nlink == 1


def test_all_files_are_read_again_where_hard_links_are_refused(
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
    assert max(most) <= begin + 3 * module.THREADS  # each thread reads, writes, and counts
    same(source, copy.folder)


def test_a_pipe_that_replaces_a_file_does_not_block_the_copy(
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
    """A server that answers no read before the event is set or the test ends."""
    back = threading.Event()
    reads.act = lambda: back.wait(PATIENCE)
    yield back
    back.set()


def test_an_nfs_server_that_stays_away_is_named(
    source: Path, copy: Copier, away: threading.Event
) -> None:
    (source / "lib" / "deep" / "data.bin").unlink()
    begin = time.monotonic()
    copy.fails(
        ExitCode.IO, r"s:/e cannot be copied: s has not answered for \d s, reading train\.py", 1.0
    )
    assert time.monotonic() - begin < PATIENCE / 2
    # When the server is back, the old reads end and do not disturb the next copy.
    left = threading.active_count()
    away.set()
    assert copy()
    deadline = time.monotonic() + PATIENCE
    while threading.active_count() >= left:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    same(source, copy.folder)


def test_an_nfs_server_that_is_slow_does_not_fail_the_copy(
    source: Path, copy: Copier, reads: Reads
) -> None:
    for i in range(8 * module.THREADS):
        (source / f"{i}").write_text("x")
    reads.act = lambda: time.sleep(0.3)
    assert copy(timeout=2.0)


@pytest.mark.usefixtures("away")
def test_a_cancelled_copy_ends_while_the_server_does_not_answer(copy: Copier) -> None:
    begin = time.monotonic()
    threading.Timer(0.2, copy.cancelled.set).start()
    copy.fails(ExitCode.TRY_AGAIN, ": cancelled")
    assert time.monotonic() - begin < PATIENCE / 2


def test_a_read_error_is_reported_with_the_name_of_the_file(copy: Copier, reads: Reads) -> None:
    def fail() -> None:
        raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    reads.act = fail
    copy.fails(
        ExitCode.IO, "s:/e cannot be copied: Connection timed out: (train.py|lib/deep/data.bin)"
    )


FULL = """
import sys, threading
from pathlib import Path
from launcher.code import copy
from launcher.shared import exits
try:
    copy.copy(copy.Origin(Path(sys.argv[1]), "code.nfs s:/e", "s"), Path(sys.argv[2], "code"), 60,
              threading.Event())
except exits.LauncherError as error:
    print(int(error.exit_code), error.reason)
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
    # Files are copied in parallel, and any of them may be the one that fills the disk.
    assert (source / writing.rstrip("\n")).is_file()
