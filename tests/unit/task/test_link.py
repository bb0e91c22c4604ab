"""A real task with a fake controller, whose answers come from the test."""

from __future__ import annotations

import http.server
import os
import queue
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launcher.shared.identity import Task
from launcher.shared.job import Job
from launcher.shared.protocol import (
    Action,
    ChildReport,
    Directive,
    Leader,
    Report,
    decode_report,
    encode_directive,
)
from launcher.task import link
from tests.unit.conftest import Start
from tests.unit.jobs import job
from tests.unit.processes import PATIENCE, Launcher, free_ports, lives

LEADER = Leader(1, "me")


class FakeController:
    """Hands each report to the test, and answers the last one with what the test gives.

    A task may give up a request for a newer one. The old request then takes no answer from the
    new one, and the test does not get it if it arrives later.
    """

    def __init__(self, port: int) -> None:
        requests: queue.Queue[tuple[Report, queue.Queue[Directive | None]]] = queue.Queue()
        self.requests = requests
        self.sequence = 0
        self.connections: list[int] = []  # the connection of each request, as its client's port
        connections = self.connections

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                answer: queue.Queue[Directive | None] = queue.Queue()
                connections.append(self.client_address[1])
                requests.put((decode_report(self.rfile.read(length)), answer))
                body = encode_directive(answer.get())
                try:
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except ConnectionError:
                    self.close_connection = True  # given up for a newer report

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=[0.02])
        self.thread.start()

    def hear(self) -> Report:
        while True:
            report, self.heard = self.requests.get(timeout=PATIENCE)
            if report.sequence >= self.sequence:
                self.sequence = report.sequence
                return report

    def answer(self, directive: Directive | None) -> None:
        self.heard.put(directive)

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def port() -> int:
    (port,) = free_ports(1)
    return port


@pytest.fixture
def fake(port: int) -> Iterator[FakeController]:
    controller = FakeController(port)
    yield controller
    controller.close()


def worker(start: Start, port: int) -> Launcher:
    return start(
        "task",
        env={
            "TFRUN_POD_NAME": "worker-0",
            "TFRUN_CONTROLLER": f"127.0.0.1:{port}",
            "TFRUN_TERMINATION_LOG": "",
        },
    )


IMAGE = {"image": {"path": "/"}}


def here(script: str = "echo ready; sleep 1000", code: dict[str, Any] = IMAGE) -> Job:
    return job(
        program__command=["sh", "-c", script],
        program__args=[],
        addresses={"host": "127.0.0.1", "port": 1},
        code=code,
    )


def runs(report: Report, generation: int) -> bool:
    child = report.child
    return child is not None and child.generation == generation and child.exit_code is None


def start_child(fake: FakeController, generation: int, wanted: Job) -> Report:
    """Answers until the task's child of this generation runs; leaves that report unanswered."""
    report = fake.hear()
    while not runs(report, generation):
        fake.answer(Directive(LEADER, Action.RUN, generation, 0, wanted))
        report = fake.hear()
    return report


def test_a_report_names_the_last_directive_that_the_task_received(
    start: Start, fake: FakeController, port: int
) -> None:
    task = worker(start, port)
    assert fake.hear().holds is None
    task.wait_for(f"this is worker-0; asking 127.0.0.1:{port} what to do")
    for generation in range(1, 40):
        directive = Directive(LEADER, Action.WAIT, generation, 0, here())
        fake.answer(directive)
        report = fake.hear()
        assert report.holds == directive.holds()
        # Code of the image is ready at once, and the task sends another report about it.
        while not report.can_start:
            fake.answer(None)
            report = fake.hear()


def test_a_task_connects_again_when_a_request_ends_without_news(
    start: Start, fake: FakeController, port: int
) -> None:
    """By then the Service may select another controller, while this one still answers."""
    worker(start, port)
    fake.hear()
    fake.answer(None)
    fake.hear()
    assert len(set(fake.connections)) == 2


def test_a_directive_of_an_older_controller_is_ignored(
    start: Start, fake: FakeController, port: int
) -> None:
    task = worker(start, port)
    report = start_child(fake, 5, here())
    pid = int(task.wait_for(r"\(process (\d+)\)")[1])
    for action in Action:
        fake.answer(Directive(LEADER, action, 4, 0, here()))
        report = fake.hear()
        assert report.holds
        assert (report.holds.action, report.holds.generation) == (Action.RUN, 5)
        assert runs(report, 5)
    assert lives(pid)


def test_a_program_starts_only_once_after_a_failed_pull(
    start: Start, fake: FakeController, port: int, tmp_path: Path
) -> None:
    """The simulator found a program that had ended when another pull was asked for."""
    task = worker(start, port)
    code = tmp_path / "code"
    wanted = here("echo ready", {"folder": {"path": str(code)}})
    report = fake.hear()
    while not report.child:
        fake.answer(Directive(LEADER, Action.WAIT, 2, 0, wanted))
        report = fake.hear()
    code.mkdir()
    (code / "train.py").touch()
    while not report.child or report.child.exit_code != 0:
        assert str(task).count(": started sh -c") <= 1
        action = Action.RUN if report.can_start else Action.WAIT
        fake.answer(Directive(LEADER, action, 2, 0, wanted, 1))
        report = fake.hear()
    task.wait_for(": started sh -c")  # its line may come after its report
    for _ in range(5):
        fake.answer(None)
        report = fake.hear()
        assert report.child
        assert report.child.exit_code == 0
        assert str(task).count(": started sh -c") == 1


@pytest.mark.parametrize(
    ("child", "aged"),
    [
        (ChildReport(1), ChildReport(1)),
        (ChildReport(1, quiet=61.0), ChildReport(1, quiet=64.0)),
        (ChildReport(1, exit_code=0, ago=1.0), ChildReport(1, exit_code=0, ago=4.0)),
        (None, None),
    ],
)
def test_a_report_that_is_sent_again_counts_on(
    child: ChildReport | None, aged: ChildReport | None
) -> None:
    holds = Directive(LEADER, Action.RUN, 1, 0, job()).holds()
    report = Report(Task("worker", 1), "a launcher", 1, "", "", holds, child, True)
    assert link._aged(report, 3.0) == replace(report, child=aged)


def test_a_report_that_waited_for_its_controller_says_how_long_ago_the_child_ended(
    start: Start, port: int
) -> None:
    first = FakeController(port)
    task = worker(start, port)
    start_child(first, 1, here())
    first.answer(None)
    first.hear()
    first.close()
    killed = time.monotonic()
    os.kill(int(task.wait_for(r"\(process (\d+)\)")[1]), signal.SIGKILL)
    task.wait_for("the child ended: killed by SIGKILL")
    first.answer(None)  # ends the last open connection
    task.wait_for("no valid answer")
    second = FakeController(port)
    child = second.hear().child
    second.close()
    assert child
    assert child.exit_code == 137
    assert 2.0 < child.ago <= time.monotonic() - killed
