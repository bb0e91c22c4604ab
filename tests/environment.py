"""Creates a virtual environment for the Makefile's targets.

    python3 tests/environment.py FOLDER GROUP

GROUP is a dependency group of pyproject.toml. FOLDER/ready exists once the environment is complete.
This uses only the standard library, because nothing is installed when it runs. If it cannot create
the environment, it says why.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import signal
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
LEAST_BYTES = 10_000_000  # a disk with less free space counts as full
BEGIN = time.monotonic()
OWN_PYTHON = (
    "uv (https://docs.astral.sh/uv) can install Python: uv python install 3.12, "
    'then make PYTHON="$(uv python find --managed-python 3.12)" ...'
)
# What pip and apt-get print in these cases.
NO_SPACE = ("No space left on device", "Disk quota exceeded")
NO_NETWORK = ("Retry(total=0", "Temporary failure resolving", "Could not connect to")


def main(folder: Path, group: str) -> None:
    """Creates the environment unless it exists. Other processes wait meanwhile."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder.with_name(f"{folder.name}.lock").open("w") as lock:
            wait_for(lock, folder)
            once(folder, lambda: fill(folder, group, lock))
    except OSError as error:
        fail(f"{error}: set XDG_CACHE_HOME to a folder with 2 GB free where you can write")
    except KeyboardInterrupt:
        fail("interrupted; the next make starts over")


def wait_for(lock: IO[str], folder: Path) -> None:
    """Takes the lock. The kernel releases it once this process and its children have ended."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"waiting for another make, which creates {folder}")
        fcntl.flock(lock, fcntl.LOCK_EX)


def once(folder: Path, make: Callable[[], None]) -> None:
    """Makes a folder unless it is complete. First removes what a killed make has left."""
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
    tensorflow = ": TensorFlow is a download of 320 MB or more and takes 1.6 GB on disk"
    say(f"creating {folder}, once{'' if group == 'cluster' else tensorflow}")
    run(lock, sys.executable, "-m", "venv", folder)
    pip = (folder / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(lock, *pip, "install", "pip>=25.1")  # the first version with --group
    run(lock, *pip, "install", "--group", group)
    say(f"created in {time.monotonic() - BEGIN:.0f} s")


def run(lock: IO[str], *command: str | Path) -> None:
    """Runs a command, and prints regularly that it runs. If it fails, this program ends."""
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
            process.send_signal(signal.SIGINT)  # at which apt-get stops between two packages
            process.wait()
            raise
        if process.returncode:
            errors.seek(0)
            free = shutil.disk_usage(Path(lock.name).parent).free
            text = " ".join(map(str, command))
            fail(cause(text, process.returncode, errors.read(), full=free < LEAST_BYTES))


def cause(command: str, code: int, errors: str, *, full: bool = False) -> str:
    """Why a command failed and what to do, in one line if the cause is known."""
    if full or any(sign in errors for sign in NO_SPACE):
        return (
            "the disk is full: the environment needs 2 GB. "
            "Free some space, or set XDG_CACHE_HOME and TMPDIR to folders on a larger disk"
        )
    if any(sign in errors for sign in NO_NETWORK):
        return (
            "the packages cannot be downloaded: no connection to the package index. "
            "Check the network. Set HTTPS_PROXY to use a proxy, PIP_INDEX_URL to use another index"
        )
    return "\n".join([f"{command} ended with exit code {code}:", *errors.splitlines()[-15:]])


def missing_package(version: tuple[int, ...], *, has_venv: bool, installs: bool) -> str | None:
    """The Debian package to install first, if any. Ends this program if Python is unusable."""
    if not FIRST <= version <= LAST:
        fail(
            f"The make targets need Python {dotted(FIRST)} to {dotted(LAST)}; "
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
    """Prints one line of progress."""
    print(f"venv: {text}", file=sys.stderr, flush=True)


def fail(text: str) -> NoReturn:
    """Prints what failed and what to do, and ends this program."""
    say(text)
    sys.exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
