"""Waits until other tasks can be reached: their names resolve, and their ports answer."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence

from launcher.shared.exits import ExitCode, LauncherError
from launcher.shared.log import say

RETRY_SECONDS = 0.5
SAY_SECONDS = 10.0
CONNECT_SECONDS = 3.0


def wait(
    addresses: Sequence[str], timeout: float, connect: bool, cancelled: threading.Event
) -> None:
    """Returns when every host:port resolves, and with `connect` answers; or when cancelled.

    Raises LauncherError(PEERS_UNAVAILABLE) after `timeout` seconds, naming who is missing.
    """
    begin = time.monotonic()
    said = begin
    missing = dict.fromkeys(addresses, "")
    while True:
        for address in list(missing):
            try:
                _reach(address, connect)
                del missing[address]
            except OSError as error:
                missing[address] = error.strerror or str(error)
            except UnicodeError:  # from the codec of host names
                missing[address] = "not a host name"
        if not missing:
            return
        now = time.monotonic()
        who = ", ".join(f"{address} ({why})" for address, why in missing.items())
        if now - begin >= timeout:
            raise LauncherError(
                ExitCode.PEERS_UNAVAILABLE, f"tasks not reached within {timeout:.0f} s: {who}"
            )
        if now - said >= SAY_SECONDS:
            said = now
            say(f"still waiting after {now - begin:.0f} s for {who}")
        if cancelled.wait(RETRY_SECONDS):
            return


def _reach(address: str, connect: bool) -> None:
    host, _, port = address.rpartition(":")
    if connect:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    else:
        socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
