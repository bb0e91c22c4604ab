"""The program's code: every source delivers the same files and the same digest."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.code.pull import Place, Pulled, pull
from launcher.shared.exits import ExitCode, LauncherError
from launcher.shared.sources import Delivery, Source

NFS = Source("nfs", "/exports/app", "nfs.example.com")
ROOT = Path(__file__).parents[3]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "lib" / "deep").mkdir(parents=True)
    (folder / "train.py").write_text("print('hello')\n")
    (folder / "lib" / "deep" / "data.bin").write_bytes(bytes(range(256)) * 8192)
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "link.py").symlink_to("train.py")
    (folder / "nowhere").symlink_to("/no/such/thing")
    (folder / "empty").mkdir()
    return folder


def deliver(source: Source, mount: Path | None, work: Path) -> Pulled:
    place = Place(mount, None, work, os.environ)
    return pull(Delivery(source, False, "", 60), place, "", "", threading.Event())


def fetch(source: Path, work: Path) -> Pulled:
    return deliver(NFS, source, work)


def test_a_pulled_folder_equals_its_source(source: Path, tmp_path: Path) -> None:
    copy = fetch(source, tmp_path / "work").folder
    assert copy == tmp_path / "work" / "code"
    subprocess.run(["diff", "-r", "--no-dereference", source, copy], check=True)
    assert os.readlink(copy / "link.py") == "train.py"
    assert os.readlink(copy / "nowhere") == "/no/such/thing"
    assert (copy / "run.sh").stat().st_mode & stat.S_IXUSR
    assert (copy / "empty").is_dir()


def touch(folder: Path) -> None:
    os.utime(folder / "train.py", (0, 0))


def add_git(folder: Path) -> None:
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref: refs/heads/main")


def add_cache(folder: Path) -> None:
    (folder / "lib" / "__pycache__").mkdir()
    (folder / "lib" / "__pycache__" / "x.pyc").write_text("x")


def write_byte(folder: Path) -> None:
    with (folder / "lib" / "deep" / "data.bin").open("r+b") as file:
        file.seek(2_000_000)
        file.write(b"!")


def rename(folder: Path) -> None:
    (folder / "train.py").rename(folder / "train2.py")


def make_executable(folder: Path) -> None:
    (folder / "train.py").chmod(0o755)


def point_elsewhere(folder: Path) -> None:
    (folder / "link.py").unlink()
    (folder / "link.py").symlink_to("run.sh")


def make_a_file_of_a_link(folder: Path) -> None:
    (folder / "link.py").unlink()
    (folder / "link.py").write_text("train.py")


def add_a_folder(folder: Path) -> None:
    (folder / "empty2").mkdir()


def move_into_a_folder(folder: Path) -> None:
    (folder / "run.sh").rename(folder / "empty" / "run.sh")


@pytest.mark.parametrize("change", [touch, add_git, add_cache])
def test_times_git_folders_and_caches_do_not_change_the_digest(
    source: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    before = fetch(source, tmp_path / "a").digest
    change(source)
    after = fetch(source, tmp_path / "b")
    assert before == after.digest
    assert not (after.folder / ".git").exists()
    assert not (after.folder / "lib" / "__pycache__").exists()


@pytest.mark.parametrize(
    "change",
    [
        write_byte,
        rename,
        make_executable,
        point_elsewhere,
        make_a_file_of_a_link,
        add_a_folder,
        move_into_a_folder,
    ],
)
def test_bytes_names_modes_links_and_folders_change_the_digest(
    source: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    before = fetch(source, tmp_path / "a").digest
    change(source)
    assert fetch(source, tmp_path / "b").digest != before


def test_a_second_pull_leaves_nothing_of_the_first(source: Path, tmp_path: Path) -> None:
    fetch(source, tmp_path)
    rename(source)
    copy = fetch(source, tmp_path).folder
    assert not (copy / "train.py").exists()
    assert (copy / "train2.py").exists()


def test_read_only_files_can_be_pulled_twice(source: Path, tmp_path: Path) -> None:
    (source / "train.py").chmod(0o444)
    fetch(source, tmp_path)
    assert fetch(source, tmp_path).digest


def test_code_of_the_image_is_used_where_it_is(source: Path, tmp_path: Path) -> None:
    pulled = deliver(Source("image", str(source)), None, tmp_path / "work")
    assert pulled == Pulled(source, "")
    assert not (tmp_path / "work").exists()


def test_a_silent_volume_of_code_image_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back = threading.Event()
    monkeypatch.setattr(Path, "is_dir", lambda _: back.wait(30))
    delivery = Delivery(Source("image", "/data/code"), False, "", 0.2)
    try:
        with pytest.raises(LauncherError, match="image /data/code has not answered") as error:
            pull(delivery, Place(None, None, tmp_path, os.environ), "", "", threading.Event())
    finally:
        back.set()
    assert error.value.exit_code is ExitCode.IO


@pytest.mark.parametrize("what", ["nothing", "a file", "an empty folder", "only .git"])
def test_a_source_that_holds_no_code_is_named(tmp_path: Path, what: str) -> None:
    origin = tmp_path / "origin"
    if what == "a file":
        origin.write_text("x")
    elif what != "nothing":
        origin.mkdir()
    if what == "only .git":
        add_git(origin)
    with pytest.raises(LauncherError, match=r"code\.nfs nfs\.example\.com:/exports/app") as error:
        fetch(origin, tmp_path / "work")
    assert error.value.exit_code is ExitCode.CODE_MISSING


def test_an_nfs_source_without_tfrun_source_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(LauncherError, match="TFRUN_SOURCE must say where") as error:
        deliver(NFS, None, tmp_path)
    assert error.value.exit_code is ExitCode.CONFIGURATION


def test_a_work_folder_that_is_a_file_is_named(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(LauncherError, match=r"cannot be copied: (File exists|Not a dir)") as error:
        fetch(source, tmp_path / "file")
    assert error.value.exit_code is ExitCode.IO


# Sources.


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Code that every source can deliver: no empty folders for Git, no links for the values."""
    folder = tmp_path / "plain"
    (folder / "lib").mkdir(parents=True)
    (folder / "train.py").write_text("print('größe')\n")
    (folder / "lib" / "a b.py").write_text("")
    return folder


def commit(folder: Path) -> str:
    """Makes a repository of a folder and commits all files. Returns the commit's id."""
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@example.com"]
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message=x"]):
        subprocess.run([*git, *words], check=True)
    found = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    return found.stdout.strip()


def archived(folder: Path, file: Path) -> Source:
    subprocess.run(["tar", "-czf", file, "-C", folder, "."], check=True)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    return Source("archive", url=file.as_uri(), pin=sha256)


def test_every_source_delivers_the_same_files_and_the_same_digest(
    plain: Path, tmp_path: Path
) -> None:
    texts = {
        str(path.relative_to(plain)): path.read_text()
        for path in plain.rglob("*")
        if path.is_file()
    }
    sources = {
        "nfs": (NFS, plain),
        "claim": (Source("claim", plain.name, claim="code"), plain.parent),
        "folder": (Source("folder", str(plain)), None),
        "archive": (archived(plain, tmp_path / "file"), None),
        "inline": (Source("inline", files=texts), None),
        "git": (Source("git", url=plain.as_uri(), pin=commit(plain)), None),
    }
    digests = {}
    for name, (source, mount) in sources.items():
        pulled = deliver(source, mount, tmp_path / name)
        subprocess.run(["diff", "-r", "--exclude=.git", plain, pulled.folder], check=True)
        digests[name] = pulled.digest
    assert len(set(digests.values())) == 1, digests


def test_an_archive_that_was_fetched_is_not_fetched_again(plain: Path, tmp_path: Path) -> None:
    source = archived(plain, tmp_path / "file")
    before = deliver(source, None, tmp_path / "work")
    (tmp_path / "file").unlink()
    (before.folder / "train.py").unlink()  # as the program may do
    assert deliver(source, None, tmp_path / "work") == before
    assert (before.folder / "train.py").exists()

    other = archived(plain / "lib", tmp_path / "other")
    assert deliver(other, None, tmp_path / "work").digest != before.digest
    assert len(list((tmp_path / "work" / "fetched").iterdir())) == 1


def test_a_claim_that_lacks_the_folder_is_named(plain: Path, tmp_path: Path) -> None:
    source = Source("claim", "nothing/here", claim="code")
    with pytest.raises(LauncherError, match=r"code\.claim code:/nothing/here must be a") as error:
        deliver(source, plain, tmp_path)
    assert error.value.exit_code is ExitCode.CODE_MISSING


def test_a_work_folder_that_cannot_be_made_is_named_for_every_fetched_source(
    plain: Path, tmp_path: Path
) -> None:
    (tmp_path / "work").write_text("a file")
    for source in (
        archived(plain, tmp_path / "f"),
        Source("inline", files={"a": "b"}),
        Source("git", url="file:///a", pin="main"),
    ):
        with pytest.raises(LauncherError, match=r"code\..*: (Not a directory|File exists)") as e:
            deliver(source, None, tmp_path / "work")
        assert e.value.exit_code is ExitCode.IO


def test_code_with_another_digest_than_code_digest_is_refused(plain: Path, tmp_path: Path) -> None:
    place = Place(plain, None, tmp_path / "work", os.environ)
    digest = pull(Delivery(NFS, False, "", 60), place, "", "", threading.Event()).digest
    assert pull(Delivery(NFS, False, digest, 60), place, "", "", threading.Event()).digest == digest
    (plain / "train.py").write_text("edited")
    with pytest.raises(LauncherError, match=f"code.digest says, {digest}; it has [0-9a-f]+:") as e:
        pull(Delivery(NFS, False, digest, 60), place, "", "", threading.Event())
    assert e.value.exit_code is ExitCode.CODE_MISSING
