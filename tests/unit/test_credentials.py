"""What code is fetched with."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher import credentials
from launcher.credentials import Credentials
from launcher.exits import Code, LauncherError


def secret(folder: Path, keys: dict[str, str]) -> Path:
    for key, text in keys.items():
        (folder / key).write_text(text)
    return folder


def test_a_secret_is_read(tmp_path: Path) -> None:
    assert credentials.read(None) is None
    found = credentials.read(secret(tmp_path, {"username": "anna", "password": "a:b\n"}))
    assert found == Credentials("anna", "a:b", "")
    assert found.header() == "Basic YW5uYTphOmI="
    found = credentials.read(secret(tmp_path, {"token": "abc"}))
    assert found
    assert found.header() == "Bearer abc"


@pytest.mark.parametrize("keys", [{}, {"username": "a"}, {"password": "b"}, {"other": "c"}])
def test_a_secret_that_says_too_little_is_named(tmp_path: Path, keys: dict[str, str]) -> None:
    with pytest.raises(LauncherError, match=r"code\.secret must name a Secret with") as error:
        credentials.read(secret(tmp_path, keys))
    assert error.value.code is Code.CONFIGURATION


def test_a_key_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"\xff")
    with pytest.raises(LauncherError, match=r"code\.secret: the key token cannot be read"):
        credentials.read(tmp_path)
