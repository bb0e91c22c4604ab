"""The copy of a folder: what arrives, links, its digest, and what the next copy reads."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import time
from pathlib import Path

import pytest

from launcher.code import copy as module
from launcher.code.copy import PART_BYTES, READ_BYTES
from launcher.shared.exits import ExitCode
from tests.unit.code.copies import Copier, Reads, contents, same


def test_any_name_is_copied(source: Path, copy: Copier) -> None:
    names = [b"with space", b"two\nlines", b"\xff\xfe not utf-8", b" ", b"-rf", b"*", "ö".encode()]
    for name in names:
        (source / os.fsdecode(name)).mkdir()
        (source / os.fsdecode(name) / os.fsdecode(name)).write_bytes(name)
    assert copy()
    assert contents(copy.folder) == contents(source)
    assert set(names) <= contents(copy.folder).keys()
    assert copy() == copy()  # the manifest keeps the names too


@pytest.mark.parametrize(
    "size",
    [0, 1, READ_BYTES - 1, READ_BYTES, READ_BYTES + 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES],
)
def test_a_file_of_any_size_is_copied(size: int, source: Path, copy: Copier, reads: Reads) -> None:
    (source / "file").write_bytes(random.Random(size).randbytes(size))
    copy()
    assert contents(copy.folder) == contents(source)
    assert reads.bytes == sum(p.stat().st_size for p in source.rglob("*") if p.is_file())


def test_holes_of_a_file_stay_holes_in_its_copy(source: Path, copy: Copier) -> None:
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


def test_copies_keep_their_mode_and_can_be_written(source: Path, copy: Copier) -> None:
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


def test_names_that_tfrunignore_matches_are_left_behind(source: Path, copy: Copier) -> None:
    comment = "#" * 200_000  # a long file is read to its end
    (source / ".tfrunignore").write_text(f"{comment}\n*.bin\n/data/\n")
    (source / "data").mkdir()
    (source / "data" / "secret").touch()
    (source / "data").chmod(0)  # the copy does not even open it
    before = copy()
    assert sorted(path.name for path in copy.folder.rglob("*")) == [
        ".tfrunignore", "deep", "lib", "train.py",
    ]  # fmt: skip
    (source / "new.bin").touch()
    assert copy() == before


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
def test_a_link_that_leads_out_of_the_folder_is_refused_by_name(
    source: Path, copy: Copier, name: str, target: str
) -> None:
    (source / name).symlink_to(target)
    copy.fails(ExitCode.CODE_MISSING, f"the link {name} leads to {target}, outside of it")
    (source / ".tfrunignore").write_text("link\n")
    assert copy()


def test_the_digest_equals_one_that_is_computed_by_hand(source: Path, copy: Copier) -> None:
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


def test_the_digest_does_not_depend_on_the_order_of_the_threads(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(200):
        (source / f"{i}").write_text(f"{i}")
    digests: set[str] = set()
    for threads in (1, 3, 16, 16, 16):
        monkeypatch.setattr(module, "THREADS", threads)
        digests.add(Copier(source, tmp_path / f"{len(digests)}-{threads}")())
    assert len(digests) == 1


def test_any_changed_byte_of_a_large_file_changes_the_digest(source: Path, tmp_path: Path) -> None:
    large = source / "large"
    large.write_bytes(bytes(2 * PART_BYTES + 9))
    digests = {Copier(source, tmp_path / "before")()}
    for at in (0, PART_BYTES - 1, PART_BYTES, 2 * PART_BYTES + 8):
        with large.open("r+b") as file:
            file.seek(at)
            file.write(b"!")
        digests.add(Copier(source, tmp_path / f"{at}")())
    assert len(digests) == 5


def test_a_second_copy_of_an_unchanged_folder_reads_nothing(
    source: Path, copy: Copier, reads: Reads
) -> None:
    (source / "large").write_bytes(bytes(PART_BYTES + 1))
    before = copy()
    kept = copy.folder.stat().st_ino
    reads.bytes = 0
    assert copy() == before
    assert reads.bytes == 0
    assert contents(copy.folder) == contents(source)
    assert copy.folder.stat().st_ino != kept  # a new folder of the same files


def test_a_second_copy_reads_the_files_that_changed_on_either_side(
    source: Path, copy: Copier, reads: Reads
) -> None:
    before = copy()
    reads.bytes = 0
    (copy.folder / "train.py").write_text("by the program itself\n")
    (copy.folder / "made-by-the-program").write_text("x")
    assert copy() == before
    assert reads.bytes == len("print('hello')\n")
    assert contents(copy.folder) == contents(source)

    # An editor saves: another file with the same size and the same time.
    info = (source / "train.py").stat()
    (source / "new").write_text("print('HELLO')\n")
    os.utime(source / "new", ns=(info.st_atime_ns, info.st_mtime_ns))
    (source / "new").rename(source / "train.py")
    assert copy() != before
    assert contents(copy.folder) == contents(source)

    time.sleep(0.02)  # longer than a tick of the file system's clock
    (source / "train.py").chmod(0o755)
    copy()
    assert contents(copy.folder) == contents(source)


@pytest.mark.parametrize("harm", ["lost", "not JSON", "a list"])
def test_a_damaged_manifest_of_the_last_copy_does_no_harm(
    source: Path, copy: Copier, harm: str
) -> None:
    before = copy()
    memory = copy.folder.with_name("code.json")
    memory.unlink()
    if harm != "lost":
        memory.write_text({"not JSON": "{", "a list": "[]"}[harm])
    assert copy() == before
    same(source, copy.folder)
