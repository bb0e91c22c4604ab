"""pip installs what the code requires and the image lacks, here from a folder of wheels."""

from __future__ import annotations

import codecs
import hashlib
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.code import requirements
from launcher.shared.exits import ExitCode, LauncherError
from tests.unit.code.wheels import unpack, wheel
from tests.unit.servers import serving

CLOSED = "http://anna:secret@127.0.0.1:9/simple"


@pytest.fixture
def code(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    folder.mkdir()
    wheel(folder, "tiny")
    return folder


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an image: a virtual environment with pip and a package `held`."""
    folder = tmp_path_factory.mktemp("image")
    bare = [sys.executable, "-m", "venv", "--without-pip", str(folder)]
    subprocess.run(bare, check=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    pip = "import os, pip; print(os.path.dirname(os.path.dirname(pip.__file__)))"
    found = subprocess.run([sys.executable, "-c", pip], check=True, capture_output=True, text=True)
    for path in Path(found.stdout.strip()).glob("pip*"):
        (packages / path.name).symlink_to(path)
    unpack(wheel(folder, "held", "2.0"), packages)
    unpack(wheel(folder, "holder", "2.0", requires="held>=2"), packages)
    return folder / "bin" / "python"


def offline(code: Path) -> dict[str, str]:
    own = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(code), "PIP_CONFIG_FILE": "/dev/null"}
    return {**os.environ, **own}


def install(
    code: Path,
    text: str | bytes,
    digest: str = "a",
    python: Path | str = sys.executable,
    **variables: str,
) -> Path:
    text = text if isinstance(text, bytes) else text.encode()
    (code / "requirements.txt").write_bytes(text)
    env = {**offline(code), **variables}
    if "PIP_INDEX_URL" in variables:
        env = {k: v for k, v in env.items() if k not in ("PIP_NO_INDEX", "PIP_FIND_LINKS")}
    kept = code.parent / "kept"
    return requirements.install(code, digest, str(python), env, kept, threading.Event())


def says(folder: Path, module: str, python: Path | str = sys.executable) -> str:
    """What the program's Python, and then the script, print of a module."""
    env = {"PYTHONPATH": str(folder / "packages")}
    words = [str(python), "-c", f"import {module}; {module}.main()"]
    said = subprocess.run(words, env=env, capture_output=True, text=True, check=True).stdout
    if (folder / "scripts" / module).exists():
        script = subprocess.run([folder / "scripts" / module], capture_output=True, text=True)
        assert script.stdout == said
    return said.strip()


def installed(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "scripts").iterdir())


def fails(
    code: Path,
    text: str | bytes,
    why: ExitCode,
    words: str,
    python: Path | str = sys.executable,
    **variables: str,
) -> str:
    with pytest.raises(LauncherError, match=words) as error:
        install(code, text, python=python, **variables)
    assert error.value.exit_code is why
    return "\n".join(error.value.last_lines)


def test_requirements_are_installed_once_while_they_do_not_change(code: Path) -> None:
    for name in ("pip", "logging", "json", "venv"):  # the code's modules must not be imported
        (code / f"{name}.py").write_text("raise SystemExit('not me')\n")
    first = install(code, "tiny==1.0\n")
    assert says(first, "tiny") == "tiny 1.0"
    inode = first.stat().st_ino
    assert install(code, "tiny==1.0\n", digest="b").stat().st_ino == inode
    wheel(code, "other")
    second = install(code, "tiny==1.0\nother\n")
    assert says(second, "other") == "other 1.0"
    assert not first.exists()


def test_an_install_that_was_killed_is_done_anew(code: Path) -> None:
    first = install(code, "tiny\n")
    (first / "scripts" / "tiny").unlink()
    (first / "scripts").rmdir()
    assert says(install(code, "tiny\n"), "tiny") == "tiny 1.0"


# The packages of the image.


def test_what_the_image_satisfies_is_not_installed(code: Path, image: Path) -> None:
    wheel(code, "held", "3.0")
    wheel(code, "needy", requires="held")
    found = install(code, "held>=1\nneedy\n", python=image)
    assert installed(found) == ["needy"]
    assert says(found, "held", image) == "held 2.0"
    assert says(found, "needy", image) == "needy 1.0"  # its script, too, finds the image's packages


@pytest.mark.parametrize("include", [False, True])
def test_a_package_of_the_image_that_the_code_names_is_replaced(
    code: Path, image: Path, include: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel(code, "held", "1.0")
    (code / "more.txt").write_text("Held==1.0\n")
    found = install(code, "-r more.txt\n" if include else "held==1.0\n", python=image)
    assert says(found, "held", image) == "held 1.0"
    assert says(found.parent, "held", image) == "held 2.0"  # the image itself stays as it is
    unfit = "holder 2.0 requires held>=2, but you have held 1.0 which is incompatible."
    assert f"code.requirements: {unfit}" in capsys.readouterr().err


def test_a_package_that_needs_another_version_than_the_images_is_refused(
    code: Path, image: Path
) -> None:
    wheel(code, "held", "3.0")
    wheel(code, "newer", requires="held>=3")
    words = "pip can never install .*: name a package of the image in it to replace that package"
    said = fails(code, "newer\n", ExitCode.CODE_MISSING, words, image)
    assert "The user requested (constraint) held==2.0" in said
    assert says(install(code, "newer\nheld\n", python=image), "held", image) == "held 3.0"


def test_packages_in_pythonpath_count_as_the_images(
    code: Path, image: Path, tmp_path: Path
) -> None:
    (tmp_path / "libs").mkdir()
    unpack(code / "tiny-1.0-py3-none-any.whl", tmp_path / "libs")
    (code / "tiny-1.0-py3-none-any.whl").unlink()
    found = install(code, "tiny\n", python=image, PYTHONPATH=str(tmp_path / "libs"))
    assert installed(found) == []


def test_the_python_may_be_in_the_code(code: Path, image: Path) -> None:
    (code / "venv").symlink_to(image.parent.parent)
    found = install(code, "held\ntiny\n", python="venv/bin/python")
    assert installed(found) == ["tiny"]


# The file.


@pytest.mark.parametrize(
    "text",
    [
        codecs.BOM_UTF8 + b"tiny # \xc3\xa9\n",
        "tiny # \u00e9\n".encode("utf-16"),
        codecs.BOM_UTF16_BE + "tiny # \u00e9\n".encode("utf-16-be"),
        "tiny # \u00e9\n".encode("utf-32"),
        b"# -*- coding: latin-1 -*-\ntiny # \xe9\n",
        b"#\n# vim: set fileencoding=latin-1 :\ntiny # \xe9\n",
        b"tiny # \xc3\xa9\r\n",
    ],
)
def test_the_file_is_read_as_pip_reads_it(code: Path, text: bytes) -> None:
    (code / "requirements.txt").write_bytes(text)
    (read,) = requirements._texts(code / "requirements.txt", [])
    assert read.replace("\r", "").endswith("tiny # \u00e9\n")
    assert installed(install(code, text)) == ["tiny"]


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
    names = {requirements._name(text, digest, "python", {}) for digest in "ab"}
    assert (len(names) == 2) is all_counts
    assert requirements._name(text, "a", "python3.12", {}) not in names


def test_requirements_that_name_files_are_reinstalled_for_code_without_a_digest(code: Path) -> None:
    for text, anew in (("-r more.txt\n", True), ("tiny\n", False)):
        (code / "more.txt").write_text("tiny\n")
        wheel(code, "other")
        install(code, text, digest="")
        (code / "more.txt").write_text("other\n")
        assert ("other" in installed(install(code, text, digest=""))) is anew


def test_code_without_a_requirements_file_is_a_mistake(code: Path) -> None:
    with pytest.raises(LauncherError, match=r"must be false: the code has no requ") as error:
        requirements.install(code, "a", sys.executable, {}, code.parent / "kept", threading.Event())
    assert error.value.exit_code is ExitCode.CODE_MISSING


# What pip is told, and what it tells.


def test_pip_requires_all_hashes_if_one_is_given(code: Path, image: Path) -> None:
    wrong = f"tiny==1.0 --hash=sha256:{'0' * 64}\n"
    # pip says the same of a download that broke off, so this is retried.
    words = "pip could not install requirements.txt: exit code 1"
    assert "DO NOT MATCH THE HASHES" in fails(code, wrong, ExitCode.IO, words)
    found = hashlib.sha256(wheel(code, "tiny").read_bytes()).hexdigest()
    right = f"tiny==1.0 --hash=sha256:{found}\n"
    assert says(install(code, right, python=image), "tiny", image) == "tiny 1.0"
    wheel(code, "other")
    assert "hash" in fails(code, f"{right}other==1.0\n", ExitCode.CODE_MISSING, "can never")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no-such-thing==1\n", "No matching distribution found for no-such-thing==1"),
        ("tiny==9\n", "No matching distribution found for tiny==9"),
        ("tiny=1\n", "Invalid requirement"),
        ("tiny\ntiny==1.0\nbound\n", "ResolutionImpossible"),
        ("-r missing.txt\n", "missing.txt"),
        ("--no-such-option\n", "no such option"),
        ("./missing.whl\n", "missing.whl"),
        ("./empty\n", "Neither 'setup.py' nor 'pyproject.toml' found"),
    ],
)
def test_what_can_never_be_installed_is_not_retried(code: Path, text: str, said: str) -> None:
    wheel(code, "bound", requires="tiny>2")
    wheel(code, "tiny", "3.0")
    (code / "empty").mkdir()
    assert said in fails(code, text, ExitCode.CODE_MISSING, r"code\.requirements: pip can never")


class Index(http.server.BaseHTTPRequestHandler):
    """An index behind a login, and a proxy; the address says how it answers."""

    heard: list[str]

    def do_GET(self) -> None:
        self.heard.append(f"{self.path} {self.headers.get('Authorization', '')}")
        status = int(self.path.split("/")[-3])
        self.send_response(status)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<html><body></body></html>")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def index() -> Iterator[str]:
    Index.heard = []
    with serving(Index) as address:
        yield address


@pytest.mark.parametrize(
    ("status", "code_of_exit"),
    [("200", ExitCode.CODE_MISSING), ("404", ExitCode.CODE_MISSING), ("503", ExitCode.IO)],
)
def test_only_an_index_that_answers_says_that_there_is_no_package(
    code: Path, index: str, status: str, code_of_exit: ExitCode
) -> None:
    url = f"http://anna:secret@{index}/{status}"
    said = fails(code, "nothing\n", code_of_exit, "pip", PIP_INDEX_URL=url, PIP_RETRIES="0")
    assert "secret" not in said
    assert Index.heard[-1].startswith(f"/{status}/nothing/")


def test_an_index_that_cannot_be_reached_is_retried(code: Path) -> None:
    say = "pip could not install requirements.txt: exit code 1"
    said = fails(code, "tiny\n", ExitCode.IO, say, PIP_INDEX_URL=CLOSED, PIP_RETRIES="1")
    assert "secret" not in said


def test_pip_uses_the_programs_proxy(code: Path, index: str) -> None:
    proxied = {"PIP_INDEX_URL": "http://packages.invalid/200", "http_proxy": f"http://{index}"}
    proxied["PIP_TRUSTED_HOST"] = "packages.invalid"
    fails(code, "tiny\n", ExitCode.CODE_MISSING, "can never", PIP_RETRIES="0", **proxied)
    assert Index.heard[-1].startswith("http://packages.invalid/200/tiny/")


def test_an_image_without_pip_is_a_configuration_error(code: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    python = tmp_path / "bare" / "bin" / "python"
    fails(code, "tiny\n", ExitCode.CONFIGURATION, "the image must have pip", python)


def test_an_image_without_venv_is_a_configuration_error(code: Path, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "No module named venv"\nexit 1\n')
    python.chmod(0o755)
    fails(code, "tiny\n", ExitCode.CONFIGURATION, "must have the module venv", python)
