"""Says why a command cannot be started: what is missing, although its file may be there."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from launcher.shared.exits import ExitCode, LauncherError

HEAD_BYTES = 4096
CRLF = "its lines end with CR LF, as on Windows: convert it with `sed -i 's/\\r$//'`"
LOADER = re.compile(rb"/[\w./-]*/ld-[\w.-]+(?=\0)")


def check(argv: Sequence[str], env: Mapping[str, str], cwd: Path) -> None:
    """Raises LauncherError for a script that `env` would fail to start, with a CR as its reason."""
    path = _path(argv[0], env, cwd)
    if path and re.match(rb"#!\s*\S*/env[ \t]+[^\s-]\S*\r\n", _head(path)):
        raise _not_found(argv[0], CRLF)


def cannot_start(
    argv: Sequence[str], env: Mapping[str, str], cwd: Path, error: OSError
) -> LauncherError:
    """The failure to report when starting `argv` in `cwd` has failed with this error."""
    if str(error.filename) == str(cwd) and isinstance(error, PermissionError):
        return LauncherError(
            ExitCode.CODE_MISSING, f"user {os.geteuid()} may not enter the program's folder {cwd}"
        )
    if not os.path.isdir(cwd):
        return LauncherError(
            ExitCode.CODE_MISSING, f"program.workingDir must be a folder of the code; {cwd} is not"
        )
    word = argv[0]
    path = _path(word, env, cwd)
    if isinstance(error, FileNotFoundError):
        if os.path.lexists(path):
            return _not_found(word, _missing(path))
        hint = f"; the code has it: write ./{word}" if os.path.isfile(cwd / word) else ""
        return LauncherError(
            ExitCode.COMMAND_NOT_FOUND,
            f"program.command must name a program that the image or the code has; "
            f"{word!r} is not found{hint}",
        )
    why = _forbidden(path, error.errno)
    return LauncherError(
        ExitCode.COMMAND_NOT_EXECUTABLE,
        f"program.command {word!r} cannot be run: {error.strerror}{why and ': '}{why}",
    )


def _not_found(word: str, why: str) -> LauncherError:
    return LauncherError(
        ExitCode.COMMAND_NOT_FOUND, f"program.command {word!r} is there but cannot be run: {why}"
    )


def _path(word: str, env: Mapping[str, str], cwd: Path) -> str:
    """The file that a command names; "" if there is none on PATH."""
    if "/" in word:
        return os.path.join(cwd, word)
    return shutil.which(word, path=os.pathsep.join(os.get_exec_path(env))) or ""


def _head(path: str) -> bytes:
    if not os.path.isfile(path):  # a pipe would block
        return b""
    try:
        with open(path, "rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b""


def _missing(path: str) -> str:
    """What a file that exists lacks, so that the kernel says that it is not found."""
    if not os.path.exists(path):
        return f"it is a link to {os.readlink(path)}, which is not found"
    head = _head(path)
    line = head.partition(b"\n")[0]
    if line.endswith(b"\r"):
        return CRLF
    named = re.match(rb"#!\s*(\S+)", line) or LOADER.search(head)
    return f"it needs {os.fsdecode(named[named.lastindex or 0])}, which is not found" if named else ""


def _forbidden(path: str, number: int | None) -> str:
    """Why the kernel refuses a file that exists; "" if we do not know."""
    head = _head(path)
    if number == errno.ENOEXEC:
        if head.startswith(b"\x7fELF"):
            return f"it is not built for {os.uname().machine}"
        bom = head.startswith(b"\xef\xbb\xbf#!")
        return "it begins with a byte order mark" if bom else "its first line must begin with #!"
    if number == errno.EACCES and os.path.isfile(path) and not os.stat(path).st_mode & 0o111:
        return "set its execute bit with chmod +x, or name its interpreter, like [sh, run.sh]"
    return ""
