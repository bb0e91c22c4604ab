"""All decisions about a run, as a pure function: `step(state, event, now)`.

No I/O, no clock, no randomness. A run goes through phases:

    STARTING  what has become of the run is being read; nothing is decided
    ADOPTING  a new controller; tasks go on with what they hold until all have reported
    FORMING   no child may run; the next generation begins once every task has said so
    RUNNING   every task runs its child of this generation
    ENDED     nothing may run any more

A lost child leads back to FORMING and a new generation from the checkpoint. Waiting there for
every task is also what tells a cause from its consequences: a failure counts only once all peers
have been heard from after it, and a peer that was lost explains it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Union

from launcher.exits import Code, End, Phase
from launcher.identity import ROLES, Task
from launcher.protocol import Action, Directive, Report
from launcher.settings import Job

SAY_SECONDS = 10.0  # between two lines about who is missing
SAY_TASKS = 10  # named in one line
LEAVING_SECONDS = 10.0  # in which a task that lives has found the new controller
# The launcher's own ends that another try cannot mend.
PERMANENT = frozenset({Code.USAGE, Code.CODE_MISSING, Code.CONFIGURATION})
# Ended from outside: a drained node, a deleted pod. Never the program's fault.
DRAINED = 128 + 15


class RunPhase(enum.Enum):
    """Where a run is."""

    STARTING = "starting"
    ADOPTING = "adopting"
    FORMING = "forming"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True)
class Begin:
    """The run has not ended, and is led from now on.

    `replicas` are the pods that exist or are being made, by role.
    """

    replicas: Mapping[str, int]


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
    """A child that was lost. `lost` where its launcher went too, or it was ended from outside."""

    task: Task
    generation: int
    code: int
    reason: str
    at: float
    lost: bool = False
    last_lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class State:
    """Everything the decisions depend on.

    `generation` is the one that forms or runs; what happened up to `judged` is dealt with.
    `seats` holds each task's latest report, `members` the launchers' incarnations since then.
    """

    job: Job
    phase: RunPhase = RunPhase.STARTING
    generation: int = 0
    judged: int = 0
    charged: int = 0
    replicas: Mapping[str, int] = field(default_factory=dict)
    seats: Mapping[Task, Report] = field(default_factory=dict)
    members: Mapping[Task, str] = field(default_factory=dict)
    failures: Mapping[Task, Failure] = field(default_factory=dict)
    done: frozenset[Task] = frozenset()
    said_at: float = 0.0
    complete_at: float | None = None  # when a controller that adopts had heard the run's tasks


Step = tuple[State, tuple[Effect, ...]]


def step(state: State, event: Event, now: float) -> Step:
    """The next state and what must be done, in this order."""
    if isinstance(event, Begin):
        counts = ", ".join(f"{state.job.replicas[role]} {role}" for role in ROLES)
        state = replace(state, phase=RunPhase.ADOPTING, replicas=event.replicas, said_at=now)
        seats = {task: seat for task, seat in state.seats.items() if _belongs(state, task)}
        state, effects = _scale(replace(state, seats=seats), down=False)
        state, more = _adopt(state, now)
        return state, (Say(f"run {state.job.run}: {counts}"), *effects, *more)
    if isinstance(event, Tick):
        state, effects = _adopt(state, now) if state.phase is RunPhase.ADOPTING else (state, ())
        state, more = _say_missing(state, now)
        return state, (*effects, *more)
    if isinstance(event, NoCode):
        if state.seats or state.phase is RunPhase.ENDED:
            return state, ()  # somebody did start
        return _end(state, End(Phase.FAILED, Code.CODE_MISSING, event.reason))
    report = event.report
    before = state.seats.get(report.task)
    if before and before.incarnation == report.incarnation and before.sequence > report.sequence:
        return state, ()  # overtaken on its way
    if state.phase is not RunPhase.STARTING and not _belongs(state, report.task):
        return state, ()
    state = replace(state, seats={**state.seats, report.task: report})
    return _judge_seats(state, [report], now)


def _belongs(state: State, task: Task) -> bool:
    """Whether it is a task of the run, or a pod that is there and shall leave it."""
    return task.index < max(state.replicas.get(task.role, 0), state.job.replicas[task.role])


def directive(state: State, report: Report) -> Directive | None:
    """What the task that reports shall change to; None where it shall go on with what it holds."""
    task, holds = report.task, report.holds
    if state.phase is RunPhase.STARTING:
        return None
    if state.phase is RunPhase.ADOPTING and holds:
        return None
    action = Action.WAIT
    if state.phase is RunPhase.ENDED:
        action = Action.END
    elif state.phase is RunPhase.RUNNING and task in state.members:
        # A finished task whose pod was made again must not train again.
        again = task in state.done and report.incarnation != state.members[task]
        action = Action.WAIT if again else Action.RUN
    wanted = Directive(action, state.generation, state.charged, state.job)
    return None if holds == wanted.holds() else wanted


def _judge_seats(state: State, reports: Iterable[Report], now: float) -> Step:
    """What news from some tasks means in each phase."""
    if state.phase in (RunPhase.STARTING, RunPhase.ENDED):
        return state, ()
    if state.phase is RunPhase.ADOPTING:
        return _adopt(state, now)
    for report in reports:
        if report.holds and report.holds.generation > state.generation:
            # Another controller led the run meanwhile; no generation is used twice.
            state = _forming(state, report.holds.generation + 1, now)
        failure = _failure(state, report, now)
        if failure:
            state = replace(state, failures={report.task: failure, **state.failures})
        elif _finished(state, report):
            state = replace(state, done=state.done | {report.task})
    if state.phase is RunPhase.RUNNING:
        return _follow(state, now)
    return _form(state, now)


def _adopt(state: State, now: float) -> Step:
    """Rebuilds the run from what the tasks hold once all have reported."""
    tasks = state.job.tasks
    if not all(task in state.seats for task in tasks):
        return state, ()
    if not all(task in state.seats for task in _leaving(state)):
        # One of them may still run the last generation's child, or may never have started.
        if state.complete_at is None:
            return replace(state, complete_at=now), ()
        if now - state.complete_at < LEAVING_SECONDS:
            return state, ()
    held = [seat.holds for seat in state.seats.values() if seat.holds]
    if any(holds.action is Action.END and holds.run == state.job.run for holds in held):
        return _end(state, _remembered(state, now))
    generation = max((holds.generation for holds in held), default=0)
    charged = max((holds.charged for holds in held), default=0)
    state = replace(state, charged=charged)
    running = Directive(Action.RUN, generation, charged, state.job).holds()
    if all(state.seats[task].holds == running for task in tasks):
        state, scaling = _scale(_running(replace(state, generation=generation)), down=True)
        state, effects = _judge_seats(state, [state.seats[task] for task in tasks], now)
        found = Say(f"generation {generation}: found running, and taken over")
        return state, (found, *scaling, *effects)
    if held and any(holds.job != state.job.digest for holds in held):
        state = replace(state, charged=0)  # what was asked for has changed
    state = replace(state, judged=generation)
    return _form(_forming(state, generation + 1, now), now)


def _remembered(state: State, now: float) -> End:
    """How a run that has ended did, as its tasks still know it: no record of it was kept."""
    children = [(task, seat.child) for task, seat in state.seats.items() if seat.child]
    failed = [
        Failure(task, child.generation, child.code, child.reason, now - child.ago)
        for task, child in children
        if child.code and not child.stopped
    ]
    if failed:
        root = min(failed, key=lambda f: (-f.generation, f.code == DRAINED, f.at))
        return End(Phase.FAILED, root.code, f"ended already: {root.reason}", str(root.task))
    if any(task.role == "worker" and child.code == 0 for task, child in children):
        return End(Phase.SUCCEEDED, Code.OK, "ended already: its workers ended with exit code 0")
    return End(Phase.FAILED, Code.TRY_AGAIN, "ended already; no task remembers how")


def _leaving(state: State) -> list[Task]:
    """The tasks that have a pod and are no part of the run any more."""
    return [
        Task(role, index)
        for role, wanted in state.job.replicas.items()
        for index in range(wanted, state.replicas.get(role, 0))
    ]


def _failure(state: State, report: Report, now: float) -> Failure | None:
    """How a task was lost to the generation that ran, or failed to prepare for the next."""
    task, child = report.task, report.child
    if task in state.done:
        return None
    if state.members.get(task, report.incarnation) != report.incarnation:
        reason = "its pod or its launcher was started again"
        return Failure(task, state.judged, DRAINED, reason, now, lost=True)
    if not child or child.code is None or child.generation <= state.judged:
        return None
    if child.stopped:
        if state.phase is RunPhase.FORMING:
            return None  # as it was told to
        lost, reason = True, "it was stopped from outside"
    elif child.code == 0 and task.role != "ps":
        return None
    else:
        lost, reason = child.code == DRAINED, child.reason
    at = now - child.ago
    return Failure(task, child.generation, child.code, reason, at, lost, child.last_lines)


def _finished(state: State, report: Report) -> bool:
    child = report.child
    return (
        state.phase is RunPhase.RUNNING
        and report.task in state.members
        and child is not None
        and child.generation == state.generation
        and child.code == 0
    )


def _follow(state: State, now: float) -> Step:
    """A running generation: it goes on, has succeeded, or lost a child."""
    generation = state.generation
    if state.failures:
        causes = "; ".join(f"{f.task}: {f.reason}" for f in state.failures.values())
        state, effects = _form(_forming(state, generation + 1, now), now)
        return state, (Say(f"generation {generation}: lost {causes}; all tasks stop"), *effects)
    workers = [task for task in state.job.tasks if task.role == "worker"]
    if all(task in state.done for task in workers):
        chief = state.seats[workers[0]]
        lines = chief.child.last_lines if chief.child else ()
        reason = f"all {len(workers)} workers ended with exit code 0"
        return _end(state, End(Phase.SUCCEEDED, Code.OK, reason, str(workers[0]), lines))
    return state, ()


def _form(state: State, now: float) -> Step:
    """Begins the next generation once every task has said that nothing of the last one runs."""
    if any(_lacks(state, task) for task in _awaited(state)):
        return state, ()
    effects: tuple[Effect, ...] = ()
    if state.failures:
        failures = sorted(state.failures.values(), key=lambda f: (not f.lost, f.at))
        root = failures[0]
        if not root.lost:
            state = replace(state, charged=state.charged + 1)
            end = _final(state, root)
            if end:
                return _end(state, end)
        effects = (Say(_explain(state, root, failures[1:])),)
        if any(failure.generation == state.generation for failure in failures):
            # Some could not even prepare for this generation: all prepare for another.
            state = _judged(state, state.generation)
            return _forming(state, state.generation + 1, now), effects
    state, scaling = _scale(_running(state), down=True)
    return state, (*effects, *scaling, Say(f"generation {state.generation}: all tasks start"))


def _final(state: State, root: Failure) -> End | None:
    limit = state.job.restarts.limit
    if root.code in PERMANENT or root.code in state.job.restarts.permanent_codes:
        why = "which another try cannot mend"
    elif state.charged > limit:
        why = f"and the restart budget of {limit} is spent"
    else:
        return None
    reason = f"{root.task} failed: {root.reason}, {why}"
    return End(Phase.FAILED, root.code, reason, str(root.task), root.last_lines)


def _explain(state: State, root: Failure, others: Iterable[Failure]) -> str:
    text = f"the cause: {root.task}: {root.reason}; "
    if root.lost:
        text += "not charged to the restart budget"
    else:
        text += f"restart {state.charged} of {state.job.restarts.limit}"
    collateral = ", ".join(f"{f.task} ({f.reason})" for f in others)
    return text + (f"; followed by {collateral}" if collateral else "")


def _end(state: State, end: End) -> Step:
    return replace(state, phase=RunPhase.ENDED), (Finish(end),)


def _forming(state: State, generation: int, now: float) -> State:
    return replace(state, phase=RunPhase.FORMING, generation=generation, said_at=now)


def _running(state: State) -> State:
    state = _judged(state, state.generation - 1)
    seats = {task: state.seats[task] for task in state.job.tasks}
    return replace(state, phase=RunPhase.RUNNING, done=frozenset(), seats=seats)


def _judged(state: State, generation: int) -> State:
    members = {task: state.seats[task].incarnation for task in state.job.tasks}
    return replace(state, judged=generation, members=members, failures={})


def _awaited(state: State) -> list[Task]:
    """The tasks of the run, and those that shall leave it but still live."""
    tasks = state.job.tasks
    return [*tasks, *sorted(set(state.seats) - set(tasks))]


def _lacks(state: State, task: Task) -> str:
    """What a task still lacks for the next generation to begin, or nothing."""
    seat = state.seats.get(task)
    if not seat:
        return "not heard from"
    child = seat.child
    if child and child.code is None:
        return "its child has not stopped"
    wanted = Directive(Action.WAIT, state.generation, state.charged, state.job).holds()
    if seat.holds != wanted:
        return "has not answered"
    if task in state.failures or seat.ready or task not in state.job.tasks:
        return ""
    return "pulls the code"


def _say_missing(state: State, now: float) -> Step:
    quiet = (RunPhase.STARTING, RunPhase.RUNNING, RunPhase.ENDED)
    if state.phase in quiet or now - state.said_at < SAY_SECONDS:
        return state, ()
    if state.phase is RunPhase.ADOPTING:
        awaited = [*state.job.tasks, *_leaving(state)]
        lacking = {task: "not heard from" for task in awaited if task not in state.seats}
    else:
        lacking = {task: _lacks(state, task) for task in _awaited(state) if _lacks(state, task)}
    named = [f"{task} ({what})" for task, what in lacking.items()]
    more = f" and {len(named) - SAY_TASKS} more" if len(named) > SAY_TASKS else ""
    return replace(state, said_at=now), (Say("waiting for " + ", ".join(named[:SAY_TASKS]) + more),)


def _scale(state: State, down: bool) -> Step:
    """Pods are made before they are needed, and go when nothing of theirs runs any more."""
    effects = tuple(
        Scale(role, wanted)
        for role, wanted in state.job.replicas.items()
        if state.replicas.get(role, wanted) < wanted
        or (down and state.replicas.get(role, wanted) > wanted)
    )
    replicas = {**state.replicas, **{effect.role: effect.replicas for effect in effects}}
    return replace(state, replicas=replicas), effects
