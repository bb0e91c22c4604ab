"""Resolves and fetches one commit of a Git repository, with the image's git."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from launcher.code import tool
from launcher.code.credentials import Credentials
from launcher.shared.exits import ExitCode, LauncherError
from launcher.shared.sources import COMMIT

QUIET = ("-c", "gc.auto=0", "-c", "maintenance.auto=false", "-c", "core.hooksPath=/dev/null")
EXACT = ("-c", "core.autocrlf=false", "-c", "advice.detachedHead=false")
NO_LFS = ("-c", "filter.lfs.process=", "-c", "filter.lfs.smudge=", "-c", "filter.lfs.required=0")
ENVIRONMENT = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ALLOW_PROTOCOL": "https:http:ssh:file",
    "LC_ALL": "C",
}
# git refuses a repository of another owner, as on a mounted volume. The check is useless here: the
# task runs that code anyway. Not every version of git takes this from its command line.
ANY_OWNER = "[safe]\n\tdirectory = *\n"
# The password is in a variable, because everybody on the node can read a command line.
HELPER = (
    '!f() { test "$1" != get || '
    'printf "username=%s\\npassword=%s\\n" "$TFRUN_USERNAME" "$TFRUN_PASSWORD"; }; f'
)


@dataclass(frozen=True)
class Repository:
    """A repository, its credentials, and the program's environment.

    git may be silent for `timeout` seconds.
    """

    url: str
    credentials: Credentials | None
    timeout: float
    env: Mapping[str, str]


def fetch(repository: Repository, commit: str, folder: Path, cancelled: threading.Event) -> None:
    """Fetches the files of a commit into the new `folder`, without submodules and history.

    Raises LauncherError: CODE_MISSING if there is no such commit, IO if the repository cannot be
    fetched, CONFIGURATION if the image has no git, TRY_AGAIN if cancelled.
    """
    no_commit = LauncherError(
        ExitCode.CODE_MISSING, f"code.git.ref must be a commit of {repository.url}; {commit} is not"
    )
    if not re.fullmatch(COMMIT, commit):  # another task may have resolved it
        raise no_commit
    new = folder.with_name(folder.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    git = _Git(repository, new, new.with_suffix(".config"), cancelled)
    git("init", "--quiet", "--template=")
    fetch = ("fetch", "--no-tags", "--progress")
    # Most servers serve a single commit; from others everything is fetched.
    one = git(*fetch, "--depth=1", *git.origin, commit, may_fail=True)
    if one.exit_code:
        git(*fetch, *git.origin, "+refs/*:refs/all/*")
    kind = git("cat-file", "-t", commit, may_fail=True)
    if kind.exit_code or "commit" not in kind.last_lines:
        raise no_commit
    git("checkout", "--quiet", "--progress", "--detach", commit)
    shutil.rmtree(new / ".git")
    new.rename(folder)


def resolve(repository: Repository, ref: str, folder: Path, cancelled: threading.Event) -> str:
    """The commit of a branch or tag now. git runs in `folder`.

    Raises LauncherError as `fetch` does.
    """
    names = {name: f"refs/{name}" for name in (f"heads/{ref}", f"tags/{ref}^{{}}", f"tags/{ref}")}
    folder.mkdir(parents=True, exist_ok=True)
    git = _Git(repository, folder, folder / "git.config", cancelled)
    lines = git("ls-remote", "--quiet", *git.origin, *names.values()).last_lines
    parts = (line.partition("\t") for line in lines)
    # Only commits, because messages of the server are among the lines.
    found = {name: commit for commit, _, name in parts if re.fullmatch(COMMIT, commit)}
    for name in names.values():
        if name in found:
            return found[name]
    raise LauncherError(
        ExitCode.CODE_MISSING,
        f"code.git.ref must be a branch, a tag, or a whole commit id of {repository.url}; {ref} is "
        "none of these",
    )


class _Git:
    def __init__(
        self, repository: Repository, folder: Path, config: Path, cancelled: threading.Event
    ) -> None:
        self.repository = repository
        self.folder = folder
        self.cancelled = cancelled
        self.env: Mapping[str, str] = {**tool.environment(repository.env), **ENVIRONMENT}
        self.words: tuple[str, ...] = ("git", *QUIET, *EXACT, *NO_LFS)
        self.origin = ("--", repository.url)  # git never reads it as an option
        if repository.url.startswith("file:"):
            config.write_text(ANY_OWNER)
            self.env = {**self.env, "GIT_CONFIG_GLOBAL": str(config)}
        credentials = repository.credentials
        if credentials:
            name = credentials.username or "git"
            password = credentials.password or credentials.token
            self.env = {**self.env, "TFRUN_USERNAME": name, "TFRUN_PASSWORD": password}
            # Only for this host: a redirect may lead to another.
            where = urlsplit(repository.url)
            self.words += ("-c", f"credential.{where.scheme}://{where.netloc}.helper={HELPER}")

    def __call__(self, *arguments: str, may_fail: bool = False) -> tool.Finished:
        argv = [*self.words, *arguments]
        timeout = self.repository.timeout
        done = tool.run(argv, self.env, self.folder, timeout, self.cancelled)
        if done.exit_code and not may_fail:
            raise LauncherError(
                ExitCode.IO,
                f"code.git {self.repository.url} cannot be fetched: git {arguments[0]} ended with "
                f"{done.exit_code}",
                done.last_lines,
            )
        return done
