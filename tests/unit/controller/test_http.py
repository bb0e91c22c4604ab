"""The controller's HTTP server with clients that are no tasks: wrong, slow or silent ones."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from launcher.shared.identity import Task
from launcher.shared.protocol import PATH, Action, Report, decode_directive, encode_report
from tests.unit.processes import Launcher, wait_until
from tests.unit.runs.run import Run


def ask(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(data)
        answer = b""
        while chunk := client.recv(65536):
            answer += chunk
        return answer


def post(body: bytes, head: str = "") -> bytes:
    return f"POST {PATH} HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


REPORT = encode_report(Report(Task("worker", 0), "me", 1, "", "", None, None, False))


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400, b"the request line must be METHOD PATH VERSION"),
        (b"GET / HTTP/1.1\r\n\r\n", 404, b"the only paths are /v1/report and /v1/status"),
        (b"GET /v1/report HTTP/1.1\r\n\r\n", 405, b"takes POST"),
        (b"POST /v1/report HTTP/1.1\r\nX: " + b"x" * 20_000, 431, b"the header is too long"),
        (b"POST /v1/report HTTP/1.1\r\nContent-Length: 99999999999999\r\n\r\n", 413, b"65536"),
        (b"POST /v1/report HTTP/1.1\r\nContent-Length: 65537\r\n\r\n", 413, b"longer than"),
        (b"POST /v1/report HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 411, b"Content-Length"),
        (b"POST /v1/report HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411, b"Content-Le"),
        (post(b"{"), 400, b"the message is not JSON"),
        (post(b"[" * 60_000), 400, b"the message is not JSON"),
        (post(b"{}"), 400, b"version must be 1"),
        (post(REPORT.replace(b"worker-0", b"boss-0")), 400, b"task must be a role"),
        (post(b'{"version": 1, "task": "\\ud800"}'), 400, b"task must be a role"),
    ],
)
def test_requests_that_no_task_sends_are_refused_and_do_no_harm(
    serving: Callable[[], int], data: bytes, status: int, words: bytes
) -> None:
    answer = ask(serving(), data)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert words in body


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The port of one controller that serves all tests of this file, and must survive them."""
    folder = tmp_path_factory.mktemp("serving")
    launchers: list[Launcher] = []

    def start(*arguments: str, **options: Any) -> Launcher:
        launchers.append(Launcher(*arguments, **options))
        return launchers[-1]

    run = Run(start, folder)
    controller = run.controller()
    controller.wait_for("^.*run 0123456789ab: ")

    def port() -> int:
        assert controller.process.poll() is None
        return run.port

    yield port
    assert directive_of(port()) is Action.WAIT
    controller.signal(signal.SIGTERM)
    assert controller.wait() == 143
    assert "Traceback" not in str(controller)
    controller.kill()


def directive_of(port: int) -> Action:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(post(REPORT))
        answer = b""
        while b"\r\n\r\n" not in answer or b'"cleanup"' not in answer:
            answer += client.recv(65536)
    directive = decode_directive(answer.partition(b"\r\n\r\n")[2])
    assert directive
    return directive.action


def test_slow_and_silent_clients_do_not_delay_others(serving: Callable[[], int]) -> None:
    clients = [socket.create_connection(("127.0.0.1", serving())) for _ in range(200)]
    for i, client in enumerate(clients):
        client.sendall(post(REPORT)[: i % 40])
    begin = time.monotonic()
    assert directive_of(serving()) is Action.WAIT
    assert time.monotonic() - begin < 30
    for client in clients:
        client.close()


def test_clients_that_go_away_leave_no_descriptor(serving: Callable[[], int]) -> None:
    import psutil

    serving()
    (controller,) = (
        p
        for p in psutil.Process().children()
        if "controller" in p.cmdline() and str(serving()) in p.environ().get("TFRUN_LISTEN", "")
    )
    assert directive_of(serving()) is Action.WAIT
    before = controller.num_fds()
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", serving())) as client:
            client.sendall(post(REPORT.replace(b'"wait": false', b'"wait": true')))
    wait_until(lambda: controller.num_fds() <= before + 5, "the controller closes its sockets")
