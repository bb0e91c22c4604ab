"""Code that the pod's user may not read: the user and the file are named, and no retry follows."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.code import archive
from launcher.code.pull import Place, pull
from launcher.decisions.failures import PERMANENT
from launcher.shared.exits import ExitCode, LauncherError
from launcher.shared.process import start
from launcher.shared.sources import Delivery, Source
from launcher.task import child
from tests.unit.code.copies import Copier

USER = 1000  # podSecurityContext.runAsUser of the chart


@pytest.fixture
def user() -> Iterator[int]:
    """Root may read all files, so the test acts as another user where it can."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(USER)
    yield os.geteuid()
    os.seteuid(before)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may write to; pytest's are only for their owner."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.fixture
def copier(folder: Path, user: int) -> Copier:
    code = folder / "source"
    (code / "lib").mkdir(parents=True)
    assert code.stat().st_uid == user
    (code / "train.py").write_text("print('hello')\n")
    (code / "lib" / "key.pem").write_text("key")
    return Copier(code, folder)


@contextlib.contextmanager
def closed(path: Path, mode: int = 0) -> Iterator[None]:
    path.chmod(mode)
    try:
        yield
    finally:
        path.chmod(0o755)


def fails(copier: Copier, words: str) -> None:
    with pytest.raises(LauncherError) as error:
        copier()
    assert error.value.reason == f"code.nfs s:/e cannot be copied: Permission denied: {words}"
    assert error.value.exit_code is ExitCode.CODE_MISSING
    assert error.value.exit_code in PERMANENT


@pytest.mark.parametrize(
    ("closes", "mode", "named"),
    [
        ("lib/key.pem", 0, "lib/key.pem"),
        ("lib", 0, "lib"),
        ("lib", 0o600, "lib/key.pem"),  # the folder may be listed but not entered
    ],
)
def test_a_file_or_folder_that_the_user_may_not_read_is_named(
    copier: Copier, user: int, closes: str, mode: int, named: str
) -> None:
    with closed(copier.origin.folder / closes, mode):
        fails(
            copier,
            f"user {user} may not read {named}. Allow it, or name it in .tfrunignore",
        )


@pytest.mark.parametrize(("closes", "line"), [("lib/key.pem", "*.pem"), ("lib", "lib/")])
def test_a_file_in_tfrunignore_need_not_be_readable(copier: Copier, closes: str, line: str) -> None:
    (copier.origin.folder / ".tfrunignore").write_text(line + "\n")
    with closed(copier.origin.folder / closes):
        assert copier()


def test_a_source_that_the_user_may_not_read_is_named(copier: Copier, user: int) -> None:
    with closed(copier.origin.folder):
        fails(copier, f"user {user} may not read {copier.origin.folder}/.tfrunignore. Allow it")


def test_a_tfrunignore_that_the_user_may_not_read_is_named(copier: Copier, user: int) -> None:
    (copier.origin.folder / ".tfrunignore").write_text("*.pem\n")
    with closed(copier.origin.folder / ".tfrunignore"):
        fails(copier, f"user {user} may not read {copier.origin.folder}/.tfrunignore. Allow it")


def test_a_copy_that_cannot_be_written_is_not_blamed_on_the_source(copier: Copier) -> None:
    copier.folder.parent.mkdir()
    with closed(copier.folder.parent, 0o500):
        copier.fails(ExitCode.IO, "cannot be copied: Permission denied: ")


def test_a_folder_of_the_image_that_the_user_may_not_reach_is_named(
    copier: Copier, folder: Path, user: int
) -> None:
    delivery = Delivery(Source("image", str(copier.origin.folder / "lib")), False, "", 60)
    words = f"must be a folder that user {user} may read"
    with closed(copier.origin.folder), pytest.raises(LauncherError, match=words) as error:
        pull(delivery, Place(None, None, folder / "work", {}), "", "", threading.Event())
    assert error.value.exit_code in PERMANENT


def test_an_archive_that_the_user_may_not_read_is_named_at_once(
    copier: Copier, folder: Path, user: int
) -> None:
    file = copier.origin.folder / "train.py"
    wanted = archive.Archive(file.as_uri(), "0a" * 32, None, 60, {})
    words = f"is not readable by user {user}"
    with closed(file), pytest.raises(LauncherError, match=words) as error:
        archive.fetch(wanted, folder / "work" / "fetched", threading.Event())
    assert error.value.exit_code in PERMANENT


def test_a_folder_that_the_program_may_not_enter_is_named(copier: Copier, user: int) -> None:
    """As a folder of the image can be, which is used in place."""
    folder, argv = copier.origin.folder, ["true"]
    with closed(folder, 0o600), pytest.raises(PermissionError) as error:
        start(argv, os.environ, folder)
    reason = child._cannot_start(argv, os.environ, folder, error.value).reason
    assert reason.endswith(f"Permission denied: user {user} may not enter {folder}")
