"""pip installs the code's requirements, here from a folder of wheels and without an index."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from launcher.code import requirements
from launcher.shared.exits import ExitCode, LauncherError


def wheel(folder: Path, name: str) -> Path:
    """A wheel of one module that prints its own name."""
    file = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": f"print({name!r})\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    records = [f"{path},sha256={hashed(text)},{len(text)}" for path, text in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*records, f"{info}/RECORD,,", ""])
    with zipfile.ZipFile(file, "w") as zipped:
        for path, text in files.items():
            zipped.writestr(path, text)
    return file


def hashed(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")


@pytest.fixture
def code(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    folder.mkdir()
    wheel(folder, "tiny")
    return folder


@pytest.fixture(autouse=True)
def offline(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(code))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")


def install(code: Path, text: str, digest: str = "a", python: str = sys.executable) -> Path:
    (code / "requirements.txt").write_text(text)
    kept = code.parent / "kept"
    return requirements.install(code, digest, python, kept, threading.Event())


def says(folder: Path, module: str) -> str:
    words = [sys.executable, "-c", f"import {module}"]
    env = {"PYTHONPATH": str(folder)}
    return subprocess.run(words, env=env, capture_output=True, text=True, check=True).stdout


def fails(code: Path, text: str, why: ExitCode, words: str, python: str = sys.executable) -> str:
    with pytest.raises(LauncherError, match=words) as error:
        install(code, text, python=python)
    assert error.value.exit_code is why
    return "\n".join(error.value.last_lines)


def test_requirements_are_installed_once_while_they_do_not_change(code: Path) -> None:
    for name in ("pip", "logging", "json"):  # pip must not import the code's modules
        (code / f"{name}.py").write_text("raise SystemExit('not me')\n")
    first = install(code, "tiny==1.0\n")
    assert says(first, "tiny") == "tiny\n"
    inode = first.stat().st_ino
    assert install(code, "tiny==1.0\n", digest="b").stat().st_ino == inode
    wheel(code, "other")
    second = install(code, "tiny==1.0\nother\n")
    assert says(second, "other") == "other\n"
    assert not first.exists()


@pytest.mark.parametrize(
    ("text", "all_counts"),
    [
        ("tiny==1.0\n", False),
        ("# see a/b\ntiny==1.0  # c/d\n", False),
        ("tiny==1.0 \\\n    --hash=sha256:0a\n", False),
        ("tiny @ https://e.com/tiny.whl\n", False),
        ("-r more.txt\n", True),
        ("  --constraint more.txt\ntiny\n", True),
        ("./tiny-1.0-py3-none-any.whl\n", True),
        ("tiny-1.0-py3-none-any.whl\n", True),
        ("sub/../tiny-1.0.tar.gz\n", True),
        ("tiny @ file:tiny.whl\n", True),
    ],
)
def test_files_that_the_requirements_name_cause_a_new_install(text: str, all_counts: bool) -> None:
    names = {requirements._name(text, digest, "python") for digest in "ab"}
    assert (len(names) == 2) is all_counts
    assert requirements._name(text, "a", "python3.12") not in names


def test_requirements_that_name_files_are_reinstalled_for_code_without_a_digest(code: Path) -> None:
    for text, anew in (("-r more.txt\n", True), ("tiny\n", False)):
        (code / "more.txt").write_text("tiny\n")
        wheel(code, "other")
        install(code, text, digest="")
        (code / "more.txt").write_text("other\n")
        assert (install(code, text, digest="") / "other.py").exists() is anew


def test_pip_requires_all_hashes_if_one_is_given(code: Path) -> None:
    wrong = f"tiny==1.0 --hash=sha256:{'0' * 64}\n"
    said = fails(code, wrong, ExitCode.IO, "pip could not install requirements.txt: exit code 1")
    assert "DO NOT MATCH THE HASHES" in said
    found = hashlib.sha256(wheel(code, "tiny").read_bytes()).hexdigest()
    right = f"tiny==1.0 --hash=sha256:{found}\n"
    assert says(install(code, right), "tiny") == "tiny\n"
    wheel(code, "other")
    assert "hash" in fails(code, f"{right}other==1.0\n", ExitCode.IO, "pip could not install")


def test_the_last_lines_of_pip_are_reported(code: Path) -> None:
    said = fails(
        code, "no-such-thing==1\n", ExitCode.IO, r"code\.requirements: pip could not install"
    )
    assert "No matching distribution found for no-such-thing==1" in said


def test_code_without_a_requirements_file_is_a_mistake(code: Path) -> None:
    with pytest.raises(LauncherError, match=r"must be false: the code has no requ") as error:
        requirements.install(code, "a", sys.executable, code.parent / "kept", threading.Event())
    assert error.value.exit_code is ExitCode.CODE_MISSING


def test_an_image_without_pip_is_a_configuration_error(code: Path, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$0: No module named pip"\nexit 1\n')
    python.chmod(0o755)
    fails(code, "tiny\n", ExitCode.CONFIGURATION, "must have pip", python=str(python))
