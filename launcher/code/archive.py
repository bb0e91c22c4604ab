"""Fetches an archive over HTTP or from a file, and verifies its SHA-256 before it is opened."""

from __future__ import annotations

import functools
import hashlib
import http.client
import io
import math
import os
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Union
from urllib.parse import urlsplit

from launcher.code.copy import FULL
from launcher.code.credentials import Credentials
from launcher.code.stall import Stall, call
from launcher.code.unpack import unpack, untrusted
from launcher.shared.exits import ExitCode, LauncherError
from launcher.shared.log import say

FETCHED_BYTES = 4 * 1024**3
READ_BYTES = 1024 * 1024
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before each retry
PASSING = frozenset({408, 425, 429})  # a retry may help, as with all from 500 on
Opened = Union[io.BufferedReader, http.client.HTTPResponse]


@dataclass(frozen=True)
class Archive:
    """Its address, its SHA-256, the credentials to fetch it, and the program's environment.

    The server may be silent for `timeout` seconds, retries included.
    """

    url: str
    sha256: str
    credentials: Credentials | None
    timeout: float
    env: Mapping[str, str]

    def __str__(self) -> str:
        return f"code.archive {self.url}"


def fetch(archive: Archive, folder: Path, cancelled: threading.Event) -> None:
    """Unpacks the archive into the new folder `folder`.

    Raises LauncherError: CODE_MISSING if there is no such archive or it is refused, IO if it cannot
    be read or written, TRY_AGAIN if cancelled.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="archive-", dir=folder.parent) as name:
        file, unpacked = Path(name, "archive"), Path(name, "unpacked")
        try:
            _download(archive, file, cancelled)
            unpack(str(archive), file, unpacked, cancelled)
            unpacked.rename(folder)
        except OSError as error:
            raise LauncherError(
                ExitCode.IO, f"{archive} cannot be unpacked: {error.strerror or error}"
            ) from None


def _download(archive: Archive, file: Path, cancelled: threading.Event) -> None:
    """Retries a few times, until the server is silent for the timeout."""
    heard = time.monotonic()
    for pause in (*PAUSES, math.inf):
        left = archive.timeout - (time.monotonic() - heard)
        writer = file.open("wb")
        attempt = functools.partial(_try_download, archive, writer)
        failure, moved = call(attempt, str(archive), left, cancelled)
        if not failure:
            return
        heard = time.monotonic() if moved else heard
        if time.monotonic() + pause - heard >= archive.timeout:
            raise LauncherError(ExitCode.IO, f"{archive} cannot be fetched: {failure}")
        say(f"{archive} cannot be fetched: {failure}; retrying in {pause:.0f} s")
        if cancelled.wait(pause):
            raise LauncherError(ExitCode.TRY_AGAIN, f"{archive}: cancelled")


def _try_download(archive: Archive, writer: IO[bytes], stall: Stall) -> tuple[str, bool]:
    """The failure, or nothing, and whether data came. Raises what no retry can repair."""
    content = hashlib.sha256()
    size = 0
    try:
        with writer, _open(archive) as reader:
            # We count, because before Python 3.12 read1 does not, and waits for more at the end.
            length = getattr(reader, "length", None)
            most = FETCHED_BYTES + 1 if length is None else length
            while data := reader.read1(min(READ_BYTES, most - size)):
                size += len(data)
                stall.moved += 1
                if size > FETCHED_BYTES:
                    raise untrusted(str(archive), f"at most {FETCHED_BYTES} bytes")
                content.update(data)
                writer.write(data)
                if stall.over:
                    break
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in PASSING or error.code >= 500:
            return f"the server answered {error.code} {error.reason}", False
        hint = " (code.secret must name valid credentials)" if error.code in (401, 403) else ""
        raise LauncherError(
            ExitCode.CODE_MISSING, f"{archive} must exist: the server answered {error.code}{hint}"
        ) from None
    except (FileNotFoundError, PermissionError) as error:
        what = f"{archive} is not readable by user {os.geteuid()}: {error.strerror}"
        raise LauncherError(ExitCode.CODE_MISSING, what) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        return str(getattr(error, "reason", "") or error or type(error).__name__), size > 0
    if length is not None and size < length:
        return f"it ended {length - size} bytes early", True
    if content.hexdigest() != archive.sha256:
        raise LauncherError(
            ExitCode.CODE_MISSING,
            f"{archive} must have the SHA-256 of code.archive.sha256, {archive.sha256}; it has "
            f"{content.hexdigest()} ({size} bytes)",
        )
    return "", True


def _open(archive: Archive) -> Opened:
    if archive.url.startswith("file:"):
        return Path(urllib.request.url2pathname(urlsplit(archive.url).path)).open("rb")
    request = urllib.request.Request(archive.url, headers={"User-Agent": "tfrun"})  # noqa: S310
    if archive.credentials:
        # Not sent to the target of a redirect.
        request.add_unredirected_header("Authorization", archive.credentials.header())
    opener = urllib.request.build_opener(_Proxies(archive.env))
    opened: http.client.HTTPResponse = opener.open(request, timeout=archive.timeout)
    return opened


class _Proxies(urllib.request.ProxyHandler):
    """The proxies of the program's environment."""

    def __init__(self, env: Mapping[str, str]) -> None:
        names = sorted(env, key=str.islower)  # one in lower case wins
        found = {n.lower()[:-6]: env[n] for n in names if n.lower().endswith("_proxy") and env[n]}
        self.found = found
        super().__init__({k: v for k, v in found.items() if k in ("http", "https")})

    def proxy_open(self, req: urllib.request.Request, proxy: str, type: str) -> Any:  # noqa: A002
        if urllib.request.proxy_bypass_environment(req.host, self.found):  # type: ignore[attr-defined]
            return None
        return super().proxy_open(req, proxy, type)
