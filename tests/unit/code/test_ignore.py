"""Which names `.tfrunignore` leaves behind: the same as Git with `.gitignore`."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from launcher.code.ignore import Ignored
from launcher.shared.exits import ExitCode, LauncherError

NAMES = [
    "train.py",
    "#notes",
    "!bang",
    "a b.log",
    "a/train.log",
    "a/b/train.log",
    "a/b/c/x.csv",
    "a/x.csv",
    "build/out.o",
    "data/big/1.bin",
    "data/big/keep.bin",
    "data/small.bin",
    "docs/build",
    "x[1].txt",
    "x1.txt",
    "x2.txt",
]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# a comment\n\n   \n",
        "*.log",
        "/a/*.log",
        "build",
        "build/",
        "/build",
        "a/*.csv",
        "a/**/x.csv",
        "**/x.csv",
        "a/**",
        "data/big/*\n!data/big/keep.bin",
        "data\n!data/big/keep.bin",
        "*\n!train.py",
        "*.bin\n!*.bin\n*small*",
        "x[1].txt",
        r"x\[1].txt",
        "x[!1].txt",
        "x[0-1].txt",
        "x?.txt",
        r"\#notes",
        r"\!bang",
        "a b.log  ",
        "*/*.csv",
    ],
)
def test_tfrunignore_leaves_out_the_names_that_gitignore_does(text: str, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    (tmp_path / ".gitignore").write_text(text + "\n/.gitignore\n")
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    listed = ["git", "-C", str(tmp_path), "ls-files", "-z", "--others", "--exclude-standard"]
    told = subprocess.run(listed, capture_output=True, text=True, check=True).stdout
    assert kept(text) == sorted(told.split("\0")[:-1])


def kept(text: str) -> list[str]:
    ignored = Ignored(text)
    found = []
    for name in NAMES:
        parts = name.split("/")
        folders = ["/".join(parts[: i + 1]) for i in range(len(parts) - 1)]
        if not ignored(name, False) and not any(ignored(folder, True) for folder in folders):
            found.append(name)
    return sorted(found)


@pytest.mark.parametrize("name", [".git", "__pycache__", "a/b/__pycache__"])
def test_git_folders_and_python_caches_are_never_copied(name: str) -> None:
    assert Ignored("!*\n!**/*\n")(name, True)


def test_a_line_that_is_no_pattern_is_named() -> None:
    with pytest.raises(LauncherError, match=r"line 2, '\[z-a\]'") as error:
        Ignored("a\n[z-a]\n")
    assert error.value.exit_code is ExitCode.CONFIGURATION
