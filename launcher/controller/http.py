"""A server for the part of HTTP/1.1 that tasks use. It limits what a client may send."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Callable

from launcher.shared.protocol import REPORT_BYTES

HEADER_BYTES = 8 * 1024
IDLE_SECONDS = 60.0  # without a request; then the connection is closed


@dataclass(frozen=True)
class Request:
    """What a client asks for."""

    method: str
    path: str
    body: bytes


class RefusedError(Exception):
    """The request gets an error as its answer; the text is for the client."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class Server:
    """Answers requests, one after the other on each connection.

    `failed` gets every exception of `answer` but RefusedError: such an exception is a bug.
    """

    def __init__(
        self, answer: Callable[[Request], Awaitable[bytes]], failed: Callable[[Exception], None]
    ) -> None:
        self._answer = answer
        self._failed = failed
        self._server: asyncio.Server | None = None
        self.closing = False

    async def listen(self, host: str, port: int) -> None:
        """Begins to serve. Raises OSError if it cannot listen."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=HEADER_BYTES)

    def close(self) -> None:
        """Stops taking requests."""
        self.closing = True  # because wait_for before Python 3.12 may swallow a cancellation
        if self._server:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not self.closing:
                try:
                    request = await asyncio.wait_for(_read_request(reader), IDLE_SECONDS)
                    if self.closing:  # the client must connect to the controller that leads
                        return
                    status, body = 200, await self._answer(request)
                except RefusedError as error:
                    status, body = error.status, error.text.encode()
                phrase = http.client.responses[status]
                head = f"HTTP/1.1 {status} {phrase}\r\nContent-Length: {len(body)}\r\n"
                head += "" if status == 200 else "Connection: close\r\n"
                writer.write(head.encode() + b"\r\n" + body)
                await writer.drain()
                if status != 200:
                    return
        except (OSError, EOFError, asyncio.TimeoutError, asyncio.CancelledError):
            pass  # the client is gone or silent, or this controller ends
        except Exception as error:
            self._failed(error)
        finally:
            writer.close()


async def _read_request(reader: asyncio.StreamReader) -> Request:
    """Reads a request. Raises RefusedError unless a task may send it, EOFError at the end."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.LimitOverrunError:
        raise RefusedError(431, "the header is too long") from None
    first, *lines = head.split("\r\n")
    words = first.split(" ")
    if len(words) != 3:
        raise RefusedError(400, "the request line must be METHOD PATH VERSION")
    headers = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(":") for line in lines if line)
    }
    length = headers.get("content-length", "0")
    if "transfer-encoding" in headers or not length.isdecimal():
        raise RefusedError(411, "the body needs a Content-Length")
    if len(length) > 10 or int(length) > REPORT_BYTES:
        raise RefusedError(413, f"the body is longer than {REPORT_BYTES} bytes")
    return Request(words[0], words[1], await reader.readexactly(int(length)))
