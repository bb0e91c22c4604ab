"""The name and password, or the token, that code is fetched with: a mounted Kubernetes Secret."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from launcher.exits import Code, LauncherError


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
    """What the Secret holds; None where there is none. Raises LauncherError(CONFIGURATION)."""
    if folder is None:
        return None
    found = Credentials(*(_key(folder / key) for key in ("username", "password", "token")))
    if not found.token and not (found.username and found.password):
        raise LauncherError(
            Code.CONFIGURATION,
            "code.secret must name a Secret with the keys username and password, or token",
        )
    return found


def _key(file: Path) -> str:
    try:
        return file.read_text().strip("\n")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise LauncherError(
            Code.CONFIGURATION, f"code.secret: the key {file.name} cannot be read: {error}"
        ) from None
