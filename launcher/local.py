"""A whole run as processes on 127.0.0.1: the same controller, the same tasks, the same values.

What only a cluster has (images, volumes, resources, pods) is left out.
"""

from __future__ import annotations

import contextlib
import decimal
import hashlib
import json
import os
import queue
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil
import yaml

from launcher import cluster, signals
from launcher.child import adopt_orphans
from launcher.exits import Code, End, LauncherError, Phase, describe, from_wait
from launcher.identity import Task
from launcher.log import say
from launcher.modes import EVALUATOR, MODES
from launcher.settings import JOB_VERSION, Job, job_of

PACKAGE = Path(__file__).absolute().parent
# The chart's own defaults: beside the launcher in a wheel, in the chart in a checkout.
DEFAULTS = (PACKAGE / "values.yaml", PACKAGE.parent / "charts" / "tfrun" / "values.yaml")
# Values whose keys are Kubernetes' or the user's own.
FREE = {"env", "inline", "pod", "resources", "podSecurityContext", "securityContext"}
# Sources, each by the keys that fill it in.
SOURCES = {
    "nfs": ("server", "path"),
    "claim": ("name", "subPath"),
    "archive": ("url", "sha256"),
    "git": ("url", "ref"),
    "image": ("path",),
}
# What job.json takes from the values as it stands.
POLICIES = (
    "restarts",
    "success",
    "chiefFirst",
    "checkpoints",
    "hangTimeout",
    "deadline",
    "logs",
    "grace",
    "cleanup",
)
HOST = "127.0.0.1"
PORT_ATTEMPTS = 50


def run(files: Sequence[Path], code: Path | None, port: int | None) -> End:
    """Runs the job of some values files and returns its end.

    Raises LauncherError with every mistake in the values, before anything is started.
    """
    mistakes: list[str] = []
    document = _document(_values(files, mistakes), code, mistakes)
    job = _job(document, port or 1, mistakes)
    offsets = [each - job.addresses.port for each in _ports(job)]
    job = _job(document, port or _free_port(offsets), mistakes)
    _check_ports(job)
    with tempfile.TemporaryDirectory(prefix="tfrun-") as folder:
        return _Run(job, Path(folder)).play()


def _values(files: Sequence[Path], mistakes: list[str]) -> dict[str, Any]:
    defaults = _load(next(path for path in DEFAULTS if path.exists()))
    values = defaults
    for file in files:
        given = _load(file)
        mistakes += [f"{mistake} in {file}" for mistake in _mistakes(given, defaults)]
        values = _merge(values, given)
    return values


def _load(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text()) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise LauncherError(
            Code.CONFIGURATION, f"{path} must be a readable YAML file: {error}"
        ) from None
    if not isinstance(document, dict):
        raise LauncherError(Code.CONFIGURATION, f"{path} must hold a mapping of values")
    return document


def _mistakes(given: Mapping[str, Any], known: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, value in given.items():
        if key not in known:
            yield f"{path}{key} must be left out: it is not a known key"
        elif isinstance(known[key], dict) and isinstance(value, dict):
            if key not in FREE:
                yield from _mistakes(value, known[key], f"{path}{key}.")
        elif isinstance(known[key], dict) and value is not None:
            yield f"{path}{key} must be a mapping; got {json.dumps(value, default=str)}"


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Values as Helm merges them.

    Mappings by key, and nothing else replaces a mapping; null takes a key away.
    """
    merged = {key: value for key, value in below.items() if above.get(key, value) is not None}
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            merged[key] = _merge(below[key], value)
        elif value is not None and not isinstance(below.get(key), dict):
            merged[key] = value
    return merged


def _job(document: dict[str, Any], port: int, mistakes: Sequence[str]) -> Job:
    """The job with its tasks from this port on. Raises LauncherError with every mistake."""
    document["addresses"]["port"] = port
    try:
        job = job_of(document)
    except LauncherError as error:
        # The values say worker.replicas where job.json says replicas.worker.
        text = re.sub(r"\b(replicas|maxReplicas)\.(\w+)", r"\2.\1", error.reason)
        raise LauncherError(error.code, "\n".join([*mistakes, text])) from None
    if mistakes:
        raise LauncherError(Code.CONFIGURATION, "\n".join(mistakes))
    return job


def _document(values: Mapping[str, Any], code: Path | None, mistakes: list[str]) -> dict[str, Any]:
    """The job.json that the chart renders of the same values, but for where tasks and code are."""
    program = values.get("program") or {}
    document = {
        "version": JOB_VERSION,
        "release": "local",
        "mode": values.get("mode"),
        "replicas": {role: _replicas(values, role) for role in _roles(values)},
        "maxReplicas": {"worker": (values.get("worker") or {}).get("maxReplicas")},
        "addresses": {"host": HOST, "port": 1, "portsPerTask": True},
        "program": {
            **program,
            "command": _texts(program.get("command")),
            "args": _texts(program.get("args")),
            "env": _texts(program.get("env") or {}),  # null takes every variable away
        },
        "code": _code(values.get("code") or {}, code, mistakes),
        **{key: values.get(key) for key in POLICIES},
    }
    document["run"] = hashlib.sha256(json.dumps(document).encode()).hexdigest()[:12]
    return document


def _code(named: Mapping[str, Any], folder: Path | None, mistakes: list[str]) -> dict[str, Any]:
    """The source that is filled in, or the folder in its place; the rest as the chart has it."""
    source = {
        kind: {key: text for key, text in (named.get(kind) or {}).items() if text}
        for kind, keys in SOURCES.items()
        if any((named.get(kind) or {}).get(key) for key in keys)
    }
    if named.get("inline"):
        source["inline"] = named["inline"]
    if folder:
        source = {"folder": {"path": str(folder.absolute())}}
        if not folder.is_dir():
            mistakes.append(f"--code must name a folder; got {str(folder)!r}")
    elif not source or source.keys() & {"nfs", "claim"}:
        source = {"image": {"path": "/"}}
        mistakes.append(
            "--code must name the folder of the program: only a cluster mounts code.nfs and "
            "code.claim"
        )
    elif named.get("secret"):
        mistakes.append("--code must name the folder of the program: only a cluster has Secrets")
    options = {key: named[key] for key in ("requirements", "digest") if named.get(key)}
    return {**source, **options, "timeout": named.get("timeout"), "refresh": named.get("refresh")}


def _texts(value: Any) -> Any:
    if isinstance(value, list):
        return [_text(item) for item in value]
    if isinstance(value, dict):
        return {key: _text(item) for key, item in value.items()}
    return value


def _roles(values: Mapping[str, Any]) -> list[str]:
    """The roles that the mode has, and the evaluator where there is one."""
    # Of a mode that there is not job_of thinks as of the first, and names what else is wrong.
    mode = MODES.get(str(values.get("mode")), next(iter(MODES.values())))
    roles = list(mode.least)
    return [*roles, EVALUATOR] if (values.get(EVALUATOR) or {}).get("replicas") else roles


def _replicas(values: Mapping[str, Any], role: str) -> Any:
    """How many tasks; the values need not say that there is one chief."""
    return 1 if role == "chief" else (values.get(role) or {}).get("replicas")


def _text(scalar: Any) -> Any:
    """A scalar as the chart writes it, by Go's rules for JSON: true, 1 for 1.0, 0.00001."""
    if isinstance(scalar, float) and (scalar == 0 or 1e-6 <= abs(scalar) < 1e21):
        text = format(decimal.Decimal(repr(scalar)), "f")
        return text[:-2] if text.endswith(".0") else text
    if isinstance(scalar, float):
        return re.sub("e-0([1-9])$", r"e-\1", repr(scalar))
    if isinstance(scalar, (bool, int)):
        return json.dumps(scalar)
    return scalar


def _ports(job: Job) -> list[int]:
    return [int(cluster.address(job.addresses, task).rpartition(":")[2]) for task in job.tasks]


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
    """A first port so that all at these offsets are free; below the range of clients' own."""
    for _ in range(PORT_ATTEMPTS):
        first = random.randrange(10_000, 30_000)
        if first not in but and not _taken([first + offset for offset in offsets]):
            return first
    raise LauncherError(Code.CONFIGURATION, "no free ports were found: name a first one, --port")


def _check_ports(job: Job) -> None:
    if max(job.replicas.values()) > cluster.PORTS_PER_ROLE:
        raise LauncherError(
            Code.CONFIGURATION, f"local runs at most {cluster.PORTS_PER_ROLE} tasks of a role"
        )
    taken = _taken(_ports(job))
    if taken:
        raise LauncherError(
            Code.CONFIGURATION,
            f"ports must be free; taken are {', '.join(map(str, taken))}: name another --port, "
            "or leave it out",
        )


@dataclass(frozen=True)
class _Died:
    name: str
    process: subprocess.Popen[bytes]


class _Run:
    """The processes of one run. Everything that happens is an event in one queue."""

    def __init__(self, job: Job, folder: Path) -> None:
        self.job = job
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
                return End(Phase.STOPPED, 128 + event, reason)
            if event.name == "controller":
                return self._end(event.process.returncode)
            code = from_wait(event.process.returncode)
            if code == Code.OK:
                continue  # it has heard of the end
            if code <= 128:  # its own failure, and it would fail again
                reason = f"the launcher of {event.name} failed: {describe(code)}"
                return End(Phase.FAILED, code, reason, event.name)
            say(f"{event.name}: its launcher was {describe(code)}; it is started again")
            self._kill_orphans()
            self._start_task(tasks[event.name], controller_port)

    def _end(self, returncode: int) -> End:
        """The run's end as the controller's termination message says it."""
        try:
            message = json.loads((self.folder / "end.json").read_text())
        except (OSError, ValueError):
            return End(Phase.FAILED, int(Code.BUG), f"the controller died: {returncode}")
        return End(
            Phase(message["phase"]),
            message["code"],
            message["reason"],
            message["task"],
            tuple(message["lastLines"]),
        )

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
        )

    def _start(self, name: str, variables: Mapping[str, str]) -> None:
        verb = "controller" if name == "controller" else "task"
        env = {k: v for k, v in os.environ.items() if not k.startswith("TFRUN_")}
        # `python` means the one that runs this, as in an activated virtual environment.
        env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", "")])
        paths = [str(PACKAGE.parent), env.get("PYTHONPATH", "")]
        env["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        process = subprocess.Popen(
            [sys.executable, "-m", "launcher", verb],
            env={**env, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C reaches this process alone, which stops all
        )
        assert process.stdout
        self.processes[name] = process
        pump = threading.Thread(target=self._pump, args=[name, process, process.stdout])
        pump.start()
        self.pumps.append(pump)

    def _pump(self, name: str, process: subprocess.Popen[bytes], stream: IO[bytes]) -> None:
        prefix = f"{name:<{self.width}} | ".encode()
        for line in stream:
            with self.output, contextlib.suppress(OSError):
                sys.stdout.buffer.write(prefix + line.rstrip(b"\n") + b"\n")
                sys.stdout.buffer.flush()
        process.wait()
        self.events.put(_Died(name, process))

    def _stop_all(self) -> None:
        """Every task has its grace; then, or when asked once more, nothing is left alive."""
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
        """Ends what launchers left behind that were killed; in a pod the container's end does."""
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
