"""Makes the virtual environment that the Makefile's verbs run in.

    python3 tests/environment.py FOLDER

FOLDER/ready is there once it is whole. Nothing is installed yet when this runs: it needs the
standard library alone, and what it cannot set up it says in one line.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, NoReturn

REPOSITORY = Path(__file__).resolve().parents[1]
FIRST, LAST = (3, 10), (3, 13)  # TensorFlow has wheels for these


def main(folder: Path) -> None:
    """Make it, unless it is there; one process at a time."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder.with_name(f"{folder.name}.lock").open("w") as lock:
            wait_for(lock, folder)
            once(folder, lambda: fill(folder, lock))
    except OSError as error:
        fail(f"{error}: XDG_CACHE_HOME may name another folder than ~/.cache to work in")
    except subprocess.CalledProcessError as error:
        fail(f"{' '.join(map(str, error.cmd))} ended with {error.returncode}, see above")
    except KeyboardInterrupt:
        fail("interrupted; the next make begins it anew")


def wait_for(lock: IO[str], folder: Path) -> None:
    """Hold the lock, which ends with this process and those that it starts."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"another make is at {folder}: waiting for it")
        fcntl.flock(lock, fcntl.LOCK_EX)


def once(folder: Path, make: Callable[[], None]) -> None:
    """Make a folder from nothing, unless it is whole: what was interrupted is begun anew."""
    if (folder / "ready").exists():
        return
    if folder.exists():
        shutil.rmtree(folder)
    make()
    (folder / "ready").touch()


def fill(folder: Path, lock: IO[str]) -> None:
    """Create the environment and install what pyproject.toml names for development."""

    def run(*command: str | Path) -> None:
        # A pip that outlives a killed make keeps the lock until it ends, too.
        subprocess.run(
            command,
            cwd=REPOSITORY,
            stdout=subprocess.DEVNULL,
            pass_fds=[lock.fileno()],
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            check=True,
        )

    version = sys.version_info[:2]
    has_venv = importlib.util.find_spec("ensurepip") is not None
    installs = os.geteuid() == 0 and shutil.which("apt-get") is not None
    package = missing_package(version, has_venv=has_venv, installs=installs)
    if package:
        say(f"installing {package}")
        run("apt-get", "-qq", "update")
        run("apt-get", "-qq", "install", "--yes", "--no-install-recommends", package)
    begin = time.monotonic()
    say(f"making {folder} with TensorFlow and the tools, once: a minute or more")
    run(sys.executable, "-m", "venv", folder)
    pip = (folder / "bin" / "python", "-m", "pip", "install", "--quiet")
    run(*pip, "--disable-pip-version-check", "--upgrade", "pip>=25.1")  # the first with --group
    run(*pip, "--group", "dev")
    say(f"made it in {time.monotonic() - begin:.0f} s")


def missing_package(version: tuple[int, ...], *, has_venv: bool, installs: bool) -> str | None:
    """The Debian package to install first; what cannot be had ends this with what to do."""
    if not FIRST <= version <= LAST:
        fail(
            f"Python {dotted(FIRST)} to {dotted(LAST)} is needed, TensorFlow has no wheels for "
            f"others; {sys.executable} is {dotted(version)}. "
            "Name another: make PYTHON=/path/to/python3.12 ..."
        )
    if has_venv:
        return None
    package = f"python{dotted(version)}-venv"
    if not installs:
        fail(
            f"the venv module of {sys.executable} is missing. As root, on Debian or Ubuntu: "
            f"apt-get update && apt-get install --yes {package}"
        )
    return package


def dotted(version: tuple[int, ...]) -> str:
    """3.12, say."""
    return ".".join(map(str, version))


def say(text: str) -> None:
    """Print one line about what goes on."""
    print(f"venv: {text}", file=sys.stderr, flush=True)


def fail(text: str) -> NoReturn:
    """End with one line that says what to do."""
    say(text)
    sys.exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
