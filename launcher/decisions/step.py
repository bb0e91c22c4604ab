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

Here is what each event starts. `run_state` holds what is known; the parts of a decision are
`adopt`, `judge`, `agree` and `forming`; what a task is told of it all, `directive`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from launcher.decisions.code_agreement import agree, resolved
from launcher.decisions.failures import judge, notice, success
from launcher.decisions.forming import (
    awaited,
    chief_seconds,
    form_with,
    lacks,
    say_missing,
    scale,
    without_leaving,
)
from launcher.decisions.state import (
    Begin,
    Effect,
    Event,
    Heard,
    NoCode,
    RunPhase,
    Say,
    State,
    Step,
    asked,
    ended,
    leaving,
    newest,
    runs,
)
from launcher.decisions.takeover import adopt, grow
from launcher.shared.exits import Code, End, Phase
from launcher.shared.identity import Task
from launcher.shared.modes import EVALUATOR
from launcher.shared.protocol import Leader, Report


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
        return ended(state, End(Phase.FAILED, Code.CODE_MISSING, event.reason))
    if isinstance(event, Heard):
        return _hear(state, event.report, now)
    if state.phase is RunPhase.STARTING:
        return state, ()
    deadline = state.job.deadline
    if deadline and now - state.began_at >= deadline:
        reason = f"the run has not ended within its deadline of {deadline:g} s"
        return ended(state, End(Phase.FAILED, Code.DEADLINE, reason))
    state, effects = _go_on(state, now)
    state, more = say_missing(state, now)
    return state, (*effects, *more)


def _begin(state: State, event: Begin, now: float) -> Step:
    state = replace(state, leader=Leader(event.number, state.leader.id))
    if event.end:
        # Tasks that are still there may not know yet, and nobody waits for those that leave.
        state, effects = scale(replace(state, replicas=event.replicas), down=True, up=False)
        state, more = ended(state, event.end)
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
    state, effects = scale(replace(state, seats=seats), down=False)
    there = {role: min(n, event.replicas.get(role, n)) for role, n in state.job.replicas.items()}
    if there != state.job.replicas and all(there.values()):
        state = replace(state, job=state.job.resized(there), goal=state.job)
    state, more = _go_on(state, now)
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
            state = resolved(state, report)
    if before and before.incarnation != report.incarnation:
        # Nothing of its own has been dealt with; it may fail to prepare as the last one did.
        state = replace(state, dealt={**state.dealt, task: state.generation - 1})
    if state.phase is RunPhase.STARTING:
        return state, ()
    unnumbered = state.phase is RunPhase.ADOPTING and not state.leader.number
    if not unnumbered and _follows_younger(state, report):
        return _yield(state)
    if state.phase is RunPhase.ADOPTING:
        return _go_on(state, now)
    later = _misled(state, report)
    if later:
        # An older controller led a while longer; no generation is used twice.
        later += 1 if state.forming else 0
        state = replace(state, generation=max(state.generation, later))
        if task not in state.done or task in state.forming:
            reached = state.job.mode.reached([task], state.job.tasks)
            state = form_with(state, reached | state.forming)
    state, effects = notice(state, report, lost_after, now)
    state, more = _go_on(state, now)
    return state, (*effects, *more)


def _go_on(state: State, now: float) -> Step:
    """Takes over, and leads from then on."""
    effects: tuple[Effect, ...] = ()
    if state.phase is RunPhase.ADOPTING:
        state, effects = adopt(state, now)
        if state.phase is not RunPhase.LEADING:
            return state, effects
        for task in state.runs:
            state, more = notice(state, state.seats[task], now, now)
            effects = (*effects, *more)
    state, more = _lead(state, now)
    return state, (*effects, *more)


def _lead(state: State, now: float) -> Step:
    """Ends a run that is done, starts tasks that are formed."""
    end = success(state)
    if end:
        return ended(state, end)
    if state.goal and not state.forming:
        state, freed = without_leaving(state)
        if freed:
            return state, freed
    if state.goal and not awaited(state):
        state, grown = grow(state)
        state, more = _lead(state, now)
        return state, (*grown, *more)
    if state.held and state.job.mode.chief in state.done:
        return _lead(replace(state, held=frozenset()), now)
    if state.held and now >= state.held_until:
        seconds = chief_seconds(state.job)
        text = f"the chief's session is not up after {seconds:g} s; the others start"
        return replace(state, held=frozenset()), (Say(text),)
    if not state.forming or (state.failures and now < state.settled_at):
        return state, ()
    if any(lacks(state, task) for task in (*state.forming - _late(state), *leaving(state))):
        return state, ()
    effects: tuple[Effect, ...] = ()
    if state.failures:
        state, effects = judge(state, now)
        if state.phase is RunPhase.ENDED or state.failures:
            return state, effects
    late = _late(state)
    if now < state.not_before or any(lacks(state, task) for task in state.forming - late):
        return state, effects
    state, more = agree(state, now, late)
    return state, (*effects, *more)


def _late(state: State) -> frozenset[Task]:
    """An evaluator that is not ready where others are: nobody waits for it."""
    late = frozenset(t for t in state.forming if t.role == EVALUATOR and lacks(state, t))
    return late if late < state.forming else frozenset()


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
    generation = newest(report)
    if task in state.forming or task not in state.runs:
        return generation if generation >= state.generation else 0
    return generation if generation > state.runs[task] else 0


def _belongs(state: State, task: Task) -> bool:
    """Whether it is a task of the run, or a pod that is there and shall leave it."""
    wanted = asked(state).replicas.get(task.role, 0)
    return task.index < max(state.replicas.get(task.role, 0), wanted)


def _stopping(state: State, tasks: Iterable[Task]) -> frozenset[Task]:
    """Those of the tasks whose program shall stop and still runs."""
    return frozenset(
        task
        for task in tasks
        if state.job.mode.decides_success(task)
        and (task in state.forming or task not in state.runs)
        and (seat := state.seats.get(task))
        and runs(seat)
        and not seat.serving
    )
