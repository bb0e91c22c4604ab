"""All decisions about a run, as a pure function: `step(state, event, now)`.

No I/O, no clock, no randomness. A controller goes through phases:

    STARTING  it does not know yet which pods there are
    ADOPTING  tasks go on with what they hold until all have reported
    LEADING   tasks run; those that were lost, and whoever must with them, are formed anew
    ENDED     nothing may run any more
    YIELDED   a younger controller leads

A generation is a number that grows whenever tasks have to start (again). Forming it takes all of
them to say that nothing of theirs runs any more; then they start together. `modes` tells how far
a loss reaches: one worker, or everybody. A failure can end the run only once all tasks have been
heard from after it, for one that was lost explains it.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Union

from launcher.exits import Code, End, Phase
from launcher.identity import Task
from launcher.modes import EVALUATOR, Reach
from launcher.protocol import Action, Directive, Holds, Leader, Report
from launcher.settings import Job

SETTLE_SECONDS = 0.5  # what is lost so soon after a failure may have caused it
LATE_SECONDS = 5.0  # that a report may be old when it is heard
SAY_SECONDS = 10.0  # between two lines about who is missing
SAY_TASKS = 10  # named in one line
# For a task that is no part of the run any more to report: longer than its longest silence.
LEAVING_SECONDS = 40.0
# For the tasks' code to become the same: NFS clients may believe what they saw for a minute.
AGREE_SECONDS = 120.0
AGREE_PULLS = 3
LONGEST_PULL_PAUSE = 20.0
CHIEF_SECONDS = 20.0  # for the chief's session to come up before the others start anyway
LONGEST_BACKOFF = 60.0
EVALUATOR_BACKOFF = 10.0
# The launcher's own ends that another try cannot mend.
PERMANENT = frozenset({Code.USAGE, Code.CODE_MISSING, Code.CONFIGURATION})
# Ended from outside: a drained node, a deleted pod. The program's fault only where a child ends so
# again and again while its launcher is left alone.
DRAINED = 128 + 15
DRAINS = 2
ALREADY = "ended already: "  # how the reason of an end begins that is found, not decided


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


def step(state: State, event: Event, now: float) -> Step:
    """The next state and what must be done, in this order."""
    before = state
    state, effects = _step(before, event, now)
    if state.forming is not before.forming or state.runs is not before.runs:
        stopping = _stopping(state, state.seats)
    elif isinstance(event, Heard):
        task = event.report.task
        stopping = (state.stopping - {task}) | _stopping(state, [task])
    else:
        return state, effects
    return (state if stopping == state.stopping else replace(state, stopping=stopping)), effects


def _step(state: State, event: Event, now: float) -> Step:
    if state.phase in (RunPhase.ENDED, RunPhase.YIELDED):
        return state, ()
    if isinstance(event, Begin):
        return _begin(state, event, now)
    if isinstance(event, NoCode):
        if state.seats:
            return state, ()  # somebody did start
        return _end(state, End(Phase.FAILED, Code.CODE_MISSING, event.reason))
    if isinstance(event, Heard):
        return _hear(state, event.report, now)
    if state.phase is RunPhase.STARTING:
        return state, ()
    deadline = state.job.deadline
    if deadline and now - state.began_at >= deadline:
        reason = f"the run has not ended within its deadline of {deadline:g} s"
        return _end(state, End(Phase.FAILED, Code.DEADLINE, reason))
    state, effects = _go_on(state, now)
    state, more = _say_missing(state, now)
    return state, (*effects, *more)


def directive(state: State, report: Report) -> Directive | None:
    """What the task that reports shall change to; None where it shall go on with what it holds."""
    if state.phase in (RunPhase.STARTING, RunPhase.YIELDED):
        return None
    if state.phase is RunPhase.ADOPTING and report.holds:
        return None
    wanted = _wanted(state, report)
    return wanted if wanted and wanted.holds() != report.holds else None


def _wanted(state: State, report: Report) -> Directive | None:
    task, mode = report.task, state.job.mode
    action, generation = Action.WAIT, state.generation
    if state.phase is RunPhase.ENDED:
        holds = report.holds
        if holds and holds.action is Action.END and holds.run == state.job.run:
            return None
        action = Action.END
        if holds:
            generation = max(generation, holds.generation)  # of which this one may not know
    elif task in state.forming or task not in state.runs:
        holds = report.holds
        serving = not mode.runs_program(task) and holds and holds.action is Action.RUN
        if serving and state.stopping:
            return None  # it keeps the variables until every program could save them
        if holds and not _member(state, task):
            generation = max(generation, holds.generation)  # it only has to stop
    elif task not in state.done:
        generation = state.runs[task]
        action = Action.WAIT if task in state.held else Action.RUN
    else:
        # It must not train again. What an older controller told it since is no going back.
        generation = state.runs[task]
        later = report.holds.generation if report.holds else 0
        if mode.seats and mode.decides_success(task):
            action, generation = Action.SERVE, max(generation, later)
        elif report.incarnation == state.members[task] and later <= generation:
            action = Action.RUN  # and has
        else:
            generation = max(generation, later)
    return Directive(
        state.leader,
        action,
        generation,
        len(state.charges),
        state.job,
        state.pulls.get(task, 0),
        state.commit,
        state.hosts,
    )


def _begin(state: State, event: Begin, now: float) -> Step:
    state = replace(state, leader=Leader(event.number, state.leader.id))
    if event.end:
        # Tasks that are still there may not know yet, and nobody waits for those that leave.
        state, effects = _scale(replace(state, replicas=event.replicas), down=True, up=False)
        state, more = _end(state, event.end)
        return state, (*effects, *more)
    state = replace(
        state,
        phase=RunPhase.ADOPTING,
        replicas=event.replicas,
        revisions=event.revisions,
        began_at=now - event.age,
        said_at=now,
        adopts_since=now,
    )
    seats = {task: seat for task, seat in state.seats.items() if _belongs(state, task)}
    if event.number and any(_follows_younger(state, seat) for seat in seats.values()):
        return _yield(state)
    counts = ", ".join(f"{count} {role}" for role, count in state.job.replicas.items())
    state, effects = _scale(replace(state, seats=seats), down=False)
    there = {role: min(n, event.replicas.get(role, n)) for role, n in state.job.replicas.items()}
    if there != state.job.replicas and all(there.values()):
        state = replace(state, job=state.job.resized(there), goal=state.job)
    state, more = _adopt(state, now)
    return state, (Say(f"run {state.job.run}: {counts}"), *effects, *more)


def _hear(state: State, report: Report, now: float) -> Step:
    task = report.task
    before = state.seats.get(task)
    if before and before.incarnation == report.incarnation and before.sequence > report.sequence:
        return state, ()  # overtaken on its way
    if state.phase is not RunPhase.STARTING and not _belongs(state, task):
        return state, ()
    lost_after = state.heard.get(task, now)
    seats, heard = {**state.seats, task: report}, {**state.heard, task: now}
    state = replace(state, seats=seats, heard=heard)
    if task == state.job.mode.chief:
        if _step_of(before) != _step_of(report):
            state = replace(state, moved_at=now)
        if state.phase is RunPhase.LEADING:
            state = _resolved(state, report)
    if before and before.incarnation != report.incarnation:
        # Nothing of its own has been dealt with; it may fail to prepare as the last one did.
        state = replace(state, dealt={**state.dealt, task: state.generation - 1})
    if state.phase is RunPhase.STARTING:
        return state, ()
    unnumbered = state.phase is RunPhase.ADOPTING and not state.leader.number
    if not unnumbered and _follows_younger(state, report):
        return _yield(state)
    if state.phase is RunPhase.ADOPTING:
        return _adopt(state, now)
    later = _misled(state, report)
    if later:
        # An older controller led a while longer; no generation is used twice.
        later += 1 if state.forming else 0
        state = replace(state, generation=max(state.generation, later))
        if task not in state.done or task in state.forming:
            reached = state.job.mode.reached([task], state.job.tasks)
            state = _form_with(state, reached | state.forming)
    state, effects = _take(state, report, lost_after, now)
    state, more = _go_on(state, now)
    return state, (*effects, *more)


def _resolved(state: State, chief: Report) -> State:
    """What a branch means is found out once, by the chief, for all tasks."""
    holds = chief.holds
    if state.commit or not chief.ready or not holds or holds.run != state.job.run:
        return state
    if holds.pull != state.pulls.get(chief.task, 0):
        return state
    return replace(state, commit=chief.commit)


def _step_of(report: Report | None) -> tuple[int, int | None] | None:
    child = report.child if report else None
    return (child.generation, child.step) if child else None


def _follows_younger(state: State, report: Report) -> bool:
    return report.holds is not None and report.holds.leader > state.leader


def _yield(state: State) -> Step:
    text = "a younger controller leads this run now; this one yields"
    return replace(state, phase=RunPhase.YIELDED), (Say(text),)


def _misled(state: State, report: Report) -> int:
    """The later generation that another controller has told a task of; 0 where none has."""
    task, holds = report.task, report.holds
    if holds and holds.leader == state.leader:
        return 0
    generation = _newest(report)
    if task in state.forming or task not in state.runs:
        return generation if generation >= state.generation else 0
    return generation if generation > state.runs[task] else 0


def _newest(report: Report) -> int:
    """The newest generation that a task knows of."""
    holds, child = report.holds, report.child
    return holds.generation if holds else child.generation if child else 0


def _take(state: State, report: Report, lost_after: float, now: float) -> Step:
    """What a report says of the task's child: nothing new, done, or lost."""
    task, child = report.task, report.child
    if state.members.get(task, report.incarnation) != report.incarnation:
        finished = task in state.done
        if task not in state.runs or (finished and task not in state.forming):
            return state, ()
        state = replace(state, members={**state.members, task: report.incarnation})
        if not finished:
            generation = state.runs[task]
            code, reason, free = DRAINED, "its pod or its launcher was started again", True
            if not report.holds and child and child.code and child.generation == generation:
                # A new launcher knows: its last one was killed with it, not told to end.
                code, reason, free = child.code, child.reason, False
                state = replace(state, dealt={**state.dealt, task: generation})
            lost = Failure(task, generation, code, reason, lost_after, lost=True, free=free)
            return _fail(state, lost, now)
    if not child or not _member(state, task):
        return state, ()
    if child.up and task == state.job.mode.chief and child.generation == state.runs.get(task):
        state = replace(state, held=frozenset())
    if child.code is None:
        if child.hung and task not in state.forming and child.generation == state.runs.get(task):
            reason = f"no progress for {state.job.hang_timeout:g} s"
            hang = Failure(
                task, child.generation, Code.DEADLINE, reason, now, last_lines=child.last_lines
            )
            return _fail(state, hang, now, everybody=task.role != EVALUATOR)
        if _leaves(state, report) and task not in state.forming and task in state.runs:
            # It serves on until the chief has saved.
            reason = "its pod was told to end"
            lost = Failure(task, child.generation, DRAINED, reason, now, lost=True, free=True)
            return _fail(state, lost, now)
        return state, ()
    if child.generation <= state.dealt.get(task, 0):
        return state, ()
    state = replace(state, dealt={**state.dealt, task: child.generation})
    if child.stopped:
        if task not in state.runs or task in state.done:
            return state, ()
        if task in state.forming and not _should_run(report):
            return state, ()  # as it was told to
        drained, free, reason = True, True, "it was stopped from outside"
    elif child.code == 0 and state.job.mode.runs_program(task):
        if task in state.forming:
            return state, ()
        return replace(state, done=state.done | {task}), ()
    elif task in state.forming and not state.failures and child.generation < state.generation:
        return state, ()  # others had stopped already, and no failure made them
    else:
        drained, reason = child.code == DRAINED, child.reason
        if drained:
            drains = (*_lately(state, state.drains.get(task, ()), now), now)
            state = replace(state, drains={**state.drains, task: drains})
            drained = len(drains) <= DRAINS
        free = drained
    at = lost_after if drained else now - child.ago
    failure = Failure(
        task, child.generation, child.code, reason, at, drained, free, child.last_lines
    )
    return _fail(state, failure, now)


def _fail(state: State, failure: Failure, now: float, everybody: bool = False) -> Step:
    """Notes a failure, and has everybody whom it reaches formed anew."""
    known = state.failures.get(failure.task)
    if known and (known.lost or not failure.lost):
        return state, ()
    tasks = state.job.tasks
    if failure.lost and failure.task.role != EVALUATOR:
        # Whatever failed since then may have failed for want of it; but never its own last failure.
        since = failure.at - LATE_SECONDS if failure.free else failure.at
        state = replace(state, charges=tuple(at for at in state.charges if at <= since))
    reached = state.job.mode.reached([failure.task], tasks)
    if everybody:
        reached |= state.job.mode.reached(tasks, tasks)
    state = replace(
        state,
        failures={**state.failures, failure.task: failure},
        settled_at=now + SETTLE_SECONDS if not state.failures else state.settled_at,
    )
    who = _names(reached, tasks, "stop")
    text = f"generation {failure.generation}: lost {failure.task}: {failure.reason}; {who}"
    return _form_with(state, reached | state.forming), (Say(text),)


def _form_with(state: State, tasks: Iterable[Task]) -> State:
    """Has tasks formed anew, together with those that are being formed."""
    if state.forming >= frozenset(tasks):
        return state
    generation = state.generation if state.forming else state.generation + 1
    job, before = state.job, state.forming
    state = replace(
        state,
        generation=generation,
        forming=before | frozenset(tasks),
        differ_since=0.0,
        differ_pulls=0,
    )
    programs = [task for task in job.tasks if job.mode.decides_success(task)]
    if job.delivery.refresh and state.forming.issuperset(programs) > before.issuperset(programs):
        alone = [task for task in job.tasks if task.role == EVALUATOR]
        state = replace(_asked_again(state, [*programs, *alone]), commit="", code="")
        state = replace(state, forming=state.forming | frozenset(alone))
    return state


def _go_on(state: State, now: float) -> Step:
    """Ends a run that is done, starts tasks that are formed."""
    if state.phase is not RunPhase.LEADING:
        return _adopt(state, now)
    end = _success(state)
    if end:
        return _end(state, end)
    if state.goal and not _awaited(state):
        return _grow(state, now)
    if state.held and state.job.mode.chief in state.done:
        return _go_on(replace(state, held=frozenset()), now)
    if state.held and now >= state.held_until:
        text = f"the chief's session is not up after {CHIEF_SECONDS:g} s; the others start"
        return replace(state, held=frozenset()), (Say(text),)
    if not state.forming or (state.failures and now < state.settled_at):
        return state, ()
    if any(_lacks(state, task) for task in (*state.forming, *_leaving(state))):
        return state, ()
    effects: tuple[Effect, ...] = ()
    if state.failures:
        state, effects = _judge(state, now)
        if state.phase is RunPhase.ENDED or state.failures:
            return state, effects
    if now < state.not_before or any(_lacks(state, task) for task in state.forming):
        return state, effects
    state, more = _agree(state, now)
    return state, (*effects, *more)


def _codes(state: State) -> dict[Task, str]:
    """The digests of the code by the tasks that run it, and that are about to."""
    return {
        task: seat.code
        for task in state.job.tasks
        if state.job.mode.runs_program(task) and (seat := state.seats.get(task)) and seat.ready
    }


def _agree(state: State, now: float) -> Step:
    """Starts the tasks that are formed, if those that run the program have the same code.

    What the run began with is its code to the end, unless each generation is to pull anew.
    """
    found = _codes(state)
    alone = frozenset(task for task in found if task.role == EVALUATOR)
    workers = [digest for task, digest in found.items() if task not in alone]
    most = state.code or Counter(workers or found.values()).most_common(1)[0][0]
    others = sorted(task for task, digest in found.items() if digest != most)
    if not others:
        return _start(state, now)
    named = _first_of([f"{task} has {found[task]}" for task in others], " have others")
    known = "the run began with" if state.code else "the rest"
    text = f"the code of all tasks must be the same: {named}, {known} {most}"
    if alone.issuperset(others) and not alone.issuperset(state.forming):
        # The evaluator only looks on: nobody waits for it.
        return _start(state, now, later=alone & state.forming)
    since = state.differ_since or now
    everybody = frozenset(state.job.tasks)
    if state.job.delivery.refresh and not state.forming >= everybody:
        return _form_with(state, everybody), (Say(f"{text}; all tasks pull it again"),)
    over = state.differ_pulls >= AGREE_PULLS and now - since >= AGREE_SECONDS
    if over and not alone.issuperset(others):
        reason = f"{text}; pulling it again for {now - since:.0f} s has not helped. "
        reason += f"{state.job.source} was changed after the run had begun: raise run.attempt"
        return _end(state, End(Phase.FAILED, Code.CODE_MISSING, reason, str(others[0])))
    # Among those that start for the first time nobody knows whose is the newest.
    again = others if state.code else sorted(found)
    pause = min(LONGEST_PULL_PAUSE, 1.0 + (now - since))
    state = replace(
        _asked_again(state, again),
        differ_since=since,
        differ_pulls=state.differ_pulls + 1,
        not_before=now + pause,
    )
    return state, (Say(f"{text}; {_names(again, state.job.tasks, 'pull')} it again"),)


def _asked_again(state: State, tasks: Iterable[Task]) -> State:
    pulls = {**state.pulls, **{task: state.pulls.get(task, 0) + 1 for task in tasks}}
    return replace(state, pulls=pulls)


def _success(state: State) -> End | None:
    mode = state.job.mode
    workers = [task for task in state.job.tasks if mode.decides_success(task)]
    if state.job.success == "Chief":
        workers = [mode.chief]
    if not state.done.issuperset(workers):
        return None
    chief = state.seats.get(mode.chief)
    lines = chief.child.last_lines if chief and chief.child else ()
    who = str(workers[0]) if len(workers) == 1 else f"all {len(workers)} workers"
    reason = f"{who} ended with exit code 0"
    return End(Phase.SUCCEEDED, Code.OK, reason, str(mode.chief), lines)


def _judge(state: State, now: float) -> Step:
    """Finds the root cause of what failed; ends the run with it, or lets it go on."""
    # The evaluator only looks on: it explains nothing, and never ends the run. A server fails for
    # want of no program; which of the two was seen first is chance, for both go in milliseconds.
    runs_program = state.job.mode.runs_program
    failures = sorted(
        state.failures.values(),
        key=lambda f: (
            f.task.role == EVALUATOR,
            not f.free,
            not f.lost,
            runs_program(f.task),
            f.at,
        ),
    )
    root = failures[0]
    if root.task.role == EVALUATOR:
        state = replace(state, not_before=now + EVALUATOR_BACKOFF)
    elif not root.free:
        charges = _lately(state, state.charges, now)
        state = replace(state, charges=(*charges, now))
        why = _final(state, root)
        everybody = frozenset(state.job.tasks)
        if why and not state.forming >= everybody:
            # Only once all have been heard from: one that is gone would explain it.
            state = replace(state, charges=charges)
            return _form_with(state, everybody), (Say(f"{root.task}: {why}; all tasks stop"),)
        if why:
            reason = f"{root.task} failed: {root.reason}, {why}"
            return _end(
                # A server that ends with 0 has failed all the same.
                state,
                End(Phase.FAILED, root.code or 1, reason, str(root.task), root.last_lines),
            )
        backoff = min(LONGEST_BACKOFF, 2.0 ** (len(state.charges) - 2))
        state = replace(state, not_before=now + backoff if len(state.charges) > 1 else now)
    text = _explain(state, failures, now)
    children = [state.seats[task].child for task in state.forming]
    if any(child and child.generation == state.generation for child in children):
        # Some could not even prepare for this generation: all prepare for another.
        state = replace(state, generation=state.generation + 1)
    cause = f"{root.task}: {root.reason}"
    return replace(state, failures={}, cause=cause), (Say(text),)


def _lately(state: State, times: tuple[float, ...], now: float) -> tuple[float, ...]:
    """Those that the restart budget has not forgotten yet."""
    refill = state.job.restarts.refill
    return tuple(at for at in times if not refill or now - at < refill)


def _final(state: State, root: Failure) -> str:
    """Why a failure ends the run, or nothing."""
    restarts = state.job.restarts
    if root.code in PERMANENT or root.code in restarts.permanent_codes:
        return "which another try cannot mend"
    if len(state.charges) > restarts.limit:
        return f"and the restart budget of {restarts.limit} is spent"
    return ""


def _explain(state: State, failures: list[Failure], now: float) -> str:
    root = failures[0]
    text = f"the cause: {root.task}: {root.reason}; "
    if root.free or root.task.role == EVALUATOR:
        text += "not charged to the restart budget"
    else:
        text += f"restart {len(state.charges)} of {state.job.restarts.limit}"
    collateral = ", ".join(f"{f.task} ({f.reason})" for f in failures[1:])
    text += f"; followed by {collateral}" if collateral else ""
    wait = state.not_before - now
    return text + (f"; next try in {wait:.0f} s" if wait > 0 and not root.free else "")


def _start(state: State, now: float, later: frozenset[Task] = frozenset()) -> Step:
    """Starts the tasks that are formed: all have said that nothing of theirs runs.

    Those that start later are formed once more.
    """
    job, generation = state.job, state.generation
    tasks = state.forming & frozenset(job.tasks) - later
    held = state.held
    if job.chief_first and job.mode.chief_first and job.mode.chief in tasks:
        programs = {task for task in tasks if job.mode.decides_success(task)}
        held |= programs - {job.mode.chief}
    members = {task: state.seats[task].incarnation for task in tasks}
    leaving = set(_leaving(state))
    state = replace(
        state,
        runs={**state.runs, **dict.fromkeys(tasks, generation)},
        members={**state.members, **members},
        # An end of an earlier child that is still being reported has been dealt with.
        dealt={**state.dealt, **dict.fromkeys(tasks, generation - 1)},
        done=state.done - tasks,
        hosts=_hosts(state),
        generation=generation + 1 if later else generation,
        forming=later,
        differ_since=0.0,
        differ_pulls=0,
        held=held,
        held_until=now + CHIEF_SECONDS if job.mode.chief in tasks else state.held_until,
        seats={task: seat for task, seat in state.seats.items() if task not in leaving},
    )
    state, scaling = _scale(state, down=True)
    text = f"generation {generation}: {_names(tasks, job.tasks, 'start')}"
    text += f", {job.mode.chief} first" if held & tasks else ""
    code = next((digest for task, digest in _codes(state).items() if task in tasks), "")
    if code and not state.code:
        state = replace(state, code=code)
        text += f", with code {code}"
    return state, (*scaling, Say(text))


def _hosts(state: State) -> dict[Task, str]:
    """Where the chief is, and those whose loss starts others again, by IP address."""
    mode = state.job.mode
    return {
        task: state.seats[task].address
        for task in state.job.tasks
        if (task == mode.chief or mode.losses.get(task.role, Reach.ITSELF) is not Reach.ITSELF)
        and state.seats[task].address
    }


def _end(state: State, end: End) -> Step:
    return replace(state, phase=RunPhase.ENDED), (Finish(end),)


# Taking over.


def _adopt(state: State, now: float) -> Step:
    """Rebuilds the run from what the tasks hold, once all have reported."""
    before, job, tasks = state, state.job, state.job.tasks
    if not all(task in state.seats for task in tasks):
        there = _heard_size(state)
        if not there or now - state.adopts_since < LEAVING_SECONDS:
            return state, ()
        # The last controller had asked for more pods, and there is no room for them yet.
        return _adopt(replace(state, job=there, goal=_asked(state)), now)
    if not all(task in state.seats for task in _leaving(state)):
        # One of them may still run the last generation's child, or may never have started.
        if state.complete_at is None:
            return replace(state, complete_at=now), ()
        if now - state.complete_at < LEAVING_SECONDS:
            return state, ()
    held = _holdings(state)
    if not state.leader.number:
        number = max((holds.leader.number for holds in held.values()), default=0)
        state = before = replace(state, leader=Leader(number + 1, state.leader.id))
    if any(holds.action is Action.END and holds.run == job.run for holds in held.values()):
        return _end(state, _remembered(state, now))
    generation = max(_newest(seat) for seat in state.seats.values())
    mine = [holds for holds in held.values() if holds.run == job.run]
    goes_on = {
        task: held[task] for task in tasks if task in held and _goes_on(job, task, held[task])
    }
    # Charges are taken back as well, in the newest generation: the least there knows best.
    known = [h for h in held.values() if h.program == job.program_digest]
    newest = max((holds.generation for holds in known), default=0)
    charged = min((h.charged for h in known if h.generation == newest), default=0)
    begun = {task for task, holds in held.items() if holds.generation}
    if not begun.issuperset((*(t for t in tasks if t.role != EVALUATOR), *_leaving(state))):
        charged = 0  # one that was lost may be what some of it was charged for
    running = {
        task: holds.generation
        for task, holds in goes_on.items()
        if holds.action in (Action.RUN, Action.SERVE)
    }
    state = replace(
        state,
        phase=RunPhase.LEADING,
        generation=generation,
        charges=(now,) * charged,
        pulls={task: holds.pull for task, holds in held.items()},
        commit=max(((h.generation, h.pull, h.commit) for h in mine), default=(0, 0, ""))[2],
        code=_known_code(state),
        runs=running,
        members={task: state.seats[task].incarnation for task in running},
        hosts=_hosts(state),
        done=frozenset(
            task
            for task in running
            if held[task].action is Action.SERVE or _ended_well(state.seats[task])
        ),
    )
    if job.mode.chief in state.seats:
        state = _resolved(state, state.seats[job.mode.chief])
    anew = _anew(state, held, running)
    if state.goal and not any(job.mode.runs_program(task) for task in set(running) - anew):
        lacking = [task for task in state.goal.tasks if task not in tasks]
        if any(task.role != EVALUATOR for task in lacking):
            # Nothing would train on: all wait for the whole size.
            whole = replace(before, job=state.goal, goal=None)
            heard = all(task in state.seats for task in lacking)
            return _adopt(whole, now) if heard else (whole, ())
    # What failed of those that start anyway may have failed for the same reason.
    dealt = {task: generation if task in anew else running[task] - 1 for task in tasks}
    state = replace(state, dealt=dealt)
    effects: tuple[Effect, ...] = ()
    if anew:
        state = _form_with(state, anew)
        stop = any(holds.action in (Action.RUN, Action.SERVE) for holds in held.values())
        text = f"{_names(anew, tasks, 'stop')}: " if stop else ""
        effects = (Say(f"{text}generation {state.generation} forms"),)
    else:
        leaving = set(_leaving(state))  # they go alone, and nobody waits for them
        seats = {task: seat for task, seat in state.seats.items() if task not in leaving}
        state, effects = _scale(replace(state, seats=seats), down=True)
        text = f"generation {generation}: found running, and taken over"
        text += f", with code {state.code}" if state.code else ""
        effects = (*effects, Say(text))
    for task in running:
        state, more = _take(state, state.seats[task], now, now)
        effects = (*effects, *more)
    state, more = _go_on(state, now)
    return state, (*effects, *more)


def _heard_size(state: State) -> Job | None:
    """The run at the size that was heard of, if that is what trains."""
    job = state.job
    heard = {
        role: next(i for i in range(count + 1) if i == count or Task(role, i) not in state.seats)
        for role, count in job.replicas.items()
    }
    if not all(count for role, count in heard.items() if role != EVALUATOR):
        return None
    smaller = job.resized(heard)
    trains = any(
        (holds := state.seats[task].holds)
        and holds.action is Action.RUN
        and _goes_on(smaller, task, holds)
        for task in smaller.tasks
        if job.mode.runs_program(task) and task.role != EVALUATOR
    )
    return smaller if trains else None


def _grow(state: State, now: float) -> Step:
    """The pods for a larger size are there: it takes the place of the smaller one."""
    assert state.goal
    state = replace(state, job=state.goal, goal=None)
    held = _holdings(state)
    running = {
        task: generation
        for task, generation in state.runs.items()
        if task in held and _goes_on(state.job, task, held[task])
    }
    anew = _anew(state, held, running)
    state = _form_with(state, anew | state.forming)
    text = f"{_names(anew, state.job.tasks, 'stop')}: " if anew & state.runs.keys() else ""
    state, effects = _go_on(state, now)
    return state, (Say(f"{text}generation {state.generation} forms"), *effects)


def _holdings(state: State) -> dict[Task, Holds]:
    return {task: seat.holds for task, seat in state.seats.items() if seat.holds}


def _known_code(state: State) -> str:
    """The digest of the code that the run began with, as those know it who took part."""
    digests = Counter(
        digest
        for task, digest in _codes(state).items()
        if task.role != EVALUATOR
        and (holds := state.seats[task].holds)
        and holds.run == state.job.run
        and holds.generation
    )
    return digests.most_common(1)[0][0] if digests else ""


def _goes_on(job: Job, task: Task, holds: Holds) -> bool:
    """Whether what a task holds is still what is wanted of it."""
    if holds.program != job.program_digest:
        return False
    # Where only the chief starts again for other counts, servers keep an older ClusterSpec. The
    # evaluator is in none.
    servers_keep = job.mode.resize is Reach.WITH_CHIEF and not job.mode.runs_program(task)
    keeps = servers_keep or task.role == EVALUATOR
    return holds.cluster == job.cluster_digest or keeps


def _anew(state: State, held: Mapping[Task, Holds], running: Mapping[Task, int]) -> frozenset[Task]:
    """Whom a new controller must start: the new, the lost, and all whom a change reaches."""
    job, tasks = state.job, state.job.tasks
    if not held or any(holds.program != job.program_digest for holds in held.values()):
        return frozenset(tasks)
    lost = {task for task in tasks if task not in running or not _current(state, task)}
    return job.mode.reached(lost, tasks)


def _ended_well(seat: Report) -> bool:
    child = seat.child
    return child is not None and child.code == 0 and not child.stopped


def _remembered(state: State, now: float) -> End:
    """How a run that has ended did, as its tasks still know it: no record of it was kept."""
    mode = state.job.mode
    children = [(task, seat.child) for task, seat in state.seats.items() if seat.child]
    failed = [
        Failure(task, child.generation, child.code, child.reason, now - child.ago)
        for task, child in children
        if child.code and not child.stopped
    ]
    if any(mode.decides_success(task) and child.code == 0 for task, child in children):
        return End(Phase.SUCCEEDED, Code.OK, f"{ALREADY}its workers ended with exit code 0")
    if failed:
        root = min(failed, key=lambda f: (-f.generation, f.code == DRAINED, f.at))
        return End(Phase.FAILED, root.code, f"{ALREADY}{root.reason}", str(root.task))
    return End(Phase.FAILED, Code.TRY_AGAIN, "ended already; no task remembers how")


# What is there and what is missing.


def _belongs(state: State, task: Task) -> bool:
    """Whether it is a task of the run, or a pod that is there and shall leave it."""
    wanted = _asked(state).replicas.get(task.role, 0)
    return task.index < max(state.replicas.get(task.role, 0), wanted)


def _asked(state: State) -> Job:
    """What a person asked for; it may be larger than what trains."""
    return state.goal or state.job


def _awaited(state: State) -> dict[Task, str]:
    """What the tasks lack without which the run cannot grow."""
    lacking = {}
    for task in _asked(state).tasks:
        seat = state.seats.get(task)
        if not seat:
            lacking[task] = "not heard from"
        elif not _member(state, task) and not seat.ready:
            failed = seat.child if _pull_failed(state, seat) else None
            lacking[task] = failed.reason if failed else "pulls the code"
    return lacking


def _pull_failed(state: State, seat: Report | None) -> bool:
    """Whether a task that is to join has told that it could not pull the code."""
    if not seat or seat.ready or not seat.child or not seat.holds:
        return False
    pull = state.pulls.get(seat.task, 0)
    return not _member(state, seat.task) and bool(seat.child.code) and seat.holds.pull == pull


def _member(state: State, task: Task) -> bool:
    return task.index < state.job.replicas.get(task.role, 0)


def _leaving(state: State) -> list[Task]:
    """The tasks that have a pod and are no part of the run any more."""
    return [
        Task(role, index)
        for role, there in state.replicas.items()
        for index in range(_asked(state).replicas.get(role, 0), there)
    ]


def _current(state: State, task: Task) -> bool:
    """Whether a task's pod is of the newest template."""
    revision = state.revisions.get(task.role, "")
    return not revision or state.seats[task].revision in ("", revision)


def runs(seat: Report) -> bool:
    """Whether a child of the task runs."""
    return seat.serving or (seat.child is not None and seat.child.code is None)


def _should_run(report: Report) -> bool:
    """Whether a task holds that its latest child shall run: nobody here has stopped it."""
    holds, child = report.holds, report.child
    if not holds or not child:
        return False
    return holds.action is Action.RUN and holds.generation == child.generation


def _stopping(state: State, tasks: Iterable[Task]) -> frozenset[Task]:
    """Those of the tasks whose program shall stop and still runs."""
    return frozenset(
        task
        for task in tasks
        if state.job.mode.runs_program(task)
        and (task in state.forming or task not in state.runs)
        and (seat := state.seats.get(task))
        and runs(seat)
        and not seat.serving
    )


def _leaves(state: State, seat: Report) -> bool:
    """Whether a server's pod was told to end: all others that hold something are ready."""
    return seat.holds is not None and not seat.ready and not state.job.mode.runs_program(seat.task)


def _lacks(state: State, task: Task) -> str:
    """What a task still lacks to start, or nothing."""
    seat = state.seats.get(task)
    member = _member(state, task)
    if not seat:
        return "not heard from" if member else ""
    if runs(seat):
        return "its child has not stopped"
    if not member:
        return ""
    holds, pull = seat.holds, state.pulls.get(task, 0)
    wanted = (state.leader, Action.WAIT, state.generation, state.job.digest, pull)
    held = holds and (holds.leader, holds.action, holds.generation, holds.job, holds.pull)
    if held != wanted:
        return "has not answered"
    if _leaves(state, seat):
        return "its pod is ending"
    if task in state.failures:
        return ""
    if not _current(state, task):
        return "its pod is being replaced"
    return "" if seat.ready else "pulls the code"


def _say_missing(state: State, now: float) -> Step:
    if now - state.said_at < SAY_SECONDS:
        return state, ()
    if state.phase is RunPhase.ADOPTING:
        lacking = {task: "not heard from" for task in state.job.tasks if task not in state.seats}
    else:
        awaited = sorted({*state.forming, *(_leaving(state) if state.forming else ())})
        lacking = {task: what for task in awaited if (what := _lacks(state, task))}
        if state.goal and not lacking:
            lacking = _awaited(state)
            again = [task for task in lacking if _pull_failed(state, state.seats.get(task))]
            state = _asked_again(state, again) if again else state
    if not lacking:
        return state, ()
    named = _first_of([f"{task} ({what})" for task, what in lacking.items()])
    return replace(state, said_at=now), (Say(f"waiting for {named}"),)


def _names(tasks: Iterable[Task], everybody: Iterable[Task], verb: str) -> str:
    """Who does something, in few words."""
    tasks = frozenset(tasks)
    if tasks >= frozenset(everybody):
        return f"all tasks {verb}"
    return f"{_first_of(sorted(map(str, tasks)))} {verb}" + ("s" if len(tasks) == 1 else "")


def _first_of(texts: Sequence[str], rest: str = "") -> str:
    """The first of some texts, and how many more there are."""
    more = f" and {len(texts) - SAY_TASKS} more{rest}" if len(texts) > SAY_TASKS else ""
    return ", ".join(texts[:SAY_TASKS]) + more


def _scale(state: State, down: bool, up: bool = True) -> Step:
    """Pods are made before they are needed, and go when nothing of theirs runs any more."""
    effects = tuple(
        Scale(role, wanted)
        for role, wanted in _asked(state).replicas.items()
        if (up and state.replicas.get(role, wanted) < wanted)
        or (down and state.replicas.get(role, wanted) > wanted)
    )
    replicas = {**state.replicas, **{effect.role: effect.replicas for effect in effects}}
    return replace(state, replicas=replicas), effects
