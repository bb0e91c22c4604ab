"""Finds connections to a port of this pod in the kernel's tables."""

from __future__ import annotations

import ipaddress
from pathlib import Path

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


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IP address in HEX:PORT, with words of 32 bits as on little-endian machines."""
    words = bytes.fromhex(text.rpartition(":")[0])
    packed = b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4))
    address = ipaddress.ip_address(packed)
    return getattr(address, "ipv4_mapped", None) or address
