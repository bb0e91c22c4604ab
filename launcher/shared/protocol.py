"""The messages between task launchers and the controller: one JSON message each way.

A task posts a Report to /v1/report; the answer is the Directive that it should follow. With
`long_poll` the controller keeps the request until the task should follow another directive, for at
most HOLD_SECONDS: a change reaches every task at once. Size, type and value of all that arrives are
verified.
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
HOLD_SECONDS = 20.0  # how long the controller keeps a request if nothing changes
QUIET_SECONDS = 60.0  # a program that makes no progress for so long is reported
ADDRESS = re.compile(r"[0-9.]{7,15}|[0-9a-fA-F:.]{2,45}")  # IPv4 or IPv6
MOST = 2**53  # the largest whole number that every JSON reader keeps exact


class Action(enum.Enum):
    """What a directive asks for."""

    WAIT = "wait"  # run no child; pull the code that this generation needs
    RUN = "run"  # run the child of this generation
    STAND_IN = "stand-in"  # the program has ended; run a server at its place in the ClusterSpec
    END = "end"  # the run has ended


@dataclass(frozen=True, order=True)
class Leader:
    """A controller. If two are alive for a moment, the greater one leads."""

    number: int
    id: str


@dataclass(frozen=True)
class Directive:
    """What a task should do.

    `charged` is the restart budget spent so far. `pull` numbers the pull of the run's code that the
    task needs. `commit` is the commit of code.git's branch, once resolved. `hosts` are the IP
    addresses of tasks whose names may still resolve to an older pod.
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
        """What a task that follows this directive reports as `holds`."""
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
    """The directive that a task follows, with digests instead of its job.

    `chief` is the chief's IP address, if it is known.
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

    `stopped` says that the launcher stopped it. `reason` and `last_lines` are for people. It ended
    `ago` seconds before this report: a time would be wrong on a machine with another clock. `up`
    says that its session trains, `hung` that it makes no progress for too long. `quiet` is for how
    many seconds it has made none, 0 for less than QUIET_SECONDS. `global_step` is the last step
    that it printed, `total_steps` how many it will do.
    """

    generation: int
    exit_code: int | None = None
    stopped: bool = False
    ago: float = 0.0
    reason: str = ""
    last_lines: tuple[str, ...] = ()
    up: bool = False
    hung: bool = False
    quiet: float = 0.0
    global_step: int | None = None
    total_steps: int | None = None
    epoch: str = ""


@dataclass(frozen=True)
class Report:
    """What a task reports about itself.

    `incarnation` is new with every start of the launcher, `sequence` grows with every report of
    one incarnation; `revision` identifies the pod's template. `can_start` says that the task has
    the code and its launcher is not about to end. `digest` is the code's, `commit` the one to which
    a branch was resolved; both can be empty. `stands_in` says that a server runs instead of the
    program, which has ended. `called` says that the chief of this run has connected to this task
    before its program ran: the chief's session needs it. With `long_poll` the controller may keep
    the request.
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
    called: bool = False
    long_poll: bool = False
    digest: str = ""
    commit: str = ""


def encode_report(report: Report) -> bytes:
    """A report as JSON. Above REPORT_BYTES it drops the oldest lines, then cuts the reason."""
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
    """Parses a report. Raises LauncherError(USAGE) with every mistake."""
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
        called=root.flag("called", optional=True),
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
    """An answer as JSON; None means that the task keeps the directive that it holds."""
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
    """Parses an answer. Raises LauncherError with every mistake."""
    mistakes: list[str] = []
    root = _root(text, mistakes)
    if not mistakes and root.document.get("directive") is None:
        return None
    _refuse(mistakes)
    part = root.part("directive")
    job = job_of(part.document.get("job"))  # a job of another version explains other mistakes
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
    # Verified, because it becomes an argument of git.
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
        last_lines=part.texts("last_lines", "a list of strings"),
        up=part.flag("up"),
        hung=part.flag("hung"),
        quiet=part.seconds("quiet") if "quiet" in part.document else 0.0,
        global_step=maybe("global_step", MOST),
        total_steps=maybe("total_steps", MOST),
        epoch=part.text("epoch", empty=True) if "epoch" in part.document else "",
    )


def _refuse(mistakes: list[str]) -> None:
    if mistakes:
        raise LauncherError(ExitCode.USAGE, "the message is invalid: " + "; ".join(mistakes))
