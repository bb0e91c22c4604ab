"""Whether a host is connected to a port."""

from __future__ import annotations

import socket

import pytest

from launcher.task.connections import connected
from tests.unit.processes import wait_until


@pytest.mark.parametrize(
    ("family", "host"),
    [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "127.0.0.1"), (socket.AF_INET6, "::1")],
)
def test_a_connection_is_seen_while_it_exists(family: socket.AddressFamily, host: str) -> None:
    """Also that of an IPv4 address to a dual-stack server, as TensorFlow's is."""
    dual = family is socket.AF_INET6
    try:
        server = socket.create_server(("", 0), family=family, dualstack_ipv6=dual)
    except (OSError, ValueError):
        pytest.skip("this machine has no IPv6")
    with server:
        port = server.getsockname()[1]
        assert not connected(host, port), "a server that only listens is not connected"
        with socket.create_connection((host, port)):
            wait_until(lambda: connected(host, port), "it is connected")
            assert not connected("192.0.2.1", port)
            with socket.create_server(("127.0.0.1", 0)) as other:  # a port without connections
                assert not connected(host, other.getsockname()[1])
            accepted, _ = server.accept()
            with accepted:
                assert connected(host, port)
        assert not connected(host, port)
