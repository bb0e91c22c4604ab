"""Whether a host is connected to a port."""

from __future__ import annotations

import queue
import socket
from typing import Literal

import pytest

from launcher.task import connections
from launcher.task.connections import Listener, connected
from tests.unit.processes import free_ports, wait_until


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


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_listener_names_who_connects_and_frees_its_port_at_once(host: str) -> None:
    (port,) = free_ports(1)
    callers: queue.SimpleQueue[str] = queue.SimpleQueue()
    for _ in range(3):
        listener = Listener(port, callers.put)
        try:
            socket.create_connection((host, port)).close()
        except OSError:
            pytest.skip("this machine has no IPv6")
        assert callers.get(timeout=10) == host
        listener.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, port))
        socket.create_server(("", port)).close()


def test_a_listener_says_that_its_port_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(OSError, match="in use"):
        Listener(server.getsockname()[1], print)


@pytest.mark.parametrize(
    ("byte_order", "text", "address"),
    [
        ("little", "0200000A:08AE", "10.0.0.2"),
        ("big", "0A000002:08AE", "10.0.0.2"),
        ("little", "B80D0120000000000000000001000000:08AE", "2001:db8::1"),
        ("big", "20010DB8000000000000000000000001:08AE", "2001:db8::1"),
        ("little", "0000000000000000FFFF00000200000A:08AE", "10.0.0.2"),
        ("big", "00000000000000000000FFFF0A000002:08AE", "10.0.0.2"),
    ],
)
def test_an_address_is_read_in_the_byte_order_of_the_machine(
    byte_order: Literal["little", "big"], text: str, address: str
) -> None:
    assert str(connections._address(text, byte_order)) == address
