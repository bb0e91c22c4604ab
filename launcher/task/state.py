"""The state of a task, its events and its effects. Pure.

`State` is all that the next step depends on. Events come in and effects go out: see `step`. The
functions answer questions about a State for more than one module.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Union

from launcher.shared.exits import End
from launcher.shared.identity import Task
from launcher.shared.protocol import Action, ChildReport, Directive, Report


class Activity(enum.Enum):
    """What a task does: one thing at a time, or nothing. Each activity ends with an event.

    A directive that asks for a child leads through these activities, as far as they are needed:

        PULLING      -- CodePulled -----> the code of this run is there
        REACHING     -- PeersReached ---> the servers of this generation can be found
        RUNNING      -- ChildEnded -----> reported; another generation starts another child
        STANDING_IN  -- ChildEnded -----> nothing: the program of this task has already ended

    The event Failed ends PULLING and REACHING, and an activity whose child could not start; the
    task reports it as a child that has ended. A directive that asks for something else cancels a
    preparation or stops a child; the next activity begins when that has ended.
    """

    PULLING = "pulls the code"
    REACHING = "waits until its peers can be reached"
    RUNNING = "runs the child of its generation: the program, or the server of a task that serves"
    STANDING_IN = "runs a server in the place of its program, which has ended"


CHILDREN = frozenset({Activity.RUNNING, Activity.STANDING_IN})


@dataclass(frozen=True)
class Doing:
    """An activity, the directive that it serves, and whether it was told to end."""

    activity: Activity
    directive: Directive
    ending: bool = False


@dataclass(frozen=True)
class Code:
    """The code in the pod: its run, the number of its pull, its digest, and its commit."""

    run: str
    pull: int
    digest: str
    commit: str


@dataclass(frozen=True)
class State:
    """All that a task's next step depends on.

    The first four say who the task is: `incarnation` is new with every start of the launcher,
    `address` is the pod's IP address, `revision` names the pod's template. `alone` says that no
    controller leads it, `leaves` that its launcher ends with the run.
    """

    task: Task
    incarnation: str
    address: str = ""
    revision: str = ""
    alone: bool = False
    leaves: bool = False
    directive: Directive | None = None  # the latest one, which the task follows
    doing: Doing | None = None
    code: Code | None = None
    child: ChildReport | None = None  # the latest child, stand-ins not counted
    ended_at: float = 0.0  # when that child ended, in seconds of the task's clock
    failed: tuple[int, int] | None = None  # generation and pull of a failed preparation
    reached: int | None = None  # the generation whose peers were reached
    stood_in: int | None = None  # the generation of the last stand-in
    told_at: float = 0.0  # when it last reported progress, in seconds of the task's clock
    leaving: int | None = None  # the signal that told the launcher to end
    leave_by: float = 0.0  # when the grace period is over, in seconds of the task's clock
    chief_left: bool = False  # while leaving: the chief is no longer connected
    quiet_since: float | None = None  # since when the child makes no progress, if that is long
    called: str = ""  # the run whose chief has connected to this task while it waited


@dataclass(frozen=True)
class Told:
    """The controller has sent a directive."""

    directive: Directive


@dataclass(frozen=True)
class Signalled:
    """The launcher has received a signal, `at` seconds of the task's clock."""

    number: int
    at: float


@dataclass(frozen=True)
class CodePulled:
    """The code is in the pod."""

    digest: str
    commit: str


@dataclass(frozen=True)
class PeersReached:
    """The names of the peers resolve; if the program needs it, their ports answer too."""


@dataclass(frozen=True)
class Failed:
    """A preparation has failed, or a child could not start."""

    exit_code: int
    reason: str
    last_lines: tuple[str, ...]
    at: float


@dataclass(frozen=True)
class ChildEnded:
    """The child has ended, `at` seconds of the task's clock. The steps are its program's last."""

    exit_code: int
    last_lines: tuple[str, ...]
    at: float
    global_step: int | None = None
    total_steps: int | None = None


@dataclass(frozen=True)
class Seen:
    """The launcher has looked at the program's output, `at` seconds of the task's clock.

    `up` says that the program's session trains. The program has made no progress for `quiet`
    seconds.
    """

    at: float
    up: bool
    quiet: float
    global_step: int | None = None
    total_steps: int | None = None
    epoch: str = ""
    last_lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class ChiefLeft:
    """The chief is no longer connected to this server, or the grace period is over."""


@dataclass(frozen=True)
class ChiefCalled:
    """A host has connected to this task while its program waits. It need not be the chief."""

    host: str


Event = Union[
    Told, Signalled, CodePulled, PeersReached, Failed, ChildEnded, Seen, ChiefLeft, ChiefCalled
]


@dataclass(frozen=True)
class Say:
    """Effect: write a line to the log."""

    text: str


@dataclass(frozen=True)
class Tell:
    """Effect: send the controller a new report."""


@dataclass(frozen=True)
class Pull:
    """Effect: pull the code in place of the last copy. CodePulled or Failed follows."""

    directive: Directive


@dataclass(frozen=True)
class ReachPeers:
    """Effect: wait until the peers can be reached. PeersReached or Failed follows."""

    directive: Directive


@dataclass(frozen=True)
class Cancel:
    """Effect: cancel the preparation. Its own event still follows."""


@dataclass(frozen=True)
class StartProgram:
    """Effect: start the user's program. ChildEnded or Failed follows."""

    directive: Directive


@dataclass(frozen=True)
class StartServer:
    """Effect: start the built-in TensorFlow server. ChildEnded or Failed follows."""

    directive: Directive


@dataclass(frozen=True)
class Stop:
    """Effect: send the child this signal, and SIGKILL when the grace period is over."""

    number: int


@dataclass(frozen=True)
class Send:
    """Effect: send the child this signal."""

    number: int


@dataclass(frozen=True)
class Leave:
    """Effect: send a last report, and end the launcher."""

    end: End


Effect = Union[Say, Tell, Pull, ReachPeers, Cancel, StartProgram, StartServer, Stop, Send, Leave]
Step = tuple[State, tuple[Effect, ...]]


def report(state: State, sequence: int, now: float) -> Report:
    """The task's report, `now` seconds of its clock."""
    child, directive, code = state.child, state.directive, state.code
    if child and child.exit_code is not None:
        child = replace(child, ago=now - state.ended_at)
    elif child and state.quiet_since is not None:
        child = replace(child, quiet=now - state.quiet_since)
    return Report(
        task=state.task,
        incarnation=state.incarnation,
        sequence=sequence,
        address=state.address,
        revision=state.revision,
        holds=directive.holds() if directive else None,
        child=child,
        # A task that leaves starts nothing, whatever the directive says.
        can_start=directive is not None and state.leaving is None and has_code(state, directive),
        stands_in=state.doing is not None and state.doing.activity is Activity.STANDING_IN,
        called=directive is not None and state.called == directive.job.run,
        long_poll=True,
        digest=code.digest if code else "",
        commit=code.commit if code else "",
    )


def has_code(state: State, directive: Directive, starts: bool = False) -> bool:
    """Whether the task has the code; a server may need it, but only to start."""
    job = directive.job
    if not job.mode.runs_program(state.task) and not (starts and job.server_needs_code):
        return True
    code = state.code
    return code is not None and (code.run, code.pull) == (job.run, directive.pull)


def is_chief(state: State) -> bool:
    """Whether the task is the chief of its run."""
    return state.directive is not None and state.directive.job.mode.chief == state.task


def has_child(state: State) -> bool:
    """Whether a child process runs."""
    return state.doing is not None and state.doing.activity in CHILDREN


def awaits_call(state: State) -> bool:
    """Whether the task waits, perhaps for a chief whose session needs this task's program."""
    directive = state.directive
    if not directive or directive.action is not Action.WAIT or state.leaving is not None:
        return False
    job, task = directive.job, state.task
    may = job.chief_first and job.mode.chief_first and job.mode.decides_success(task)
    return may and not (state.doing or is_chief(state) or state.called == job.run)


def awaits_chief(state: State) -> bool:
    """Whether the task leaves but still serves a chief that may save: it stops after the chief."""
    directive, doing = state.directive, state.doing
    if state.leaving is None or state.chief_left or not directive or not doing or doing.ending:
        return False
    mode = directive.job.mode
    serves = has_child(state) and not mode.runs_program(state.task)
    if directive.action is Action.END or not serves or not directive.hosts.get(mode.chief):
        return False
    return mode.chief in mode.reached([state.task], directive.job.tasks)
