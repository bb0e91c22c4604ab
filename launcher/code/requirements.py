"""Installs the code's requirements.txt with pip, into a folder of the task."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
from pathlib import Path

from launcher.code import tool
from launcher.shared.exits import ExitCode, LauncherError, describe
from launcher.shared.log import say

FILE = "requirements.txt"
SILENCE_SECONDS = 3600.0  # while pip downloads or builds; its own timeouts are shorter
# A line that may name another file of the code: then the result depends on all of the code.
NAMES_FILES = re.compile(r"^\s*(-(?!-hash)|[^#\s]*(/|\.(whl|zip|gz)\b))|\bfile:", re.MULTILINE)


def install(code: Path, digest: str, python: str, kept: Path, cancelled: threading.Event) -> Path:
    """The folder in `kept` with what the code requires, rebuilt only when that may have changed.

    Raises LauncherError: CODE_MISSING if the code has no such file, CONFIGURATION if the image has
    no pip, IO with pip's last lines if it failed, TRY_AGAIN if cancelled.
    """
    try:
        text = (code / FILE).read_text()
    except FileNotFoundError:
        raise LauncherError(
            ExitCode.CODE_MISSING, f"code.requirements must be false: the code has no {FILE}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise LauncherError(ExitCode.IO, f"{FILE} of the code cannot be read: {error}") from None
    folder = kept / _name(text, digest, python)
    proven = digest or not NAMES_FILES.search(text)  # code of the image has no digest
    if proven and folder.is_dir():
        return folder
    shutil.rmtree(kept, ignore_errors=True)
    new = folder.with_name(folder.name + ".new")
    new.mkdir(parents=True)
    # -I: a module of the code must not shadow one that pip imports.
    # If one requirement has a hash, pip requires one for each.
    argv = [python, "-I", "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    argv += ["--target", str(new), "--requirement", FILE]
    say(f"installing {FILE} of the code")
    done = tool.run(argv, {**os.environ, "TMPDIR": str(kept)}, code, SILENCE_SECONDS, cancelled)
    if any("No module named pip" in line for line in done.last_lines):
        raise LauncherError(ExitCode.CONFIGURATION, f"code.requirements: {python} must have pip")
    if done.exit_code:
        raise LauncherError(
            ExitCode.IO,
            f"code.requirements: pip could not install {FILE}: {describe(done.exit_code)}",
            done.last_lines,
        )
    new.rename(folder)
    return folder


def _name(text: str, digest: str, python: str) -> str:
    """A name for everything that decides what is installed."""
    what = f"{python} {digest if NAMES_FILES.search(text) else ''} {text}"
    return hashlib.sha256(what.encode()).hexdigest()[:16]
