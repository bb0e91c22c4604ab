"""What a task knows of itself, what happens to it, and what shall be done. Pure.

`State` is all that its next step depends on. Events come in, effects go out: see `step`. The
functions are the questions about a State that more than one module asks.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Union

from launcher.shared.exits import End
from launcher.shared.identity import Task
from launcher.shared.protocol import Action, ChildReport, Directive, Report


class Activity(enum.Enum):
    """What a task does: one thing at a time, or nothing. Each ends with an event.

    A directive that asks for a child leads through these, as far as they are needed:

        PULLING      -- CodePulled -----> the code of this run is there
        REACHING     -- PeersReached ---> the servers of this generation can be found
        RUNNING      -- ChildEnded -----> reported; another generation starts another child
        STANDING_IN  -- ChildEnded -----> nothing: the program of this task has ended before

    Failed ends PULLING, REACHING and a child that could not start: it is reported as a child that
    has ended. A directive that asks for something else cancels a preparation and stops a child;
    the next thing begins when that has ended.
    """

    PULLING = "pulls the code"
    REACHING = "waits until its peers can be reached"
    RUNNING = "runs the child of its generation: the program, or the server of a task that serves"
    STANDING_IN = "runs a server in the place of its program, which has ended"


CHILDREN = frozenset({Activity.RUNNING, Activity.STANDING_IN})


@dataclass(frozen=True)
class Doing:
    """An activity, the directive that it was begun for, and whether it was told to end."""

    activity: Activity
    directive: Directive
    ending: bool = False


@dataclass(frozen=True)
class Code:
    """The code that is there: of which run, by which pull, its digest, what its branch meant."""

    run: str
    pull: int
    digest: str
    commit: str


@dataclass(frozen=True)
class State:
    """All that a task's next step depends on.

    The first four say who the task is: `incarnation` is new with every start of the launcher,
    `address` its IP address, `revision` the template of its pod. `alone` says that no controller
    leads it, `leaves` that its launcher ends with the run.
    """

    task: Task
    incarnation: str
    address: str = ""
    revision: str = ""
    alone: bool = False
    leaves: bool = False
    directive: Directive | None = None  # what it follows
    doing: Doing | None = None
    code: Code | None = None
    child: ChildReport | None = None  # its latest child but for servers that stand in
    ended_at: float = 0.0  # when that child ended, in seconds of the task's clock
    failed: tuple[int, int] | None = None  # the generation and the pull of what failed to prepare
    reached: int | None = None  # the generation whose peers were reached
    stood_in: int | None = None  # the generation in which a server last stood in
    told_at: float = 0.0  # when progress was last reported, in seconds of the task's clock
    leaving: int | None = None  # the signal that ends the launcher
    leave_by: float = 0.0  # when its grace is over, in seconds of the task's clock
    chief_left: bool = False  # while it leaves: the chief is not connected to it any more


@dataclass(frozen=True)
class Told:
    """The controller asks for something."""

    directive: Directive


@dataclass(frozen=True)
class Signalled:
    """The launcher has got a signal, `at` seconds of the task's clock."""

    number: int
    at: float


@dataclass(frozen=True)
class CodePulled:
    """The code is there."""

    digest: str
    commit: str


@dataclass(frozen=True)
class PeersReached:
    """The peers that the program needs can be found, and answer where they must."""


@dataclass(frozen=True)
class Failed:
    """What was begun has failed: a preparation, or the start of a child."""

    exit_code: int
    reason: str
    last_lines: tuple[str, ...]
    at: float


@dataclass(frozen=True)
class ChildEnded:
    """The child has ended, `at` seconds of the task's clock, after these steps of its program."""

    exit_code: int
    last_lines: tuple[str, ...]
    at: float
    global_step: int | None = None
    total_steps: int | None = None


@dataclass(frozen=True)
class Seen:
    """What the program's output tells, `at` seconds of the task's clock.

    `up` says that its session trains; it has made no progress for `quiet` seconds.
    """

    at: float
    up: bool
    quiet: float
    global_step: int | None = None
    total_steps: int | None = None
    last_lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class ChiefLeft:
    """The chief is not connected to this server any more, or the grace is over."""


Event = Union[Told, Signalled, CodePulled, PeersReached, Failed, ChildEnded, Seen, ChiefLeft]


@dataclass(frozen=True)
class Say:
    """Effect: a line for a person."""

    text: str


@dataclass(frozen=True)
class Tell:
    """Effect: the controller shall have a new report."""


@dataclass(frozen=True)
class Pull:
    """Effect: bring the code here; what was there before may go. CodePulled or Failed follows."""

    directive: Directive


@dataclass(frozen=True)
class ReachPeers:
    """Effect: wait until the peers can be reached. PeersReached or Failed follows."""

    directive: Directive


@dataclass(frozen=True)
class Cancel:
    """Effect: nobody wants the preparation any more. It ends all the same, as it can."""


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
    """Effect: send the child this signal, and SIGKILL when its grace is over."""

    number: int


@dataclass(frozen=True)
class Send:
    """Effect: send the child this signal."""

    number: int


@dataclass(frozen=True)
class Leave:
    """Effect: the launcher ends, after a last report."""

    end: End


Effect = Union[Say, Tell, Pull, ReachPeers, Cancel, StartProgram, StartServer, Stop, Send, Leave]
Step = tuple[State, tuple[Effect, ...]]


def report(state: State, sequence: int, now: float) -> Report:
    """What the task says of itself, `now` seconds of its clock."""
    child, directive, code = state.child, state.directive, state.code
    if child and child.exit_code is not None:
        child = replace(child, ago=now - state.ended_at)
    return Report(
        task=state.task,
        incarnation=state.incarnation,
        sequence=sequence,
        address=state.address,
        revision=state.revision,
        holds=directive.holds() if directive else None,
        child=child,
        # Who leaves starts nothing any more, whatever is asked of it.
        can_start=directive is not None and state.leaving is None and has_code(state, directive),
        stands_in=state.doing is not None and state.doing.activity is Activity.STANDING_IN,
        long_poll=True,
        digest=code.digest if code else "",
        commit=code.commit if code else "",
    )


def has_code(state: State, directive: Directive) -> bool:
    """Whether it has the code that a directive asks for; a server needs none."""
    if not directive.job.mode.runs_program(state.task):
        return True
    code = state.code
    return code is not None and (code.run, code.pull) == (directive.job.run, directive.pull)


def is_chief(state: State) -> bool:
    """Whether it is the chief of the run that it is part of."""
    return state.directive is not None and state.directive.job.mode.chief == state.task


def has_child(state: State) -> bool:
    """Whether a child process runs."""
    return state.doing is not None and state.doing.activity in CHILDREN


def awaits_chief(state: State) -> bool:
    """Whether it leaves, and serves a chief that may still save: it stops after the chief then."""
    directive, doing = state.directive, state.doing
    if state.leaving is None or state.chief_left or not directive or not doing or doing.ending:
        return False
    mode = directive.job.mode
    serves = has_child(state) and not mode.runs_program(state.task)
    if directive.action is Action.END or not serves or not directive.hosts.get(mode.chief):
        return False
    return mode.chief in mode.reached([state.task], directive.job.tasks)
