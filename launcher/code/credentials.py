"""Reads the credentials to fetch code with from a mounted Kubernetes Secret."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from pathlib import Path

from launcher.shared.exits import ExitCode, LauncherError

# What an HTTP header and git's credential helper, which reads lines, accept. Other text would fail
# there, with the secret in the error.
TEXT = re.compile(r"[^\0-\x1f\x7f-\x9f]*")
TOKEN = re.compile(r"[\x20-\x7e]*")


@dataclass(frozen=True)
class Credentials:
    """`username` and `password` as in a Secret of type kubernetes.io/basic-auth, or a `token`."""

    username: str
    password: str
    token: str

    def header(self) -> str:
        """The Authorization header of HTTP."""
        if self.token:
            return f"Bearer {self.token}"
        both = f"{self.username}:{self.password}".encode()
        return f"Basic {base64.b64encode(both).decode()}"


def read(folder: Path | None) -> Credentials | None:
    """The credentials in the Secret; None without one. Raises LauncherError(CONFIGURATION)."""
    if folder is None:
        return None
    username, password = _key(folder / "username", TEXT), _key(folder / "password", TEXT)
    found = Credentials(username, password, _key(folder / "token", TOKEN))
    if not found.token and not (found.username and found.password):
        raise LauncherError(
            ExitCode.CONFIGURATION,
            "code.secret must name a Secret with the keys username and password, or token",
        )
    return found


def _key(file: Path, allowed: re.Pattern[str]) -> str:
    try:
        text = file.read_text(encoding="utf-8").strip("\n")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise LauncherError(
            ExitCode.CONFIGURATION, f"code.secret: the key {file.name} cannot be read: {error}"
        ) from None
    except UnicodeDecodeError:
        text = "\0"
    if not allowed.fullmatch(text):
        what = "printable ASCII" if allowed is TOKEN else "text in UTF-8"
        raise LauncherError(
            ExitCode.CONFIGURATION, f"code.secret: the key {file.name} must be one line of {what}"
        )
    return text
