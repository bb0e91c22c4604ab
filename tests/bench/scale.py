"""1,000 tasks and one controller: real links and real HTTP; children are only reported, not run.

Prints how long a directive takes to reach every task, and how much memory the controller uses.
Run: python -m tests.bench.scale [--tasks 1000]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from dataclasses import dataclass, replace
from multiprocessing.synchronize import Barrier
from pathlib import Path

import psutil

from launcher.shared.identity import Task
from launcher.shared.protocol import Action, ChildReport, Directive, Report
from launcher.task.link import Link
from tests.unit import jobs

CLIENT_PROCESSES = 4
PATIENCE_SECONDS = 120


@dataclass(frozen=True)
class Figures:
    """What one run measured, in seconds and megabytes."""

    tasks: int
    first_start: float  # from the first connection to the last RUN
    restart: float  # from the report of a lost ps to the last RUN of the next generation
    wait: float  # the part of `restart` until the last task held WAIT
    memory: float
    connections: int


class _Client(threading.Thread):
    """A task that follows directives at once and reports a child that does not exist."""

    def __init__(self, task: Task, port: int, heard: queue.SimpleQueue[tuple[str, int, float]]):
        super().__init__(daemon=True)
        self.task, self.port, self.heard = task, port, heard
        self.events: queue.SimpleQueue[Directive | None] = queue.SimpleQueue()

    def lose_child(self) -> None:
        self.events.put(None)

    def run(self) -> None:
        report = Report(
            self.task, os.urandom(8).hex(), 0, "127.0.0.1", "", None, None, True, False, True
        )
        link = Link(("127.0.0.1", self.port), report, self.events.put)
        while True:
            directive = self.events.get()
            report = replace(report, sequence=report.sequence + 1)
            if directive is None:
                assert report.child
                report = replace(report, child=replace(report.child, exit_code=137))
            else:
                report = replace(report, holds=directive.holds())
                generation = directive.generation
                if directive.action is Action.RUN:
                    report = replace(report, child=ChildReport(generation, up=True, global_step=1))
                elif report.child and report.child.exit_code is None:
                    report = replace(
                        report, child=replace(report.child, exit_code=143, stopped=True)
                    )
                self.heard.put((directive.action.value, generation, time.monotonic()))
            link.send(report)


def measure(tasks: int) -> Figures:
    """Runs a controller and its tasks through a start and one restart of all tasks."""
    with tempfile.TemporaryDirectory() as folder, closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        job = Path(folder) / "job.json"
        job.write_text(json.dumps(document(tasks)))
        env = {**os.environ, "TFRUN_JOB": str(job), "TFRUN_LISTEN": f"127.0.0.1:{port}"}
        env["TFRUN_TERMINATION_LOG"] = ""
        command = [sys.executable, "-m", "launcher", "controller"]
        controller = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL)
        context = multiprocessing.get_context("fork")
        results: multiprocessing.Queue[list[float]] = context.Queue()
        lose = context.Barrier(CLIENT_PROCESSES + 1)
        shares = [range(i, tasks, CLIENT_PROCESSES) for i in range(CLIENT_PROCESSES)]
        begin = time.monotonic()
        clients = [
            context.Process(target=_clients, args=(share, port, results, lose)) for share in shares
        ]
        try:
            for client in clients:
                client.start()
            started = max(results.get(timeout=PATIENCE_SECONDS)[0] for _ in clients)
            lose.wait(PATIENCE_SECONDS)
            ends = [results.get(timeout=PATIENCE_SECONDS) for _ in clients]
            process = psutil.Process(controller.pid)
            return Figures(
                tasks=tasks,
                first_start=started - begin,
                restart=max(end[1] for end in ends) - max(end[2] for end in ends),
                wait=max(end[0] for end in ends) - max(end[2] for end in ends),
                memory=process.memory_info().rss / 1e6,
                connections=sum(c.status == "ESTABLISHED" for c in process.net_connections("tcp")),
            )
        finally:
            for client in clients:
                client.kill()
                client.join()
            controller.send_signal(signal.SIGTERM)
            controller.wait()


def _clients(
    share: range, port: int, results: multiprocessing.Queue[list[float]], lose: Barrier
) -> None:
    heard: queue.SimpleQueue[tuple[str, int, float]] = queue.SimpleQueue()
    clients = [_Client(_task(number), port, heard) for number in share]
    for client in clients:
        client.start()
    results.put([_await(heard, len(clients), "run", 1)])
    lose.wait(PATIENCE_SECONDS)
    lost = 0.0
    if clients[0].task.role == "ps":
        lost = time.monotonic()
        clients[0].lose_child()
    waiting = _await(heard, len(clients), "wait", 2)
    running = _await(heard, len(clients), "run", 2)
    results.put([waiting, running, lost])


def _await(
    heard: queue.SimpleQueue[tuple[str, int, float]], count: int, action: str, generation: int
) -> float:
    """The time at which the last of `count` tasks received a directive."""
    last = 0.0
    while count:
        what, number, at = heard.get(timeout=PATIENCE_SECONDS)
        if (what, number) == (action, generation):
            count, last = count - 1, at
    return last


def _task(number: int) -> Task:
    return Task("ps", 0) if number == 0 else Task("worker", number - 1)


def document(tasks: int) -> dict[str, object]:
    """The job document of a run of so many tasks."""
    replicas = {"ps": 1, "worker": tasks - 1}
    return jobs.document(replicas=replicas, grace=0, cleanup="Keep")


def main() -> None:
    """Measures once and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=1000)
    figures = measure(parser.parse_args().tasks)
    print(
        f"{figures.tasks} tasks, {figures.connections} connections: all run "
        f"{figures.first_start:.2f} s after the first connects; a ps is lost: all hold WAIT after "
        f"{figures.wait:.2f} s, all run again after {figures.restart:.2f} s; the controller holds "
        f"{figures.memory:.0f} MB"
    )


if __name__ == "__main__":
    main()
