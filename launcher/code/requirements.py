"""Installs with pip what the code's requirements.txt needs and the image lacks."""

from __future__ import annotations

import codecs
import hashlib
import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from launcher.code import tool
from launcher.shared.exits import ExitCode, LauncherError, describe
from launcher.shared.log import say

FILE = "requirements.txt"
OVERLAY = Path(__file__).absolute().parent / "overlay.py"
SILENCE_SECONDS = 3600.0  # while pip downloads or builds; its own timeouts are shorter
# A line that may name another file of the code: then the result depends on all of the code.
NAMES_FILES = re.compile(r"^\s*(-(?!-hash)|[^#\s]*(/|\.(whl|zip|gz)\b))|\bfile:", re.MULTILINE)
INCLUDES = re.compile(r"^\s*(?:-[rc]|--requirement|--constraint)[\s=]*(\S+)", re.MULTILINE)
WORD = re.compile(r"[A-Za-z0-9][\w.-]*")
ARCHIVE = re.compile(r"-\d.*\.(whl|zip|gz)$")
BOMS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # begins as the one of UTF-16 does
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# What pip logs: if it cannot reach the index, it says only here why it finds no distribution.
TEMPORARY = re.compile(
    r"connection broken|Could not fetch URL \S+ (?!4(?!08|25|29)\d\d )|HTTP error (408|425|429|5)"
    r"|Read timed out|ConnectionError|ProtocolError|IncompleteRead|No space left"
)
NEVER = re.compile(
    r"No matching distribution|ResolutionImpossible|conflicting dependencies|Invalid requirement"
    r"|[Hh]ashes are required|--require-hashes mode|No such file or dir"
    r"|is not a (supported|valid) wheel|Invalid wheel|requires a different Python|no such option"
    r"|does not appear to be a Python project|not installable|HTTP error 4"
)
CONSTRAINT = "The user requested (constraint) "
UNFIT = re.compile(r"\S+ \S+ requires .* which is incompatible")


def install(
    code: Path,
    digest: str,
    python: str,
    env: Mapping[str, str],
    kept: Path,
    cancelled: threading.Event,
) -> Path:
    """The folder in `kept` with what the code requires, rebuilt only when that may have changed.

    Its `packages` are modules and its `scripts` their commands. A package of the image stays in
    use if it fits, and is replaced only if the code names it. `env` is the program's.

    Raises LauncherError: CODE_MISSING if the code has no such file, or one that pip can never
    install, CONFIGURATION if the image has no pip, IO with pip's last lines if it failed,
    TRY_AGAIN if cancelled.
    """
    try:
        texts = list(_texts(code / FILE, []))
    except FileNotFoundError:
        raise LauncherError(
            ExitCode.CODE_MISSING, f"code.requirements must be false: the code has no {FILE}"
        ) from None
    except OSError as error:
        raise LauncherError(ExitCode.IO, f"{FILE} of the code cannot be read: {error}") from None
    folder = kept / _name(texts[0], digest, python, env)
    proven = digest or not NAMES_FILES.search(texts[0])  # code of the image has no digest
    if proven and (folder / "scripts").is_dir():
        return folder
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    if "/" in python:
        python = str(code / python)
    env = {**tool.environment(env), "TMPDIR": str(kept)}
    done = tool.run([python, OVERLAY, folder], env, kept, SILENCE_SECONDS, cancelled)
    if done.exit_code:
        lacks = any("No module named" in line for line in done.last_lines)
        what = f"{python} must have the module venv" if lacks else f"{python} cannot make a venv"
        raise LauncherError(
            ExitCode.CONFIGURATION if lacks else ExitCode.IO,
            f"code.requirements: {what}: {describe(done.exit_code)}",
            done.last_lines,
        )
    tools = set(os.listdir(folder / "bin"))
    _pip(folder, texts, env, code, cancelled)
    new = folder / "scripts.new"
    new.mkdir()
    for script in set(os.listdir(folder / "bin")) - tools:
        (new / script).symlink_to(folder / "bin" / script)
    new.rename(folder / "scripts")  # last: then the folder is complete
    return folder


def _pip(
    folder: Path, texts: list[str], env: Mapping[str, str], code: Path, cancelled: threading.Event
) -> None:
    named = {_plain(name) for text in texts for name in _words(text)}
    image = (folder / "image.txt").read_text(encoding="utf-8").splitlines()
    kept = [line for line in image if line.partition("==")[0] not in named]
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(kept))
    # -I: a module of the code must not shadow one that pip imports.
    # If one requirement has a hash, pip requires one for each.
    argv = [str(folder / "bin" / "python"), "-I", "-m", "pip", "install", "--no-input"]
    argv += ["--no-user", "--target="]  # whatever pip.conf says
    argv += ["--disable-pip-version-check", "--log", str(folder / "log")]
    argv += ["--constraint", str(constraints), "--requirement", FILE]
    say(f"installing what {FILE} of the code needs and the image lacks")
    done = tool.run(argv, env, code, SILENCE_SECONDS, cancelled)
    if any("No module named pip" in line for line in done.last_lines):
        raise LauncherError(ExitCode.CONFIGURATION, "code.requirements: the image must have pip")
    if not done.exit_code:
        for line in done.last_lines:
            if UNFIT.match(line):
                say(f"code.requirements: {line}")
        return
    try:
        log = (folder / "log").read_text(encoding="utf-8", errors="replace")
    except OSError:
        log = ""  # pip did not like its options
    never = NEVER.search("\n".join(done.last_lines)) and not TEMPORARY.search(log)
    hint = ": name a package of the image in it to replace that package"
    raise LauncherError(
        ExitCode.CODE_MISSING if never else ExitCode.IO,
        f"code.requirements: pip {'can never' if never else 'could not'} install {FILE}"
        f"{hint if CONSTRAINT in log else ''}: {describe(done.exit_code)}",
        done.last_lines,
    )


def _texts(file: Path, seen: list[Path]) -> Iterator[str]:
    """The text of the file, decoded as pip does, then those of the files that it includes."""
    seen.append(file)
    data = file.read_bytes()
    coding = next((name for bom, name in BOMS.items() if data.startswith(bom)), "")
    comment = re.search(rb"^#.*coding[:=]\s*([-\w.]+)", b"\n".join(data.split(b"\n")[:2]), re.M)
    if not coding and comment:
        coding = comment[1].decode()
    try:
        text = data.decode(coding or "utf-8", errors="replace")
    except LookupError:
        text = data.decode(errors="replace")  # pip will refuse it
    yield text
    for name in INCLUDES.findall(text):
        other = file.parent / name
        if other not in seen and other.is_file():  # else it is an address, or pip reports it
            yield from _texts(other, seen)


def _words(text: str) -> Iterator[str]:
    """The words of a requirements file that may be names of packages."""
    for word in WORD.findall(text):
        yield ARCHIVE.sub("", word)


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _name(text: str, digest: str, python: str, env: Mapping[str, str]) -> str:
    """A name for everything that decides what is installed."""
    ours = sorted(item for item in env.items() if item[0].startswith(("PIP_", "PYTHONPATH")))
    what = f"{python} {digest if NAMES_FILES.search(text) else ''} {ours} {text}"
    return hashlib.sha256(what.encode()).hexdigest()[:16]
