"""Makes a virtual environment for the Makefile's targets.

    python3 tests/environment.py FOLDER GROUP

GROUP is a dependency group of pyproject.toml. FOLDER/ready exists once the environment is complete.
This needs the standard library alone: nothing is installed yet when it runs. Where it cannot make
the environment, it says why in one line.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, NoReturn

REPOSITORY = Path(__file__).resolve().parents[1]
FIRST, LAST = (3, 10), (3, 13)  # TensorFlow has wheels for these
HEARTBEAT_SECONDS = 10.0
LEAST_BYTES = 10_000_000  # a disk with less has no room for one more package
BEGIN = time.monotonic()
OWN_PYTHON = (
    "uv (https://docs.astral.sh/uv) installs a Python of your own: uv python install 3.12, "
    'then make PYTHON="$(uv python find --managed-python 3.12)" ...'
)
# What pip and apt-get print in each of these cases.
NO_SPACE = ("No space left on device", "Disk quota exceeded")
NO_NETWORK = ("Retrying (", "Temporary failure resolving", "Could not connect to")


def main(folder: Path, group: str) -> None:
    """Makes it unless it exists; one process at a time."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder.with_name(f"{folder.name}.lock").open("w") as lock:
            wait_for(lock, folder)
            once(folder, lambda: fill(folder, group, lock))
    except OSError as error:
        fail(f"{error}: set XDG_CACHE_HOME to a folder that has 2 GB free and that you can write")
    except KeyboardInterrupt:
        fail("interrupted; the next make starts over")


def wait_for(lock: IO[str], folder: Path) -> None:
    """Takes the lock, which ends with this process and those that it starts."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"waiting for another make, which makes {folder}")
        fcntl.flock(lock, fcntl.LOCK_EX)


def once(folder: Path, make: Callable[[], None]) -> None:
    """Makes a folder unless it is complete; what a killed make left is removed first."""
    if (folder / "ready").exists():
        return
    if folder.exists():
        shutil.rmtree(folder)
    try:
        make()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    (folder / "ready").touch()


def fill(folder: Path, group: str, lock: IO[str]) -> None:
    """Creates the environment and installs the dependency group."""
    version = sys.version_info[:2]
    has_venv = importlib.util.find_spec("ensurepip") is not None
    installs = os.geteuid() == 0 and shutil.which("apt-get") is not None
    package = missing_package(version, has_venv=has_venv, installs=installs)
    if package:
        say(f"installing {package}")
        run(lock, "apt-get", "-qq", "update")
        run(lock, "apt-get", "-qq", "install", "--yes", "--no-install-recommends", package)
    tensorflow = ": TensorFlow is a download of 320 MB or more, and 1.6 GB on disk"
    say(f"making {folder}, once{'' if group == 'cluster' else tensorflow}")
    run(lock, sys.executable, "-m", "venv", folder)
    pip = (folder / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(lock, *pip, "install", "pip>=25.1")  # the first with --group
    run(lock, *pip, "install", "--group", group)
    say(f"made it in {time.monotonic() - BEGIN:.0f} s")


def run(lock: IO[str], *command: str | Path) -> None:
    """Runs a command to its end, with a sign of life; where it fails, this program ends."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            pass_fds=[lock.fileno()],  # a pip that outlives a killed make keeps the lock
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        )
        try:
            while process.poll() is None:
                try:
                    process.wait(HEARTBEAT_SECONDS)
                except subprocess.TimeoutExpired:
                    say(f"still working, {time.monotonic() - BEGIN:.0f} s")
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
        if process.returncode:
            errors.seek(0)
            free = shutil.disk_usage(Path(lock.name).parent).free
            text = " ".join(map(str, command))
            fail(cause(text, process.returncode, errors.read(), full=free < LEAST_BYTES))


def cause(command: str, code: int, errors: str, *, full: bool = False) -> str:
    """Why a command failed and what to do, in one line where the cause is known."""
    if full or any(sign in errors for sign in NO_SPACE):
        return (
            "the disk is full: the environment needs 2 GB. "
            "Free some, or set XDG_CACHE_HOME (and TMPDIR) to a folder that has as much"
        )
    if any(sign in errors for sign in NO_NETWORK):
        return (
            "the packages cannot be downloaded: no connection to the package index. "
            "Check the network; HTTPS_PROXY names a proxy, PIP_INDEX_URL another index"
        )
    return "\n".join([f"{command} ended with exit code {code}:", *errors.splitlines()[-15:]])


def missing_package(version: tuple[int, ...], *, has_venv: bool, installs: bool) -> str | None:
    """The Debian package to install first; ends this program where it cannot install one."""
    if not FIRST <= version <= LAST:
        fail(
            f"TensorFlow needs Python {dotted(FIRST)} to {dotted(LAST)}; "
            f"{sys.executable} is {dotted(version)}. {OWN_PYTHON}"
        )
    if has_venv:
        return None
    package = f"python{dotted(version)}-venv"
    if not installs:
        fail(
            f"{sys.executable} has no venv module. As root, on Debian or Ubuntu: "
            f"apt-get update && apt-get install --yes {package}. Without root: {OWN_PYTHON}"
        )
    return package


def dotted(version: tuple[int, ...]) -> str:
    """A version as people write it."""
    return ".".join(map(str, version))


def say(text: str) -> None:
    """Prints one line about what happens."""
    print(f"venv: {text}", file=sys.stderr, flush=True)


def fail(text: str) -> NoReturn:
    """Ends this program with one line that says what to do."""
    say(text)
    sys.exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
