"""A whole run as processes on 127.0.0.1: the same controller, the same tasks, the same values.

Images, volumes, resources and pods are left out, and named: only a cluster has them.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from launcher.local.output import each_line
from launcher.local.values import (
    HOST,
    PACKAGE,
    job_document,
    job_from,
    left_out,
    read_values,
    task_env,
)
from launcher.shared import cluster_spec, signals
from launcher.shared.exits import (
    SIGNALLED,
    End,
    ExitCode,
    LauncherError,
    Phase,
    describe,
    end_of,
    from_wait,
    signalled,
)
from launcher.shared.identity import Task
from launcher.shared.job import Job
from launcher.shared.log import say
from launcher.shared.process import adopt_orphans, start

PORT_ATTEMPTS = 50


def run(files: Sequence[Path], code: Path | None, port: int | None) -> End:
    """Runs the job that the values files describe, and returns its end.

    `code` replaces the values' source; `port` is the tasks' first, None for any. Raises
    LauncherError(CONFIGURATION) with every mistake in the values, before it starts anything.
    """
    mistakes: list[str] = []
    values = read_values(files, mistakes)
    document = job_document(values, code, mistakes)
    env, elsewhere = task_env(values, os.environ, mistakes)
    job = job_from(document, port or 1, mistakes)
    offsets = [each - job.addresses.port for each in _ports(job)]
    job = job_from(document, port or _free_port(offsets), mistakes)
    _check_ports(job)
    if unused := left_out(values):
        say(f"these values have no effect in a local run: {', '.join(unused)}")
    for name in elsewhere:
        say(
            f"env {name} has a valueFrom, which only a cluster can read: tasks get {name} from "
            "your shell"
        )
    with tempfile.TemporaryDirectory(prefix="tfrun-") as folder:
        return _Run(job, env, Path(folder)).play()


def _ports(job: Job) -> list[int]:
    return [int(cluster_spec.address(job.addresses, task).rpartition(":")[2]) for task in job.tasks]


def _taken(ports: Sequence[int]) -> list[int]:
    taken = []
    for port in ports:
        with contextlib.closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except (OSError, OverflowError):
                taken.append(port)
    return taken


def _free_port(offsets: Sequence[int], but: Sequence[int] = ()) -> int:
    """A port from which all these offsets are free, below the range of clients' ports."""
    for _ in range(PORT_ATTEMPTS):
        first = random.randrange(10_000, 30_000)
        if first not in but and not _taken([first + offset for offset in offsets]):
            return first
    raise LauncherError(
        ExitCode.CONFIGURATION, "no free ports were found: give the first one with --port"
    )


def _check_ports(job: Job) -> None:
    if max(job.replicas.values()) > cluster_spec.PORTS_PER_ROLE:
        raise LauncherError(
            ExitCode.CONFIGURATION,
            f"local runs at most {cluster_spec.PORTS_PER_ROLE} tasks of a role",
        )
    taken = _taken(_ports(job))
    if taken:
        raise LauncherError(
            ExitCode.CONFIGURATION,
            f"ports {', '.join(map(str, taken))} are in use: give another --port, or leave it out",
        )


@dataclass(frozen=True)
class _Died:
    name: str
    process: subprocess.Popen[bytes]


class _Run:
    """The processes of one run. One queue gets all events: signals, and ends of processes."""

    def __init__(self, job: Job, env: Mapping[str, str], folder: Path) -> None:
        self.job = job
        self.env = env
        self.folder = folder
        self.events: queue.SimpleQueue[_Died | int] = queue.SimpleQueue()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.pumps: list[threading.Thread] = []
        self.width = max(len(name) for name in ["controller", *map(str, job.tasks)])
        self.output = threading.Lock()

    def play(self) -> End:
        signals.listen((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), self.events.put)
        adopt_orphans()
        (self.folder / "job.json").write_text(json.dumps(self.job.document))
        controller_port = _free_port([0], but=_ports(self.job))
        try:
            self._start_controller(controller_port)
            for task in self.job.tasks:
                self._start_task(task, controller_port)
            return self._follow(controller_port)
        finally:
            self._stop_all()

    def _follow(self, controller_port: int) -> End:
        tasks = {str(task): task for task in self.job.tasks}
        while True:
            event = self.events.get()
            if isinstance(event, int):
                reason = f"stopped by {signal.Signals(event).name}"
                say(f"{reason}: stopping all tasks")
                return End(Phase.STOPPED, signalled(event), reason)
            if event.name == "controller":
                return self._end(event.process.returncode)
            code = from_wait(event.process.returncode)
            if code == ExitCode.OK:
                continue  # the task knows the end of the run
            if code <= SIGNALLED:  # not killed: it would fail again
                reason = f"the launcher of {event.name} failed: {describe(code)}"
                return End(Phase.FAILED, code, reason, event.name)
            say(f"{event.name}: its launcher was {describe(code)}; restarting it")
            self._kill_orphans()
            self._start_task(tasks[event.name], controller_port)

    def _end(self, returncode: int) -> End:
        """The end of the run, from the controller's termination message."""
        try:
            message = json.loads((self.folder / "end.json").read_text())
        except (OSError, ValueError):
            return End(Phase.FAILED, int(ExitCode.BUG), f"the controller died: code {returncode}")
        return end_of(message)

    def _start_controller(self, port: int) -> None:
        self._start(
            "controller",
            {
                "TFRUN_JOB": str(self.folder / "job.json"),
                "TFRUN_LISTEN": f"{HOST}:{port}",
                "TFRUN_TERMINATION_LOG": str(self.folder / "end.json"),
            },
        )

    def _start_task(self, task: Task, controller_port: int) -> None:
        self._start(
            str(task),
            {
                "TFRUN_ROLE": task.role,
                "TFRUN_POD_NAME": str(task),
                "TFRUN_POD_IP": HOST,
                "TFRUN_CONTROLLER": f"{HOST}:{controller_port}",
                "TFRUN_WORK": str(self.folder / str(task)),
                "TFRUN_TERMINATION_LOG": "",
                "TFRUN_LEAVE": "true",
            },
            self.env,
        )

    def _start(
        self, name: str, variables: Mapping[str, str], given: Mapping[str, str] | None = None
    ) -> None:
        verb = "controller" if name == "controller" else "task"
        env = {k: v for k, v in os.environ.items() if not k.startswith("TFRUN_")}
        env.update(given or {})
        # We put this Python first, so that `python` means it, as in an active virtual environment.
        env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", "")])
        # As in a pod, where no PYTHON* variable reaches the launcher.
        argv = [sys.executable, "-I", "-u", "-X", "utf8", str(PACKAGE), verb]
        process = start(argv, {**env, **variables})
        assert process.stdout
        self.processes[name] = process
        pump = threading.Thread(target=self._pump, args=[name, process, process.stdout])
        pump.start()
        self.pumps.append(pump)

    def _pump(self, name: str, process: subprocess.Popen[bytes], stream: IO[bytes]) -> None:
        def show(line: bytes) -> None:
            with self.output, contextlib.suppress(OSError):
                sys.stdout.buffer.write(prefix + line + b"\n")
                sys.stdout.buffer.flush()

        prefix = f"{name:<{self.width}} | ".encode()
        each_line(stream, show)
        process.wait()
        self.events.put(_Died(name, process))

    def _stop_all(self) -> None:
        """Stops all processes: by SIGTERM; after grace, or at another signal, by SIGKILL."""
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + self.job.grace + 5
        while any(process.poll() is None for process in self.processes.values()):
            try:
                event = self.events.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if isinstance(event, int):
                break
        for process in self.processes.values():
            if process.poll() is None:
                _kill_tree(process.pid)
                process.wait()
        self._kill_orphans()
        for pump in self.pumps:
            pump.join()

    def _kill_orphans(self) -> None:
        """Kills children of killed launchers. In a pod they end with the container."""
        started = {process.pid for process in self.processes.values() if process.poll() is None}
        for orphan in psutil.Process().children():
            if orphan.pid not in started:
                _kill_tree(orphan.pid)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(orphan.pid, 0)


def _kill_tree(pid: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        for member in [*parent.children(recursive=True), parent]:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
