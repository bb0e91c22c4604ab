"""A TCP proxy that delays every byte, for machines whose kernel has no netem.

It is one thread in a process of its own, so that it disturbs the measurement as little as it can:

    python -m tests.bench.delay SECONDS HOST:PORT ...

It prints one port of 127.0.0.1 for each server, and exits when its standard input ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def proxy(seconds: float, *servers: tuple[str, int]) -> Iterator[list[int]]:
    """Ports of 127.0.0.1, one for each server. Each byte arrives `seconds` later, either way."""
    words = [sys.executable, "-m", "tests.bench.delay", str(seconds)]
    words += [f"{host}:{port}" for host, port in servers]
    with subprocess.Popen(
        words, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        yield [int(port) for port in process.stdout.readline().split()]
        process.stdin.close()


class _Side(asyncio.Protocol):
    """One side of a connection. It sends what it receives to the other side, `seconds` later."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.loop = asyncio.get_running_loop()
        self.other: asyncio.Future[asyncio.WriteTransport] = self.loop.create_future()

    def data_received(self, data: bytes) -> None:
        self.loop.call_later(self.seconds, self._send, data)

    def _send(self, data: bytes) -> None:
        self.other.result().write(data)

    def connection_lost(self, _: Exception | None) -> None:
        if self.other.done():
            self.loop.call_later(self.seconds, self.other.result().close)


class _Near(_Side):
    """The client's side, which opens the connection to the server."""

    def __init__(self, seconds: float, server: tuple[str, int]) -> None:
        super().__init__(seconds)
        self.server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        self.opening = self.loop.create_task(self._open(transport))

    async def _open(self, near: asyncio.Transport) -> None:
        far, side = await self.loop.create_connection(partial(_Side, self.seconds), *self.server)
        side.other.set_result(near)
        self.other.set_result(far)
        near.resume_reading()


async def _serve(seconds: float, servers: list[tuple[str, int]]) -> None:
    loop = asyncio.get_running_loop()
    ports = []
    for server in servers:
        near = await loop.create_server(partial(_Near, seconds, server), "127.0.0.1", 0)
        ports.append(near.sockets[0].getsockname()[1])
    print(*ports, flush=True)
    await loop.run_in_executor(None, os.read, 0, 1)


def main() -> None:
    """Serves until the standard input ends."""
    seconds, *servers = sys.argv[1:]
    # select, because epoll rounds its timeouts to milliseconds.
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    parts = [server.rpartition(":") for server in servers]
    loop.run_until_complete(_serve(float(seconds), [(host, int(port)) for host, _, port in parts]))


if __name__ == "__main__":
    main()
