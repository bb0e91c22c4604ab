"""The credentials for fetching code."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.code import credentials
from launcher.code.credentials import Credentials
from launcher.shared.exits import ExitCode, LauncherError


def secret(folder: Path, keys: dict[str, str]) -> Path:
    for key, text in keys.items():
        (folder / key).write_text(text)
    return folder


def test_the_login_is_read_from_the_files_of_a_secret(tmp_path: Path) -> None:
    assert credentials.read(None) is None
    found = credentials.read(secret(tmp_path, {"username": "anna", "password": "a:b\n"}))
    assert found == Credentials("anna", "a:b", "")
    assert found.header() == "Basic YW5uYTphOmI="
    found = credentials.read(secret(tmp_path, {"token": "abc"}))
    assert found
    assert found.header() == "Bearer abc"


@pytest.mark.parametrize("keys", [{}, {"username": "a"}, {"password": "b"}, {"other": "c"}])
def test_a_secret_with_too_few_keys_is_named(tmp_path: Path, keys: dict[str, str]) -> None:
    with pytest.raises(LauncherError, match=r"code\.secret must name a Secret with") as error:
        credentials.read(secret(tmp_path, keys))
    assert error.value.exit_code is ExitCode.CONFIGURATION


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("token", "\ufeffabc".encode(), "printable ASCII"),
        ("token", b"abc\ndef", "printable ASCII"),
        ("token", "größe".encode(), "printable ASCII"),
        ("token", b"\xffabc", "printable ASCII"),
        ("password", b"abc\xff", "text in UTF-8"),
        ("password", b"abc\nquit=1", "text in UTF-8"),
        ("password", b"abc\0", "text in UTF-8"),
        ("username", b"abc\rdef", "text in UTF-8"),
    ],
)
def test_a_malformed_key_of_a_secret_is_named_without_its_value(
    tmp_path: Path, key: str, value: bytes, rule: str
) -> None:
    for name in ("username", "password", "token"):
        (tmp_path / name).write_text("größe" if name != "token" else "a b\n")
    assert credentials.read(tmp_path) == Credentials("größe", "größe", "a b")
    (tmp_path / key).write_bytes(value)
    with pytest.raises(LauncherError) as error:
        credentials.read(tmp_path)
    assert error.value.reason == f"code.secret: the key {key} must be one line of {rule}"
    assert error.value.exit_code is ExitCode.CONFIGURATION
