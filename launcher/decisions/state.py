"""The state of a run, its events and its effects. Pure.

`State` is all that the decisions depend on. `step` takes events and returns effects. The functions
here change a State, or answer questions that more than one module asks.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Union

from launcher.shared.exits import End
from launcher.shared.identity import Task
from launcher.shared.job import Job
from launcher.shared.protocol import Leader, Report


class RunPhase(enum.Enum):
    """The phase of a run, as one controller sees it.

    A controller goes from STARTING to ADOPTING to LEADING. ENDED and YIELDED are final: events
    change nothing any more.

    * STARTING: the controller does not know yet which pods exist. It keeps what tasks report and
      sends them no directives, so they go on as they are. The event Begin leads to ADOPTING, or to
      ENDED if the end is recorded already.
    * ADOPTING: the controller waits until all tasks have reported what they hold, because it keeps
      no memory of its own. Tasks that hold a directive go on with it. When all have reported, it
      rebuilds the run from that: LEADING. ENDED when a task was told the end of this run, when the
      run's deadline is over, or when the code folder stays missing before any task has reported.
    * LEADING: tasks run. Lost tasks form a new generation, together with those that cannot go on
      without them. ENDED when the last program that must succeed has, when a failure is final, or
      when the run's deadline is over.
    * ENDED: no child may run any more, and the controller tells every task so.
    * YIELDED: a task follows a younger controller, so this one sends no directives any more. This
      can happen in every phase but ENDED.
    """

    STARTING = "starting"
    ADOPTING = "adopting"
    LEADING = "leading"
    ENDED = "ended"
    YIELDED = "yielded"


@dataclass(frozen=True)
class Begin:
    """The controller has read the cluster.

    `number` is this controller's number as Leader, greater than that of every earlier one; 0
    without Kubernetes, where the controller takes one above all that the tasks know. `pods` counts
    those that exist or are being made, `revisions` names the newest pod template, both by role;
    `age` is how many seconds ago the run began, `end` how it ended, if that is recorded.
    """

    number: int
    pods: Mapping[str, int]
    revisions: Mapping[str, str]
    age: float = 0.0
    end: End | None = None


@dataclass(frozen=True)
class Heard:
    """A task has reported."""

    report: Report


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True)
class NoCode:
    """The code folder is missing, so no pod can start."""

    reason: str


Event = Union[Begin, Heard, Tick, NoCode]


@dataclass(frozen=True)
class Scale:
    """Effect: scale a role's StatefulSet to so many pods."""

    role: str
    replicas: int


@dataclass(frozen=True)
class Say:
    """Effect: write a line to the log."""

    text: str


@dataclass(frozen=True)
class Finish:
    """Effect: the run has ended. Record the end, free the pods, exit with the run's code."""

    end: End


Effect = Union[Scale, Say, Finish]


class Blame(enum.IntEnum):
    """Whose fault a failure is. A failure with a smaller value may have caused those after it."""

    # The child was stopped from outside, or its pod was deleted. That is not the program's fault,
    # so it is not charged. Failures since then may be follow-up failures.
    OUTSIDE = 0
    # The child was killed together with its launcher. The program may have taken too much memory,
    # so it is charged. Failures since then may be follow-up failures.
    WITH_LAUNCHER = 1
    # The child ended or hung while its launcher lived. That is the program's fault, and charged.
    PROGRAM = 2


@dataclass(frozen=True)
class Progress:
    """How far a run has trained, as its programs report it; 0 where they report nothing."""

    epoch: int = 0
    step: int = 0

    def beyond(self, other: Progress) -> bool:
        """Whether the epoch or the step is larger."""
        return self.epoch > other.epoch or self.step > other.step


@dataclass(frozen=True)
class Failure:
    """A child that has failed or was lost."""

    task: Task
    # The generation whose child failed.
    generation: int
    # As a shell reports it; DEADLINE for a child that hangs.
    exit_code: int
    # For people.
    reason: str
    # When the child ended, in seconds on the controller's clock. A child that was lost from outside
    # or with its launcher ended at an unknown time after this one.
    at: float
    blame: Blame
    # What the child wrote last.
    last_lines: tuple[str, ...] = ()
    # Of the run, when the failure was reported.
    progress: Progress = Progress()


@dataclass(frozen=True)
class Orders:
    """What was decided of one task: all of a task that its directives depend on."""

    # The generation whose child the task runs, or ran before it formed again; None before any.
    generation: int | None = None
    # The incarnation of the launcher that runs that child; None before any generation.
    incarnation: str | None = None
    # The task is to start in the run's latest generation. It runs nothing until all can start.
    forming: bool = False
    # The task starts its child only when the chief's session is up.
    waits_for_chief: bool = False
    # The program of that generation has succeeded. Stays true until the task restarts.
    done: bool = False
    # How often the task was asked to pull the code again.
    pull: int = 0


@dataclass(frozen=True)
class Seat:
    """What is known of one task, and what was decided of it."""

    # The latest report; None before the first, and when the task has left the run.
    report: Report | None = None
    # When the last report came, in seconds on the controller's clock.
    heard_at: float | None = None
    # The first generation whose child's end is news. Ends of children of earlier generations were
    # handled already.
    news_from: int = 1
    # When SIGTERM from outside ended the task's children; times older than restarts.refill are
    # dropped.
    drains: tuple[float, ...] = ()
    # The failure for which the task restarts; cleared when the root cause is known.
    failure: Failure | None = None
    orders: Orders = field(default_factory=Orders)


@dataclass(frozen=True)
class Disagreement:
    """The forming tasks have different code."""

    since: float  # when it was first seen, in seconds on the controller's clock
    pulls: int = 0  # how often tasks were asked to pull the code again because of it


@dataclass(frozen=True)
class State:
    """All that the decisions depend on. Times are seconds on the controller's clock."""

    # The run at the size that trains now.
    job: Job
    # The job that the values ask for: the same as `job`, unless a smaller run trains until the pods
    # are there.
    wanted: Job
    leader: Leader
    phase: RunPhase = RunPhase.STARTING
    # The latest generation. Generations count from 1; None before any.
    generation: int | None = None
    # How many pods exist or are being made, by role; empty without Kubernetes.
    pods: Mapping[str, int] = field(default_factory=dict)
    # The newest template of pods, by role; a role is missing where it is unknown.
    revisions: Mapping[str, str] = field(default_factory=dict)
    # Every task that has reported, or of which something was decided.
    seats: Mapping[Task, Seat] = field(default_factory=dict)
    # IP addresses at the last start: of the chief, and of the tasks whose loss restarts others.
    hosts: Mapping[Task, str] = field(default_factory=dict)
    # When the tasks that wait for the chief start without it; None while no task waits.
    chief_due_at: float | None = None
    # When the controller judges the failures. It waits until then, because the root cause may be
    # reported late. None without a failure.
    settled_at: float | None = None
    # When the forming tasks may start at the earliest; None: at once.
    not_before: float | None = None
    # The times of the failures that count against the restart budget.
    charges: tuple[float, ...] = ()
    # The charges, among these, for mistakes of TensorFlow since the run last advanced.
    mistake_charges: tuple[float, ...] = ()
    # How far the run was at TensorFlow's last mistake.
    mistake_progress: Progress = Progress()
    # The root cause of the last failure that was not from outside, and how often in a row it came
    # with the same error and no step in between.
    last_failure: Failure | None = None
    repeats: int = 0
    # The digest of the code that the run began with; None until the first generation starts.
    digest: str | None = None
    # The commit to which the chief resolved the branch; None until then.
    commit: str | None = None
    # None while the forming tasks have the same code.
    disagreement: Disagreement | None = None
    # The cause of the last restart, for people; None before any.
    cause: str | None = None
    # When the chief last reported a new step, or a new child.
    moved_at: float | None = None
    # When the run began; None in STARTING.
    began_at: float | None = None
    # When the controller last logged which tasks are missing.
    said_at: float | None = None
    # When this controller began to adopt.
    adopts_since: float | None = None
    # Since when only leaving tasks have yet to report; None before.
    complete_at: float | None = None

    def seat(self, task: Task) -> Seat:
        """What is known of a task; an empty seat where nothing is known."""
        return self.seats.get(task, NOTHING_KNOWN)

    # These depend on the orders alone, so `with_seat` keeps them while the orders stay the same.

    @functools.cached_property
    def orders(self) -> Mapping[Task, Orders]:
        """What was decided of each task."""
        return {task: seat.orders for task, seat in self.seats.items()}

    @functools.cached_property
    def forming(self) -> frozenset[Task]:
        """The tasks that form."""
        return frozenset(task for task, orders in self.orders.items() if orders.forming)

    @functools.cached_property
    def to_stop(self) -> frozenset[Task]:
        """The tasks whose child must not run now."""
        orders = self.orders.items()
        return frozenset(t for t, each in orders if each.forming or each.generation is None)


ORDERS_ALONE = ("orders", "forming", "to_stop")
NOTHING_KNOWN = Seat()
Step = tuple[State, tuple[Effect, ...]]


# Changes.


def ended(state: State, end: End) -> Step:
    """The run has ended: no child may run any more."""
    return replace(state, phase=RunPhase.ENDED), (Finish(end),)


def with_seat(state: State, task: Task, **changes: Any) -> State:
    """The state with changes to what is known of one task."""
    after = replace(state, seats={**state.seats, task: replace(state.seat(task), **changes)})
    if "orders" not in changes and task in state.seats:
        # Most reports keep the orders, and computing these is slow in a run with many tasks.
        vars(after).update((key, vars(state)[key]) for key in ORDERS_ALONE if key in vars(state))
    return after


def with_orders(state: State, tasks: Iterable[Task], **changes: Any) -> State:
    """The state with the same changes to the orders of some tasks."""
    seats = dict(state.seats)
    for task in tasks:
        seat = state.seat(task)
        seats[task] = replace(seat, orders=replace(seat.orders, **changes))
    return replace(state, seats=seats)


def pull_again(state: State, tasks: Iterable[Task]) -> State:
    """Has tasks pull the code again."""
    seats = dict(state.seats)
    for task in tasks:
        seat = state.seat(task)
        seats[task] = replace(seat, orders=replace(seat.orders, pull=seat.orders.pull + 1))
    return replace(state, seats=seats)


def forget_reports(state: State, tasks: Iterable[Task]) -> State:
    """Forgets the reports of these tasks, which have left the run."""
    gone = {task: replace(seat, report=None) for task in tasks if (seat := state.seats.get(task))}
    return replace(state, seats={**state.seats, **gone})


# Questions.


def latest_generation(state: State) -> int:
    """The latest generation; 0 before the first, as in directives and reports."""
    return state.generation or 0


def awaits_pods(state: State) -> bool:
    """Whether the run waits for pods before it changes to the wanted size."""
    return state.wanted.digest != state.job.digest


def reports(state: State) -> dict[Task, Report]:
    """The latest reports of all tasks that have reported."""
    return {task: seat.report for task, seat in state.seats.items() if seat.report}


def all_heard(state: State, tasks: Iterable[Task]) -> bool:
    """Whether each of these tasks has reported."""
    return all(state.seat(task).report for task in tasks)


def member(state: State, task: Task) -> bool:
    """Whether the run has this task at the size that trains."""
    return task.index < state.job.replicas.get(task.role, 0)


def leaving(state: State) -> list[Task]:
    """The tasks that still have a pod and are no longer wanted."""
    return [
        Task(role, index)
        for role, pods in state.pods.items()
        for index in range(state.wanted.replicas.get(role, 0), pods)
    ]


def current(state: State, report: Report) -> bool:
    """Whether a task's pod has the newest template, as far as that is known."""
    revision = state.revisions.get(report.task.role)
    return not revision or report.revision in ("", revision)


def runs(report: Report) -> bool:
    """Whether a child of the task runs."""
    return report.stands_in or (report.child is not None and report.child.exit_code is None)


def told_to_end(state: State, report: Report) -> bool:
    """Whether a server's pod terminates. Else a server that holds a directive can start."""
    serves = not state.job.mode.runs_program(report.task)
    return serves and report.holds is not None and not report.can_start


def newest(report: Report) -> int:
    """The newest generation that a task knows; a new launcher may know only its last child's."""
    holds, child = report.holds, report.child
    return max(holds.generation if holds else 0, child.generation if child else 0)


def digests(state: State) -> dict[Task, str]:
    """The code digest of each task that runs the program and has its code."""
    runs_program = state.job.mode.runs_program
    heard = ((task, state.seat(task).report) for task in filter(runs_program, state.job.tasks))
    return {task: report.digest for task, report in heard if report and report.can_start}
