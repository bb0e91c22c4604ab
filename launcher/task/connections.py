"""Connections to a port of this pod: those in the kernel's tables, and one that is awaited."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import sys
import threading
from pathlib import Path
from typing import Callable, Literal

TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
ESTABLISHED = "01"


def connected(host: str, port: int) -> bool:
    """Whether the IP address has a connection to the port. False if unknown, or no IP address.

    https://docs.kernel.org/networking/proc_net_tcp.html
    """
    try:
        peer = ipaddress.ip_address(host)
    except ValueError:  # the address comes from a report, so it can be anything
        return False
    for table in TABLES:
        try:
            lines = table.read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            _, local, remote, state, *_ = line.split()
            here = int(local.rpartition(":")[2], 16)
            if state == ESTABLISHED and here == port and _address(remote) == peer:
                return True
    return False


class Listener:
    """Listens at a port, and hands over the IP address of each host that connects.

    It closes each connection at once, as if nothing had listened.
    """

    def __init__(self, port: int, connected: Callable[[str], None]) -> None:
        """Raises OSError if the port cannot be used."""
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        self._socket = socket.create_server(("", port), family=family, dualstack_ipv6=dual)
        # Connections inherit this, and are reset: a closed one would keep the port for a while.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._connected = connected
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Frees the port."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._thread.join()  # while it accepts, the port is in use
        self._socket.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it is closed
            while True:
                connection, address = self._socket.accept()
                connection.close()
                self._connected(address[0].removeprefix("::ffff:"))


def _address(
    text: str, byte_order: Literal["little", "big"] = sys.byteorder
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IP address in HEX:PORT. Each word of 32 bits is a number in the machine's byte order."""
    digits = text.rpartition(":")[0]
    words = (int(digits[i : i + 8], 16) for i in range(0, len(digits), 8))
    packed = b"".join(word.to_bytes(4, byte_order) for word in words)
    address = ipaddress.ip_address(packed)
    return getattr(address, "ipv4_mapped", None) or address
