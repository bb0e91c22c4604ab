"""Fetching one commit of a Git repository from servers of every kind."""

from __future__ import annotations

import base64
import functools
import http.server
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.code import git, tool
from launcher.code.credentials import Credentials
from launcher.code.git import Repository
from launcher.shared.exits import ExitCode, LauncherError
from tests.unit.code.test_pull import commit
from tests.unit.servers import serving


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    folder = tmp_path / "origin"
    (folder / "lib").mkdir(parents=True)
    (folder / "train.py").write_text("print('old')\n")
    return folder


def fetch(repository: Repository, ref: str, folder: Path) -> None:
    git.fetch(repository, ref, folder, threading.Event())


def of(origin: Path, credentials: Credentials | None = None) -> Repository:
    return Repository(origin.as_uri(), credentials, 60, os.environ)


@pytest.mark.parametrize("ref", ["main", "v1", "v2"])
def test_a_branch_and_a_tag_are_resolved_to_a_commit(
    origin: Path, tmp_path: Path, ref: str
) -> None:
    first = commit(origin)
    in_origin = ["git", "-C", str(origin), "-c", "user.name=a", "-c", "user.email=a@example.com"]
    for words in (
        ["tag", "v1"],
        ["tag", "-a", "-m", "with a message", "v2"],
        ["branch", "-M", "main"],
    ):
        subprocess.run([*in_origin, *words], check=True)
    (origin / "train.py").write_text("print('new')\n")
    second = commit(origin)
    found = git.resolve(of(origin), ref, tmp_path / "work", threading.Event())
    assert found == (second if ref == "main" else first)


def test_a_ref_that_is_neither_branch_nor_tag_is_named(origin: Path, tmp_path: Path) -> None:
    commit(origin)
    with pytest.raises(LauncherError, match="must be a branch, a tag") as error:
        git.resolve(of(origin), "mian", tmp_path, threading.Event())
    assert error.value.exit_code is ExitCode.CODE_MISSING


def test_the_files_of_the_given_commit_are_checked_out(origin: Path, tmp_path: Path) -> None:
    old = commit(origin)
    (origin / "train.py").write_text("print('new')\n")
    (origin / "train.py").chmod(0o755)
    (origin / "link").symlink_to("train.py")
    new = commit(origin)
    fetch(of(origin), old, tmp_path / "old")
    fetch(of(origin), new, tmp_path / "new")
    assert (tmp_path / "old" / "train.py").read_text() == "print('old')\n"
    assert sorted(os.listdir(tmp_path / "new")) == ["link", "train.py"]
    assert os.access(tmp_path / "new" / "train.py", os.X_OK)
    assert os.readlink(tmp_path / "new" / "link") == "train.py"


@pytest.mark.parametrize("ref", ["--upload-pack=x", "main", "0a", "0" * 40 + "\n"])
def test_a_ref_that_is_no_commit_id_does_not_reach_git_fetch(
    tmp_path: Path, ref: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LauncherError, match=r"code\.git\.ref must be a commit of") as error:
        fetch(of(tmp_path), ref, tmp_path / "to")
    assert error.value.exit_code is ExitCode.CODE_MISSING


def test_the_stderr_of_git_ls_remote_is_not_read_for_commits(
    origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = "0a" * 20
    (tmp_path / "git").write_text(
        "#!/bin/sh\n"
        f"printf '{found}\\trefs/heads/main\\n'\n"
        "printf 'remote: --evil\\trefs/heads/main\\n' >&2\n"
    )
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert git.resolve(of(origin), "main", tmp_path, threading.Event()) == found


def test_a_url_that_looks_like_an_option_is_not_parsed_as_one(tmp_path: Path) -> None:
    (tmp_path / "refs" / "heads").mkdir(parents=True)
    evil = Repository(f"--upload-pack=touch {tmp_path}/evil; false", None, 60, os.environ)
    with pytest.raises(LauncherError, match="git ls-remote ended"):
        git.resolve(evil, "main", tmp_path, threading.Event())
    with pytest.raises(LauncherError, match="git fetch ended"):
        fetch(evil, "0" * 40, tmp_path / "to")
    assert not (tmp_path / "evil").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to give a file away")
def test_a_repository_of_another_owner_is_read(origin: Path, tmp_path: Path) -> None:
    ref = commit(origin)
    subprocess.run(["git", "-C", origin, "branch", "-M", "main"], check=True)
    subprocess.run(["chown", "--recursive", "12345", origin], check=True)
    assert git.resolve(of(origin), "main", tmp_path / "work", threading.Event()) == ref
    fetch(of(origin), ref, tmp_path / "to")
    assert (tmp_path / "to" / "train.py").exists()


def test_a_long_checkout_shows_its_progress(
    origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: dict[str, str] = {}
    run = tool.run

    def record(argv: list[str], *arguments: Any) -> tool.Finished:
        done = run(argv, *arguments)
        said.update({word: "\n".join(done.last_lines) for word in argv})
        return done

    monkeypatch.setattr(tool, "run", record)
    monkeypatch.setenv("GIT_PROGRESS_DELAY", "0")  # by default only after 2 s
    fetch(of(origin), commit(origin), tmp_path / "to")
    assert "Updating files: 100%" in said["checkout"]


def test_hooks_of_the_repository_are_not_run(
    origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where git is configured to take them from the working tree."""
    for folder in (origin / "hooks", origin / ".git" / "hooks"):
        folder.mkdir(parents=True)
        (folder / "post-checkout").write_text(f"#!/bin/sh\ntouch {tmp_path}/evil\n")
        (folder / "post-checkout").chmod(0o755)
    ref = commit(origin)
    (tmp_path / "gitconfig").write_text("[core]\n hooksPath = hooks\n")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", str(tmp_path / "gitconfig"))
    fetch(of(origin), ref, tmp_path / "to")
    assert (tmp_path / "to" / "hooks" / "post-checkout").exists()
    assert not (tmp_path / "evil").exists()


def test_filters_of_the_repository_are_not_run(origin: Path, tmp_path: Path) -> None:
    (origin / ".gitattributes").write_text("*.py filter=evil\n")
    ref = commit(origin)
    driver = ["config", "filter.evil.smudge", f"touch {tmp_path}/evil; cat"]
    subprocess.run(["git", "-C", origin, *driver], check=True)
    fetch(of(origin), ref, tmp_path / "to")
    assert (tmp_path / "to" / "train.py").read_text() == "print('old')\n"
    assert not (tmp_path / "evil").exists()


def test_submodules_of_the_repository_are_not_fetched(origin: Path, tmp_path: Path) -> None:
    other = origin / "x"  # git adds a repository inside another one as a submodule
    other.mkdir()
    (other / "evil.py").touch()
    commit(other)
    names = f'[submodule "x"]\n path = x\n url = {other.as_uri()}\n'
    (origin / ".gitmodules").write_text(names)
    fetch(of(origin), commit(origin), tmp_path / "to")
    assert os.listdir(tmp_path / "to" / "x") == []


@pytest.mark.parametrize("what", ["unknown", "a tree"])
def test_an_id_that_is_no_commit_of_the_repository_is_named(
    origin: Path, tmp_path: Path, what: str
) -> None:
    ref = commit(origin)
    words = ["git", "-C", str(origin), "rev-parse", f"{ref}^{{tree}}"]
    tree = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    ref = "0" * 40 if what == "unknown" else tree
    with pytest.raises(LauncherError, match=f"must be a commit of file:.*; {ref} is") as error:
        fetch(of(origin), ref, tmp_path / "to")
    assert error.value.exit_code is ExitCode.CODE_MISSING


def test_a_repository_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(LauncherError, match="cannot be fetched: git fetch ended with 128") as error:
        fetch(of(tmp_path / "nothing"), "0" * 40, tmp_path / "to")
    assert error.value.exit_code is ExitCode.IO
    assert "does not appear to be a git repository" in "\n".join(error.value.last_lines)


def test_an_image_without_git_is_a_configuration_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LauncherError, match="the image must have git") as error:
        fetch(of(tmp_path), "0" * 40, tmp_path / "to")
    assert error.value.exit_code is ExitCode.CONFIGURATION


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files behind a password: Git's dumb protocol, which cannot serve single commits."""

    allowed = "Basic " + base64.b64encode(b"anna:se cret").decode()

    def do_GET(self) -> None:
        if self.headers["Authorization"] == self.allowed:
            super().do_GET()
            return
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="x"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url(origin: Path) -> Iterator[str]:
    handler = functools.partial(Handler, directory=str(origin))
    with serving(handler) as address:
        yield f"http://{address}/.git"


def test_a_commit_is_fetched_from_a_server_with_a_password_that_serves_no_single_commits(
    origin: Path, tmp_path: Path, url: str
) -> None:
    old = commit(origin)
    (origin / "train.py").write_text("print('new')\n")
    commit(origin)
    subprocess.run(["git", "-C", origin, "update-server-info"], check=True)
    fetch(Repository(url, Credentials("anna", "se cret", ""), 60, os.environ), old, tmp_path / "to")
    assert (tmp_path / "to" / "train.py").read_text() == "print('old')\n"

    for wrong in (None, Credentials("anna", "other", "")):
        with pytest.raises(LauncherError, match="cannot be fetched") as error:
            fetch(Repository(url, wrong, 60, os.environ), old, tmp_path / "wrong")
        assert error.value.exit_code is ExitCode.IO
        assert "other" not in "\n".join([error.value.reason, *error.value.last_lines])
