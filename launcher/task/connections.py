"""Finds connections to a port of this pod in the kernel's tables."""

from __future__ import annotations

import ipaddress
import sys
from pathlib import Path
from typing import Literal

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


def _address(
    text: str, byte_order: Literal["little", "big"] = sys.byteorder
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IP address in HEX:PORT. Each word of 32 bits is a number in the machine's byte order."""
    digits = text.rpartition(":")[0]
    words = (int(digits[i : i + 8], 16) for i in range(0, len(digits), 8))
    packed = b"".join(word.to_bytes(4, byte_order) for word in words)
    address = ipaddress.ip_address(packed)
    return getattr(address, "ipv4_mapped", None) or address
