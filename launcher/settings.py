"""The only reader of the environment and of job.json.

Every mistake found is reported at once, in the user's words: the key, the rule, what was got.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from launcher.exits import Code, LauncherError
from launcher.identity import Task, task_of_pod
from launcher.modes import EVALUATOR, MODES, Mode
from launcher.reader import Reader

JOB_VERSION = 1
DEFAULT_PORT = 2222
MOST_TASKS = 100_000
SUCCESSES = ("AllWorkers", "Chief")
CLEANUPS = ("Delete", "Keep")
REFRESHES = ("OnRequest", "OnGeneration")  # when the code is pulled anew
SOURCES = ("nfs", "claim", "archive", "git", "inline", "image", "folder")
PULL_SECONDS = 120.0  # for which a source may be silent
INLINE_BYTES = 512 * 1024  # a ConfigMap, where job.json lives, holds 1 MiB
HEX_32, HEX_64, COMMIT = "[0-9a-f]{32}", "[0-9a-f]{64}", "[0-9a-f]{40}([0-9a-f]{24})?"
HOST = r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_][A-Za-z0-9._-]*)(:[0-9]{1,5})?"
# A password in an address would be read in values, logs and job.json.
ARCHIVE_URL = rf"(https?://{HOST}([/?][!-~]*)?|file:///\S+)"
ARCHIVE_RULE = "an http, https or file address, without a password (see code.secret)"
GIT_URL = rf"(https?://{HOST}/[!-~]+|ssh://([!-.0-9;-?A-~]+@)?{HOST}/\S+|file:///\S+)"
# A name that git takes for no option, and no other way to write one.
REF = r"[A-Za-z0-9_](?!.*\.\.)[A-Za-z0-9._/+-]*"
GIT_RULE = "an https, http, ssh or file address, without a password (see code.secret)"
TERMINATION_LOG = Path("/dev/termination-log")  # Kubernetes' default


@dataclass(frozen=True)
class Addresses:
    """Where tasks listen: a host name with {role} and {index}, and a port.

    With `ports_per_task` all tasks share one host and each has a port of its own.
    """

    host: str
    port: int
    ports_per_task: bool


@dataclass(frozen=True)
class Program:
    """The user's program. `working_dir` is relative to the code folder."""

    command: tuple[str, ...]
    args: tuple[str, ...]
    env: Mapping[str, str]
    flags: bool
    working_dir: str


@dataclass(frozen=True)
class Source:
    """Where the program's code is.

    `nfs` and `claim` are mounted by the kubelet and copied, a `claim` from the folder `path` in it;
    `folder` is copied; `archive` and `git` are fetched from `url`, and `pin` is the archive's
    SHA-256, or the commit, branch or tag; `inline` brings its `files`; `image` is used where it is.
    """

    kind: str
    path: str = ""
    server: str = ""
    claim: str = ""
    url: str = ""
    pin: str = ""
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def moves(self) -> bool:
        """Whether it has yet to be found out which commit is meant."""
        return self.kind == "git" and not matches(COMMIT, self.pin)

    def __str__(self) -> str:
        where = {
            "nfs": f" {self.server}:{self.path}",
            "claim": f" {self.claim}:/{self.path}",
            "git": f" {self.url} at {self.pin if self.moves else self.pin[:12]}",
            "inline": "",
        }
        return f"code.{self.kind}" + where.get(self.kind, f" {self.url or self.path}")


@dataclass(frozen=True)
class Delivery:
    """How the code gets to a task: from where, whether its requirements.txt is installed.

    Code with another digest than `digest` is refused, unless that is empty. `timeout` is how many
    seconds the source may be silent. `refresh` says that each generation of all tasks pulls anew.
    """

    source: Source
    requirements: bool
    digest: str
    timeout: float
    refresh: bool = False


@dataclass(frozen=True)
class Restarts:
    """How many failures of the program are forgiven, and the exit codes that never are.

    Each counts for `refill` seconds, or for ever where that is 0.
    """

    limit: int
    permanent_codes: tuple[int, ...]
    refill: float


@dataclass(frozen=True)
class Job:
    """The whole desired run, as the chart wrote it. `digest` names exactly this text.

    `success` says whose exit code 0 ends the run. `hang_timeout` and `deadline` are seconds, 0 for
    none. `listed` counts the tasks of each role that the ClusterSpec lists: with worker.maxReplicas
    more than there are. With `logs` a copy of each child's output goes to that folder.
    """

    release: str
    run: str
    mode: Mode
    replicas: Mapping[str, int]
    listed: Mapping[str, int]
    addresses: Addresses
    program: Program
    delivery: Delivery
    restarts: Restarts
    success: str
    chief_first: bool
    checkpoints: str
    hang_timeout: float
    deadline: float
    logs: str
    grace: float
    cleanup: str
    document: Mapping[str, Any]
    digest: str

    def resized(self, replicas: Mapping[str, int]) -> Job:
        """The same job with other counts of tasks."""
        return job_of({**self.document, "replicas": dict(replicas)})

    @functools.cached_property
    def tasks(self) -> tuple[Task, ...]:
        """Every task of the run, by role and index."""
        return tuple(Task(role, i) for role, n in self.replicas.items() for i in range(n))

    @functools.cached_property
    def program_digest(self) -> str:
        """Names what trains: children that were started for another one must start again."""
        policies = ("timeout", "refresh")
        code = {k: v for k, v in self.document["code"].items() if k not in policies}
        return _digest([*(self.document[key] for key in ("run", "mode", "program")), code])

    @property
    def source(self) -> Source:
        """Where the program's code is."""
        return self.delivery.source

    @functools.cached_property
    def cluster_digest(self) -> str:
        """Names the ClusterSpec."""
        return _digest([self.listed, self.document["addresses"]])


def read_job(text: str | bytes) -> Job:
    """The job that job.json describes. Raises LauncherError(CONFIGURATION) with every mistake."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise LauncherError(Code.CONFIGURATION, f"job.json is not JSON: {error}") from None
    return job_of(document)


def job_of(document: Any) -> Job:
    """The same for a document that is parsed already."""
    version = document.get("version") if isinstance(document, dict) else None
    if version != JOB_VERSION:
        raise LauncherError(
            Code.CONFIGURATION,
            f"job.json has version {json.dumps(version)}; this launcher reads version "
            f"{JOB_VERSION}: use a chart and a launcher of the same release "
            "(launcher.inject: true always does)",
        )
    mistakes: list[str] = []
    root = Reader(document, "", mistakes)
    root.asked.add("version")
    root.asked.add("pods")  # names the pods' templates: another text is another document
    mode = MODES[root.choice("mode", list(MODES))]
    addresses = root.part("addresses")
    program = root.part("program")
    restarts = root.part("restarts")
    replicas = _replicas(root.part("replicas"), mode)
    job = Job(
        release=root.text("release"),
        run=root.text("run"),
        mode=mode,
        replicas=replicas,
        listed=_listed(root.part("maxReplicas"), mode, replicas),
        addresses=Addresses(
            host=addresses.text("host"),
            port=addresses.whole("port", 1, 65535),
            ports_per_task=addresses.flag("portsPerTask", optional=True),
        ),
        program=_program(program),
        delivery=_delivery(root.part("code")),
        restarts=Restarts(
            limit=restarts.whole("limit", 0, 1_000_000),
            permanent_codes=_codes(restarts),
            refill=restarts.seconds("refill"),
        ),
        success=root.choice("success", SUCCESSES),
        chief_first=root.flag("chiefFirst"),
        checkpoints=root.text("checkpoints", empty=True),
        hang_timeout=root.seconds("hangTimeout"),
        deadline=root.seconds("deadline"),
        logs=root.text("logs", empty=True),
        grace=root.seconds("grace"),
        cleanup=root.choice("cleanup", CLEANUPS),
        document=document,
        digest=_digest(document),
    )
    for part in (root, addresses, restarts):
        part.done()
    _fail_with(mistakes, "the values")
    return job


def _digest(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:12]


def _replicas(part: Reader, mode: Mode) -> dict[str, int]:
    # Only one task may be the chief or the evaluator: TensorFlow knows no more.
    counts = {
        role: part.whole(role, least, 1 if role == "chief" else MOST_TASKS)
        for role, least in mode.least.items()
    }
    if part.document.get(EVALUATOR):
        counts[EVALUATOR] = part.whole(EVALUATOR, 0, 1)
    part.asked.add(EVALUATOR)
    part.done()
    return counts


def _listed(part: Reader, mode: Mode, replicas: Mapping[str, int]) -> dict[str, int]:
    """The tasks that the ClusterSpec lists: the evaluator is in none."""
    listed = {role: count for role, count in replicas.items() if role != EVALUATOR}
    most = part.whole("worker", 0, MOST_TASKS)
    if most and not mode.joins:
        part.wrong("worker", f"0 in mode {mode.name}: its tasks start again for another size", most)
    elif most and most < listed["worker"]:
        part.wrong("worker", f"0, or no less than the {listed['worker']} workers that run", most)
    part.done()
    return {**listed, "worker": max(most, listed["worker"])}


def _program(part: Reader) -> Program:
    def is_env(v: Any) -> bool:
        return isinstance(v, dict) and all(
            isinstance(name, str)
            and re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name)
            and isinstance(item, str)
            for name, item in v.items()
        )

    program = Program(
        command=part.texts("command", "a list of at least one text, like [python, train.py]", 1),
        args=part.texts("args", "a list of texts"),
        env=part.take("env", "a mapping of variables' names to texts", is_env, {}),
        flags=part.flag("flags"),
        working_dir=part.text("workingDir", empty=True),
    )
    if Path(program.working_dir).is_absolute() or ".." in Path(program.working_dir).parts:
        part.wrong("workingDir", "a folder inside the code folder", program.working_dir)
    words = {"command": program.command, "args": program.args, "env": program.env.values()}
    for key, texts in words.items():
        if any("\0" in text for text in texts):  # it ends a text where a process is started
            part.wrong(key, "without NUL characters", part.document[key])
    part.done()
    return program


def _delivery(part: Reader) -> Delivery:
    source = _source(part)
    timeout = part.seconds("timeout") if "timeout" in part.document else PULL_SECONDS
    digest = ""
    if "digest" in part.document:
        rule = "the digest that the launcher told of the code, 32 hexadecimal digits"
        digest = part.take("digest", rule, lambda v: matches(HEX_32, v), "")
    refresh = "refresh" in part.document and part.choice("refresh", REFRESHES) == REFRESHES[1]
    requirements = part.flag("requirements", optional=True)
    delivery = Delivery(source, requirements, digest, timeout, refresh)
    if digest and source.kind == "image":
        part.wrong("digest", "left out with code.image: the image's own digest names it", digest)
    part.asked.update((*SOURCES, "digest", "timeout", "refresh"))
    part.done()
    return delivery


def _source(part: Reader) -> Source:
    given = [kind for kind in SOURCES if kind in part.document]
    if len(given) != 1:
        part.wrong("", "exactly one source: " + ", ".join(SOURCES), given)
        return Source("image")
    kind = given[0]
    if kind == "inline":
        return Source(kind, files=_files(part))
    inner = part.part(kind)
    if kind == "claim":
        name = inner.text("name", "the claim's name")
        rule = "a folder inside the claim"
        path = inner.take("subPath", rule, lambda v: v in (None, "") or _is_inside(v), "")
        source = Source(kind, path or "", claim=name)
    elif kind == "archive":
        sha256 = "the archive's SHA-256, 64 hexadecimal digits"
        url = inner.take("url", ARCHIVE_RULE, lambda v: _is_address(ARCHIVE_URL, v), "")
        source = Source(
            kind,
            url=url,
            pin=inner.take("sha256", sha256, lambda v: matches(HEX_64, v), ""),
        )
    elif kind == "git":
        ref = "a branch, a tag, or a whole commit id"
        url = inner.take("url", GIT_RULE, lambda v: _is_address(GIT_URL, v), "")
        pin = inner.take("ref", ref, lambda v: matches(REF, v), "")
        source = Source(kind, url=url, pin=pin)
    else:
        rule = "an absolute path"
        path = inner.take("path", rule, lambda v: isinstance(v, str) and v.startswith("/"), "/")
        server = inner.text("server", "the NFS server's name") if kind == "nfs" else ""
        source = Source(kind, path, server)
    inner.done()
    return source


def _files(part: Reader) -> dict[str, str]:
    def fits(v: Any) -> bool:
        return (
            isinstance(v, dict)
            and bool(v)
            and all(_is_inside(name) and isinstance(text, str) for name, text in v.items())
        )

    files: dict[str, str] = part.take("inline", "texts by file names inside a folder", fits, {})
    for name in files:
        if any(str(folder) in files for folder in Path(name).parents):
            part.wrong("inline", "files alone, none of them a folder of others", name)
    size = _json_bytes(files)
    if size > INLINE_BYTES:
        part.wrong("inline", f"at most {INLINE_BYTES} bytes: it travels in a ConfigMap", size)
    return files


def _is_inside(name: Any) -> bool:
    """Whether a name is a path below some folder, whatever is there."""
    return (
        isinstance(name, str)
        and "\0" not in name
        and all(part not in ("", ".", "..") for part in name.split("/"))
    )


def _json_bytes(document: Any) -> int:
    """The size of a document as Helm writes it."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return len(re.sub("[<>&\u2028\u2029]", r"\\u0000", text).encode(errors="replace"))


def _is_address(pattern: str, value: Any) -> bool:
    """Whether it is an address that can be asked for, and of a pattern."""
    if not matches(pattern, value) or "\0" in unquote(value) or not value.isprintable():
        return False
    try:
        return urlsplit(str(value)).port != 0
    except ValueError:  # a port or an address of IP that is none
        return False


def matches(pattern: str, value: Any) -> bool:
    """Whether a value is a text of which the pattern matches all."""
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _codes(part: Reader) -> tuple[int, ...]:
    def fits(v: Any) -> bool:
        return isinstance(v, list) and all(type(c) is int and 1 <= c <= 255 for c in v)

    return tuple(part.take("permanentCodes", "a list of exit codes from 1 to 255", fits, []))


def _fail_with(mistakes: Sequence[str], where: str) -> None:
    if mistakes:
        raise LauncherError(
            Code.CONFIGURATION,
            f"{len(mistakes)} mistake{'s' if len(mistakes) > 1 else ''} in {where}:\n"
            + "\n".join(f"  {mistake}" for mistake in mistakes),
        )


@dataclass(frozen=True)
class TaskSettings:
    """What one task must know to begin.

    With `controller` (host, port) it asks there what to be part of; without, `job` says it.
    `source` is where a code folder is mounted, `secret` the Secret to fetch code with, `work` where
    the task may write.
    `leave` ends the launcher with the run instead of waiting to be deleted.
    """

    task: Task
    address: str
    revision: str
    controller: tuple[str, int] | None
    job: Job | None
    work: Path
    source: Path | None
    secret: Path | None
    leave: bool
    peers_timeout: float


@dataclass(frozen=True)
class KubernetesSettings:
    """The API server, and the namespace of the release."""

    host: str
    port: int
    namespace: str


@dataclass(frozen=True)
class ControllerSettings:
    """What the controller must know to begin; `kubernetes` only where it may scale."""

    job: Job
    listen: tuple[str, int]
    kubernetes: KubernetesSettings | None


class _Environment:
    """Takes typed values out of environment variables and collects every mistake."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.mistakes: list[str] = []

    def text(self, name: str, default: str = "") -> str:
        return self.environ.get(name) or default

    def required(self, name: str) -> str:
        if not self.environ.get(name):
            self.mistakes.append(f"{name} must be set")
        return self.environ.get(name, "")

    def whole(self, name: str, default: int | None, least: int, most: int) -> int:
        value = self.environ.get(name, "")
        if value == "" and default is not None:
            return default
        if value.isdecimal() and least <= int(value) <= most:
            return int(value)
        self.mistakes.append(f"{name} must be a whole number from {least} to {most}; got {value!r}")
        return least

    def host_and_port(self, name: str) -> tuple[str, int]:
        host, _, port = self.environ.get(name, "").rpartition(":")
        if host and port.isdecimal() and 0 <= int(port) <= 65535:
            return host, int(port)
        self.mistakes.append(f"{name} must be host:port; got {self.environ.get(name, '')!r}")
        return "", 0

    def flag(self, name: str) -> bool:
        value = self.environ.get(name, "")
        if value not in ("", "true", "false"):
            self.mistakes.append(f"{name} must be true or false; got {value!r}")
        return value == "true"


def termination_log(environ: Mapping[str, str]) -> Path | None:
    """Where Kubernetes reads how this container ended; None where nobody does."""
    given = environ.get("TFRUN_TERMINATION_LOG")
    if given is not None:
        return Path(given) if given else None
    return TERMINATION_LOG if TERMINATION_LOG.exists() else None


def task_settings(
    environ: Mapping[str, str], program: Sequence[str] = (), flags: bool = False
) -> TaskSettings:
    """The settings of `launcher task [--flags] [-- PROGRAM ...]`.

    Raises LauncherError(CONFIGURATION) with every mistake.
    """
    env = _Environment(environ)
    pod_name = env.text("TFRUN_POD_NAME") or env.text("HOSTNAME") or socket.gethostname()
    task = Task("worker", 0)
    try:
        task = task_of_pod(pod_name, environ.get("TFRUN_ROLE"))
    except ValueError as error:
        env.mistakes += error.args
    controller = env.host_and_port("TFRUN_CONTROLLER") if env.text("TFRUN_CONTROLLER") else None
    job = None
    if controller and (program or flags):
        env.mistakes.append(
            "a program on the command line must be left out where TFRUN_CONTROLLER is set: "
            "the controller says what to run"
        )
    if not controller:
        job = _standalone_job(env, task, pod_name, program, flags)
    source, secret = env.text("TFRUN_SOURCE"), env.text("TFRUN_SECRET")
    settings = TaskSettings(
        task=task,
        address=env.text("TFRUN_POD_IP"),
        revision=env.text("TFRUN_REVISION"),
        controller=controller,
        job=job,
        work=Path(env.text("TFRUN_WORK", "tfrun-work")).absolute(),
        source=Path(source) if source else None,
        secret=Path(secret) if secret else None,
        leave=env.flag("TFRUN_LEAVE"),
        peers_timeout=env.whole("TFRUN_PEERS_TIMEOUT", 600, 1, 10**6),
    )
    _fail_with(env.mistakes, "the environment")
    return settings


def _standalone_job(
    env: _Environment, task: Task, pod_name: str, program: Sequence[str], flags: bool
) -> Job | None:
    """The run that the environment alone describes, where no controller is named."""
    mode = MODES.get(env.text("TFRUN_MODE", "parameter-server"))
    if mode is None:
        env.mistakes.append(f"TFRUN_MODE must be one of {', '.join(MODES)}")
        return None
    replicas = {
        role: env.whole(f"{role.upper()}_REPLICAS", None, least, MOST_TASKS)
        for role, least in mode.least.items()
    }
    replicas[EVALUATOR] = env.whole("EVALUATOR_REPLICAS", 0, 0, 1)
    if not program:
        env.mistakes.append(
            "a program must follow --, like `launcher task -- python train.py`; "
            "or TFRUN_CONTROLLER must name a controller that says what to run"
        )
    host = env.text("TFRUN_HOST")
    if not host:
        suffix = f"{task.role}-{task.index}"
        base = pod_name[: -len(suffix)] if pod_name.endswith(suffix) else ""
        service = env.text("TFRUN_SERVICE")
        host = base + "{role}-{index}" + (f".{service}" if service else "")
    port = env.whole("TFRUN_PORT", DEFAULT_PORT, 1, 65535)
    grace = env.whole("TFRUN_GRACE", 25, 0, 10**6)
    if env.mistakes:
        return None
    if not task.index < replicas.get(task.role, 0):
        env.mistakes.append(
            f"{task.role.upper()}_REPLICAS must be more than this task's ordinal: this is "
            f"{task}; got {replicas.get(task.role, 0)}"
        )
        return None
    return job_of(
        {
            "version": JOB_VERSION,
            "release": pod_name,
            "run": "standalone",
            "mode": mode.name,
            "replicas": replicas,
            "maxReplicas": {"worker": 0},
            "addresses": {"host": host, "port": port},
            "program": {
                "command": list(program),
                "args": [],
                "env": {},
                "flags": flags,
                "workingDir": "",
            },
            "code": {"image": {"path": str(Path.cwd())}},
            "restarts": {"limit": 0, "permanentCodes": [], "refill": 0},
            "success": "AllWorkers",
            "chiefFirst": False,
            "checkpoints": "",
            "hangTimeout": 0,
            "deadline": 0,
            "logs": "",
            "grace": grace,
            "cleanup": "Keep",
        }
    )


def controller_settings(environ: Mapping[str, str]) -> ControllerSettings:
    """The settings of `launcher controller`. Raises LauncherError(CONFIGURATION)."""
    env = _Environment(environ)
    listen = env.host_and_port("TFRUN_LISTEN")
    kubernetes = None
    if env.flag("TFRUN_KUBERNETES"):
        kubernetes = KubernetesSettings(
            host=env.required("KUBERNETES_SERVICE_HOST"),  # in every pod
            port=env.whole("KUBERNETES_SERVICE_PORT", None, 1, 65535),
            namespace=env.required("TFRUN_NAMESPACE"),
        )
    path = env.text("TFRUN_JOB")
    text = b""
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        env.mistakes.append(f"TFRUN_JOB must name a readable job.json; got {path!r}: {error}")
    _fail_with(env.mistakes, "the environment")
    return ControllerSettings(
        job=read_job(text),
        listen=listen,
        kubernetes=kubernetes,
    )
