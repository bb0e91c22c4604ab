"""Compiles the two small C programs, once, into the user's cache."""

from __future__ import annotations

from pathlib import Path

from tests.cluster.binaries import cache, digest, make_once
from tests.cluster.commands import run

FOLDER = Path(__file__).parent
FLAGS = ["-O2", "-Wall", "-Wextra", "-Werror"]


def mount_nfs() -> Path:
    """The user-space mount.nfs."""
    libraries = run(["pkg-config", "--cflags", "--libs", "fuse3", "libnfs"]).split()
    return compiled("mount_nfs.c", ["-pthread", *libraries])


def pause() -> Path:
    """The only program of the pause image."""
    return compiled("pause.c", ["-static"])


def compiled(source: str, flags: list[str]) -> Path:
    """The executable of a C file."""
    file = FOLDER / source
    recipe = digest(file.read_bytes(), " ".join(FLAGS + flags).encode())

    def make(target: Path) -> None:
        run(["gcc", *FLAGS, "-o", target, file, *flags])

    return make_once(cache() / "bin" / f"{file.stem}-{recipe}", "", make)
