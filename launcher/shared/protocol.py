"""What task launchers and the controller say to each other: one JSON message each way.

A task posts a Report to /v1/report and is answered with the Directive it should hold. With
`long_poll` the controller keeps the request until there is another directive than the task holds:
a change reaches every task at once. Nothing that arrives is trusted for its size, type or value.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from launcher.shared.exits import ExitCode, LauncherError
from launcher.shared.identity import Task, parse_task
from launcher.shared.job import Job, job_of
from launcher.shared.json_fields import Reader, matches
from launcher.shared.sources import COMMIT, HEX_32

PATH = "/v1/report"
VERSION = 1
REPORT_BYTES = 64 * 1024
DIRECTIVE_BYTES = 2 * 1024 * 1024  # a ConfigMap, where job.json lives, holds 1 MiB
HOLD_SECONDS = 20.0  # how long the controller keeps a request with nothing new to say
ADDRESS = re.compile(r"[0-9.]{7,15}|[0-9a-fA-F:.]{2,45}")  # IPv4 or IPv6
MOST = 2**53  # the largest whole number that every JSON reader keeps


class Action(enum.Enum):
    """What a directive asks for."""

    WAIT = "wait"  # run no child; get the code that this generation needs
    RUN = "run"  # run the child of this generation
    STAND_IN = "stand-in"  # the program has ended; run a server at its place in the ClusterSpec
    END = "end"  # the run has ended


@dataclass(frozen=True, order=True)
class Leader:
    """Which controller leads. Of two that are alive for a moment the greater one does."""

    number: int
    id: str


@dataclass(frozen=True)
class Directive:
    """What a task should be part of.

    `charged` is the restart budget spent so far. `pull` says which pull of the run's code the task
    is to have, `commit` what a branch of code.git means, where that has been found out. `hosts` are
    the addresses of tasks whose names may still mean an older pod.
    """

    leader: Leader
    action: Action
    generation: int
    charged: int
    job: Job
    pull: int = 0
    commit: str = ""
    hosts: Mapping[Task, str] = field(default_factory=dict)

    def holds(self) -> Holds:
        """What a task that follows this directive reports that it holds."""
        job = self.job
        return Holds(
            self.leader,
            self.action,
            self.generation,
            self.charged,
            job.run,
            job.digest,
            job.program_digest,
            job.cluster_digest,
            self.pull,
            self.commit,
            self.hosts.get(job.mode.chief, ""),
        )


@dataclass(frozen=True)
class Holds:
    """The directive that a task follows, with digests in the place of its job.

    `chief` is the address of the chief, where it is known.
    """

    leader: Leader
    action: Action
    generation: int
    charged: int
    run: str
    job_digest: str
    program_digest: str
    cluster_digest: str
    pull: int = 0
    commit: str = ""
    chief: str = ""


@dataclass(frozen=True)
class ChildReport:
    """A task's latest child. `exit_code` is None while it runs.

    `stopped` says that the launcher ended it, `reason` and `last_lines` what a person should
    see, `ago` how many seconds before this report it ended: clocks of two machines differ. `up`
    says that its session trains, `hung` that it makes no progress, `global_step` the last
    step that it told, `total_steps` how many there will be.
    """

    generation: int
    exit_code: int | None = None
    stopped: bool = False
    ago: float = 0.0
    reason: str = ""
    last_lines: tuple[str, ...] = ()
    up: bool = False
    hung: bool = False
    global_step: int | None = None
    total_steps: int | None = None


@dataclass(frozen=True)
class Report:
    """What a task says of itself.

    `incarnation` is new with every start of the launcher, `sequence` grows with every report of
    one incarnation; `revision` names its pod's template. `can_start` says that the code is there
    and the launcher is not about to end; `digest` is the code's, where it has one, and `commit`
    what a branch was found to mean. `stands_in` says that a server runs in the place of the
    program, which has ended. With `long_poll` the controller may keep the request.
    """

    task: Task
    incarnation: str
    sequence: int
    address: str
    revision: str
    holds: Holds | None
    child: ChildReport | None
    can_start: bool
    stands_in: bool = False
    long_poll: bool = False
    digest: str = ""
    commit: str = ""


def encode_report(report: Report) -> bytes:
    """The JSON text of a report. Above REPORT_BYTES the oldest lines give way, then the reason."""
    holds, child = report.holds, report.child
    document = {
        **asdict(report),
        "version": VERSION,
        "task": str(report.task),
        "holds": {**asdict(holds), "action": holds.action.value} if holds else None,
    }
    text = json.dumps(document).encode()
    if len(text) <= REPORT_BYTES or child is None or not (child.last_lines or child.reason):
        return text
    if child.last_lines:
        shorter = replace(child, last_lines=child.last_lines[1:])
    else:
        shorter = replace(child, reason=child.reason[: len(child.reason) // 2])
    return encode_report(replace(report, child=shorter))


def decode_report(text: bytes) -> Report:
    """The report in a JSON text. Raises LauncherError(USAGE) with every mistake."""
    mistakes: list[str] = []
    root = _root(text, mistakes)
    holds = _holds(root.part("holds")) if root.document.get("holds") is not None else None
    child = _child(root.part("child")) if root.document.get("child") is not None else None
    name = root.text("task")
    report = Report(
        task=Task("worker", 0),
        incarnation=root.text("incarnation"),
        sequence=root.whole("sequence", 0, MOST),
        address=root.take("address", "an IP address", lambda v: v == "" or _is_address(v), ""),
        revision=root.text("revision", empty=True),
        holds=holds,
        child=child,
        can_start=root.flag("can_start"),
        stands_in=root.flag("stands_in"),
        long_poll=root.flag("long_poll"),
        digest=root.take("digest", "a digest", lambda v: matches(f"({HEX_32})?", v), ""),
        commit=_commit(root),
    )
    try:
        task = parse_task(name)
    except ValueError as error:
        task = report.task
        mistakes.append(f"task {error}")
    _refuse(mistakes)
    return Report(**{**vars(report), "task": task})


def encode_directive(directive: Directive | None) -> bytes:
    """The JSON text of an answer; None means: go on with what you hold."""
    if directive is None:
        return json.dumps({"version": VERSION, "directive": None}).encode()
    document = {
        "leader": asdict(directive.leader),
        "action": directive.action.value,
        "generation": directive.generation,
        "charged": directive.charged,
        "pull": directive.pull,
        "commit": directive.commit,
        "job": directive.job.document,
        "hosts": {str(task): host for task, host in directive.hosts.items()},
    }
    return json.dumps({"version": VERSION, "directive": document}).encode()


def decode_directive(text: bytes) -> Directive | None:
    """The answer in a JSON text. Raises LauncherError with every mistake."""
    mistakes: list[str] = []
    root = _root(text, mistakes)
    if not mistakes and root.document.get("directive") is None:
        return None
    _refuse(mistakes)
    part = root.part("directive")
    job = job_of(part.document.get("job"))  # another version's job explains all else
    leader = _leader(part.part("leader"))
    action = Action(part.choice("action", [a.value for a in Action]))
    generation = part.whole("generation", 0, MOST)
    charged = part.whole("charged", 0, MOST)
    pull = part.whole("pull", 0, MOST)
    commit = _commit(part)
    hosts = _hosts(part.part("hosts"))
    _refuse(mistakes)
    return Directive(leader, action, generation, charged, job, pull, commit, hosts)


def _root(text: bytes, mistakes: list[str]) -> Reader:
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LauncherError(ExitCode.USAGE, f"the message is not JSON: {error}") from None
    root = Reader(document, "", mistakes)
    root.take("version", f"{VERSION}", lambda v: v == VERSION, VERSION)
    return root


def _hosts(part: Reader) -> dict[Task, str]:
    hosts = {}
    for name in part.document:
        host = part.take(name, "an IP address", _is_address, "")
        try:
            hosts[parse_task(name)] = host
        except ValueError as error:
            part.mistakes.append(f"a key of hosts {error}")
    return hosts


def _is_address(value: Any) -> bool:
    return isinstance(value, str) and ADDRESS.fullmatch(value) is not None


def _leader(part: Reader) -> Leader:
    return Leader(part.whole("number", 0, MOST), part.text("id"))


def _holds(part: Reader) -> Holds:
    return Holds(
        leader=_leader(part.part("leader")),
        action=Action(part.choice("action", [a.value for a in Action])),
        generation=part.whole("generation", 0, MOST),
        charged=part.whole("charged", 0, MOST),
        run=part.text("run"),
        job_digest=part.text("job_digest"),
        program_digest=part.text("program_digest"),
        cluster_digest=part.text("cluster_digest"),
        pull=part.whole("pull", 0, MOST),
        commit=_commit(part),
        chief=part.take("chief", "an IP address", lambda v: v == "" or _is_address(v), ""),
    )


def _commit(part: Reader) -> str:
    # It reaches git's command line.
    rule = "a whole commit id, or empty"
    commit: str = part.take("commit", rule, lambda v: v == "" or matches(COMMIT, v), "")
    return commit


def _child(part: Reader) -> ChildReport:
    def maybe(key: str, most: int) -> int | None:
        return None if part.document.get(key) is None else part.whole(key, 0, most)

    return ChildReport(
        generation=part.whole("generation", 0, MOST),
        exit_code=maybe("exit_code", 255),
        stopped=part.flag("stopped"),
        ago=part.seconds("ago"),
        reason=part.text("reason", empty=True),
        last_lines=part.texts("last_lines", "a list of texts"),
        up=part.flag("up"),
        hung=part.flag("hung"),
        global_step=maybe("global_step", MOST),
        total_steps=maybe("total_steps", MOST),
    )


def _refuse(mistakes: list[str]) -> None:
    if mistakes:
        raise LauncherError(ExitCode.USAGE, "the message is wrong: " + "; ".join(mistakes))
