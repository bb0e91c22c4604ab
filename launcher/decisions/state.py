"""What is known of a run, what happens to it, and what shall be done. Pure.

`State` is all that the decisions depend on. Events come in, effects go out: see `decide`. The
functions are the questions about a State that more than one decision asks.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Union

from launcher.shared.exits import End
from launcher.shared.identity import Task
from launcher.shared.job import Job
from launcher.shared.protocol import Leader, Report


class RunPhase(enum.Enum):
    """What the controller does."""

    STARTING = "starting"
    ADOPTING = "adopting"
    LEADING = "leading"
    ENDED = "ended"
    YIELDED = "yielded"


@dataclass(frozen=True)
class Begin:
    """The controller knows the cluster.

    `number` is this controller's as a Leader, greater than that of all before it; 0 where nobody
    gives numbers, and it takes one above all that the tasks know. `replicas` are the pods that
    exist or are being made, `revisions` the newest templates of pods, by role; `age` is how many
    seconds ago the run began, `end` how it ended, if that is on record.
    """

    number: int
    replicas: Mapping[str, int]
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
    """The code's source has been found missing, and so no pod can start."""

    reason: str


Event = Union[Begin, Heard, Tick, NoCode]


@dataclass(frozen=True)
class Scale:
    """Effect: a role's StatefulSet shall have so many pods."""

    role: str
    replicas: int


@dataclass(frozen=True)
class Say:
    """Effect: a line for a person."""

    text: str


@dataclass(frozen=True)
class Finish:
    """Effect: the run has ended; record it, free its pods, end with its code."""

    end: End


Effect = Union[Scale, Say, Finish]


@dataclass(frozen=True)
class Failure:
    """A child that was lost, `at` this time or, where its launcher went, after it.

    `lost` says that its launcher went too, or that it was ended from outside; `free` that nothing
    of that is the program's fault.
    """

    task: Task
    generation: int
    code: int
    reason: str
    at: float
    lost: bool = False
    free: bool = False
    last_lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class State:
    """Everything the decisions depend on.

    `seats` holds each task's latest report and `heard` its time. `runs` tells the generation
    whose child a task shall run, `members` the launcher that was to run it; `forming` are the
    tasks that shall start with `generation`, `stopping` those whose program has yet to stop, and
    `held` those that wait for the chief.
    `hosts` are the addresses of the chief, and of those without whom others cannot go on.
    `goal` is what `job` becomes when the pods that it needs more are there: until then the smaller
    one trains on.
    `pulls` counts how often each task was asked to pull the code again, `code` is the digest that
    they agreed on; they have not since `differ_since` in spite of `differ_pulls`, if that is not 0.
    `commit` is what a branch was found to mean by the chief.
    `cause` is why tasks had to start again at last, `moved_at` when the chief was last seen to make
    a step, or to start.
    `dealt` is the latest generation whose child's end was dealt with, `drains` are the times at
    which a child was ended as if from outside. `charges` are the times of the failures that the
    restart budget paid for.
    """

    job: Job
    leader: Leader
    phase: RunPhase = RunPhase.STARTING
    generation: int = 0
    replicas: Mapping[str, int] = field(default_factory=dict)
    revisions: Mapping[str, str] = field(default_factory=dict)
    seats: Mapping[Task, Report] = field(default_factory=dict)
    heard: Mapping[Task, float] = field(default_factory=dict)
    runs: Mapping[Task, int] = field(default_factory=dict)
    members: Mapping[Task, str] = field(default_factory=dict)
    dealt: Mapping[Task, int] = field(default_factory=dict)
    drains: Mapping[Task, tuple[float, ...]] = field(default_factory=dict)
    forming: frozenset[Task] = frozenset()
    stopping: frozenset[Task] = frozenset()
    held: frozenset[Task] = frozenset()
    held_until: float = 0.0
    failures: Mapping[Task, Failure] = field(default_factory=dict)
    settled_at: float = 0.0
    not_before: float = 0.0
    charges: tuple[float, ...] = ()
    done: frozenset[Task] = frozenset()
    hosts: Mapping[Task, str] = field(default_factory=dict)
    goal: Job | None = None
    pulls: Mapping[Task, int] = field(default_factory=dict)
    code: str = ""
    commit: str = ""
    differ_since: float = 0.0
    differ_pulls: int = 0
    cause: str = ""
    moved_at: float = 0.0
    began_at: float = 0.0
    said_at: float = 0.0
    adopts_since: float = 0.0
    complete_at: float | None = None  # when a controller that adopts had heard the run's tasks


Step = tuple[State, tuple[Effect, ...]]


def ended(state: State, end: End) -> Step:
    """The end of the run: nothing may run any more."""
    return replace(state, phase=RunPhase.ENDED), (Finish(end),)


def asked(state: State) -> Job:
    """What a person asked for; it may be larger than what trains."""
    return state.goal or state.job


def member(state: State, task: Task) -> bool:
    """Whether the run has this task at the size that trains."""
    return task.index < state.job.replicas.get(task.role, 0)


def leaving(state: State) -> list[Task]:
    """The tasks that have a pod and are no part of the run any more."""
    return [
        Task(role, index)
        for role, there in state.replicas.items()
        for index in range(asked(state).replicas.get(role, 0), there)
    ]


def current(state: State, task: Task) -> bool:
    """Whether a task's pod is of the newest template."""
    revision = state.revisions.get(task.role, "")
    return not revision or state.seats[task].revision in ("", revision)


def runs(seat: Report) -> bool:
    """Whether a child of the task runs."""
    return seat.serving or (seat.child is not None and seat.child.code is None)


def told_to_end(state: State, seat: Report) -> bool:
    """Whether a server's pod was told to end: all others that hold something are ready."""
    return seat.holds is not None and not seat.ready and not state.job.mode.runs_program(seat.task)


def newest(report: Report) -> int:
    """The newest generation that a task knows of: a new launcher may only know its last child's."""
    holds, child = report.holds, report.child
    return max(holds.generation if holds else 0, child.generation if child else 0)


def codes(state: State) -> dict[Task, str]:
    """The digests of the code by the tasks that run it, and that are about to."""
    return {
        task: seat.code
        for task in state.job.tasks
        if state.job.mode.runs_program(task) and (seat := state.seats.get(task)) and seat.ready
    }
