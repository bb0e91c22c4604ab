"""Unpacking archives: every format, and malicious or damaged archives."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import subprocess
import tarfile
import threading
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from launcher.code import archive, unpack
from launcher.shared.exits import ExitCode
from tests.unit.code.archives import FILE, FOLDER, HARD, LINK, PACK, of, refused, same, tar


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "lib").mkdir(parents=True)
    (folder / "train.py").write_text("print('hello')\n" * 1000)
    (folder / "lib" / "run").write_text("#!/bin/sh\n")
    (folder / "lib" / "run").chmod(0o755)
    (folder / "lib" / "link").symlink_to("../train.py")
    (folder / "empty").mkdir()
    return folder


@pytest.mark.parametrize("kind", PACK)
def test_a_tar_is_unpacked(
    source: Path, tmp_path: Path, kind: str, cancelled: threading.Event
) -> None:
    file = tmp_path / "no-name-that-tells"
    subprocess.run([*PACK[kind], file, "-C", source, "."], check=True)
    archive.fetch(of(file), tmp_path / "to" / "here", cancelled)
    same(source, tmp_path / "to" / "here")


def test_a_zip_is_unpacked(source: Path, tmp_path: Path, cancelled: threading.Event) -> None:
    file = tmp_path / "file"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as zipped:
        for path in sorted(source.rglob("*")):
            name = str(path.relative_to(source))
            if path.is_symlink():
                info = zipfile.ZipInfo(name)
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
                zipped.writestr(info, os.readlink(path))
            else:
                zipped.write(path, name)
    archive.fetch(of(file), tmp_path / "to", cancelled)
    same(source, tmp_path / "to")


def test_hard_links_are_unpacked_as_files(
    source: Path, tmp_path: Path, cancelled: threading.Event
) -> None:
    os.link(source / "train.py", source / "z.py")
    file = tmp_path / "file"
    subprocess.run(["tar", "-cf", file, "-C", source, "."], check=True)
    archive.fetch(of(file), tmp_path / "to", cancelled)
    same(source, tmp_path / "to")
    assert (tmp_path / "to" / "z.py").stat().st_nlink == 1


def test_an_image_without_zstd_is_a_configuration_error(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    subprocess.run([*PACK["tar.zst"], file, "-C", source, "."], check=True)
    monkeypatch.setenv("PATH", "/nowhere")
    refused(
        file, tmp_path / "w" / "to", "zstd, which the image does not have", ExitCode.CONFIGURATION
    )


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("/etc/evil", FILE, "x")], "only names inside the folder; '/etc/evil'"),
        ([("../evil", FILE, "x")], r"only names inside the folder; '\.\./evil'"),
        ([("a/../../evil", FILE, "x")], "only names inside the folder"),
        ([("../evil", FOLDER, "")], "only names inside the folder"),
        ([("link", LINK, "/etc/passwd")], "links that stay inside; link leads to /etc/passwd"),
        ([("link", LINK, "../outside")], "links that stay inside"),
        ([("link", LINK, "../unpacked/first")], "links that stay inside"),  # its temporary name
        ([("a/link", LINK, "../../outside")], "links that stay inside"),
        # As text this path stays inside, but through the link `up` it leads outside.
        (
            [("x/y/z/up", LINK, "../../.."), ("x/y/z/out", LINK, "up/../..")],
            "links that stay inside; x/y/z/out",
        ),
        ([("link", LINK, "../outside"), ("link/evil", FILE, "x")], "links that stay inside|twice"),
        ([("link", LINK, "."), ("link/evil", FILE, "x")], "each name once; link comes twice"),
        ([("a", FILE, "x"), ("a/b", FILE, "x")], "each name once"),
        ([("a/b", FILE, "x"), ("a", FILE, "x")], "each name once"),
        ([("link", LINK, "a"), ("a", FILE, "x"), ("link", LINK, "b")], "each name once"),
        ([("hard", HARD, "/etc/passwd")], "only names inside the folder"),
        ([("hard", HARD, "../outside")], "only names inside the folder"),
        ([("hard", HARD, "nothing")], "what its links lead to; nothing is missing"),
        ([("link", LINK, "../outside"), ("hard", HARD, "link")], "links lead to; link is missing"),
        ([("pipe", tarfile.FIFOTYPE, "")], "only files, folders and links; pipe is not one"),
        ([("null", tarfile.CHRTYPE, "")], "only files, folders and links"),
        ([("disk", tarfile.BLKTYPE, "")], "only files, folders and links"),
    ],
)
def test_a_malicious_tar_is_refused(
    tmp_path: Path, members: list[tuple[str, bytes, str]], words: str
) -> None:
    (tmp_path / "outside").write_text("mine")
    file = tar(tmp_path / "file", ("first", FILE, "x"), *members)
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}
    refused(file, tmp_path / "w" / "to", words)
    left = {p: p.lstat().st_mtime_ns for p in tmp_path.rglob("*") if p != tmp_path / "w"}
    assert left == before
    assert not Path("/etc/evil").exists()


@pytest.mark.parametrize(
    ("name", "mode", "text", "words"),
    [
        ("../evil", 0, "x", "only names inside the folder"),
        ("/evil", 0, "x", "only names inside the folder"),
        ("link", stat.S_IFLNK | 0o777, "/etc/passwd", "links that stay inside"),
        ("null", stat.S_IFCHR | 0o666, "", "only files, folders and links"),
    ],
)
def test_a_malicious_zip_is_refused(
    tmp_path: Path, name: str, mode: int, text: str, words: str
) -> None:
    with zipfile.ZipFile(tmp_path / "file", "w") as zipped:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        zipped.writestr(info, text)
    refused(tmp_path / "file", tmp_path / "w" / "to", words)


def test_setuid_bits_are_not_unpacked(tmp_path: Path, cancelled: threading.Event) -> None:
    with tarfile.open(tmp_path / "file", "w") as opened:
        info = tarfile.TarInfo("su")
        info.mode, info.uid, info.gid = 0o6777, 0, 0
        opened.addfile(info)
    archive.fetch(of(tmp_path / "file"), tmp_path / "to", cancelled)
    assert (tmp_path / "to" / "su").stat().st_mode & 0o7000 == 0


@pytest.mark.parametrize(
    ("bound", "least", "words"),
    [
        ("UNPACKED_BYTES", 15_000, "at most 15000 bytes, unpacked"),
        ("UNPACKED_FILES", 4, "at most 4 files"),
        ("FETCHED_BYTES", 100, "at most 100 bytes"),
    ],
)
def test_an_archive_with_too_many_bytes_or_files_is_refused(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bound: str,
    least: int,
    words: str,
) -> None:
    (source / "zeros").write_bytes(bytes(1_000_000))
    subprocess.run(["tar", "-czf", tmp_path / "file", "-C", source, "."], check=True)
    monkeypatch.setattr(archive if bound == "FETCHED_BYTES" else unpack, bound, least)
    refused(tmp_path / "file", tmp_path / "w" / "to", words)


@pytest.mark.parametrize("kind", [*PACK, "zip", "text", "nothing"])
def test_a_damaged_archive_or_another_file_is_refused(
    source: Path, tmp_path: Path, kind: str
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"" if kind == "nothing" else b"print('hello')\n" * 100)
    (source / "noise").write_bytes(os.urandom(100_000))
    if kind in PACK:
        subprocess.run([*PACK[kind], file, "-C", source, "."], check=True)
    elif kind == "zip":
        shutil.make_archive(str(file), "zip", source)
        shutil.move(tmp_path / "file.zip", file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    refused(file, tmp_path / "w" / "to", "an intact tar or zip")


@pytest.mark.parametrize("how", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_whose_compression_cannot_be_bounded_is_refused(tmp_path: Path, how: int) -> None:
    with zipfile.ZipFile(tmp_path / "file", "w", how) as zipped:
        zipped.writestr("lib/zeros", bytes(1000))
    words = "files that are stored or deflated; lib/zeros is not"
    refused(tmp_path / "file", tmp_path / "w" / "to", words)


@pytest.mark.parametrize("size", [unpack.HEADER_BYTES + 1, -1024], ids=["large", "negative"])
@pytest.mark.parametrize("kind", unpack.HEADERS)
def test_a_tar_header_of_an_impossible_size_is_refused(
    tmp_path: Path, kind: bytes, size: int
) -> None:
    info = tarfile.TarInfo("header")
    info.type, info.size = kind, size
    data = info.tobuf(tarfile.GNU_FORMAT) + b"a" * max(size, 0)
    (tmp_path / "file").write_bytes(tarfile.TarInfo("first").tobuf() + data + bytes(2048))
    refused(tmp_path / "file", tmp_path / "w" / "to", f"zip: a header has {size} bytes")


def test_a_tar_member_with_endless_headers_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("header")
    info.type = tarfile.XHDTYPE
    (tmp_path / "file").write_bytes(info.tobuf() * 3000)
    refused(tmp_path / "file", tmp_path / "w" / "to", "a member has more than 8 headers")


def test_tar_headers_of_many_members_do_not_add_up_in_memory(
    tmp_path: Path, cancelled: threading.Event
) -> None:
    with (tmp_path / "file").open("wb") as writer:
        for number in range(40):
            info = tarfile.TarInfo(f"{number}.py")
            info.pax_headers = {"comment": "x" * 1_000_000}
            writer.write(info.tobuf(tarfile.PAX_FORMAT))
        writer.write(bytes(2048))
    asked = of(tmp_path / "file")
    tracemalloc.start()
    archive.fetch(asked, tmp_path / "to", cancelled)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(list((tmp_path / "to").iterdir())) == 40
    assert most < 15_000_000


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_sparse_files_are_refused(tmp_path: Path, form: str) -> None:
    """tarfile reads a sparse file's map at once, however long the archive says it is."""
    (tmp_path / "source").mkdir()
    with (tmp_path / "source" / "sparse").open("wb") as writer:
        writer.truncate(1_000_000)
        writer.write(b"x")
    packed: list[str | Path] = [
        "tar",
        "--sparse",
        f"--format={form}",
        "-cf",
        tmp_path / "file",
        "-C",
        tmp_path,
    ]
    subprocess.run([*packed, "source"], check=True)
    refused(tmp_path / "file", tmp_path / "w" / "to", "sparse files are refused")


def test_global_tar_headers_that_add_up_are_refused(tmp_path: Path) -> None:
    text = "x" * (unpack.HEADER_BYTES - 1000)
    with (tmp_path / "file").open("wb") as writer:
        for key in ("first", "second"):
            writer.write(tarfile.TarInfo.create_pax_global_header({key: text}))
            writer.write(tarfile.TarInfo(f"{key}.py").tobuf())
        writer.write(bytes(2048))
    refused(tmp_path / "file", tmp_path / "w" / "to", "its global headers have more than")


@pytest.mark.parametrize(
    "error",
    [OverflowError(), MemoryError(), struct.error("x"), RuntimeError(), IndexError(), KeyError()],
)
def test_every_error_of_tarfile_means_a_damaged_archive(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(tarfile.TarFile, "next", fail)
    subprocess.run(["tar", "-cf", tmp_path / "file", "-C", source, "."], check=True)
    words = f"an intact tar or zip: ({type(error).__name__}|x)"
    refused(tmp_path / "file", tmp_path / "w" / "to", words)
