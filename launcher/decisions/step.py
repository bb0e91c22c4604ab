"""All decisions about a run, as a pure function: `step(state, event, now)`.

No I/O, no clock, no randomness. `state` defines the State and the phases of a run. A generation is
the number of a start: it grows whenever tasks start or restart. A generation forms until all of its
tasks have reported that no child of theirs runs; then they start together. `modes` tells which
tasks restart when one is lost: only that one, or others too. A failure can end the run only when
all tasks have reported after it, because the loss of another task may be its root cause.

This module handles each event. The parts of a decision are in `takeover`, `failures`,
`code_agreement` and `forming`; `directive` makes each task's directive.
"""

from __future__ import annotations

from dataclasses import replace

from launcher.decisions.code_agreement import agree, resolved
from launcher.decisions.failures import judge, notice, success
from launcher.decisions.forming import (
    awaited,
    chief_awaited_no_more,
    chief_calls,
    chief_seconds,
    form_with,
    lacks,
    may_train,
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
    awaits_pods,
    ended,
    forget_reports,
    latest_generation,
    leaving,
    newest,
    reports,
    with_seat,
)
from launcher.decisions.takeover import adopt, grow
from launcher.shared.exits import End, ExitCode, Phase
from launcher.shared.identity import Task
from launcher.shared.modes import EVALUATOR
from launcher.shared.protocol import Leader, Report


def step(state: State, event: Event, now: float) -> Step:
    """The next state, and the effects to carry out in this order."""
    if state.phase in (RunPhase.ENDED, RunPhase.YIELDED):
        return state, ()
    if isinstance(event, Begin):
        return _begin(state, event, now)
    if isinstance(event, NoCode):
        if reports(state):
            return state, ()  # a task has started nevertheless
        return ended(state, End(Phase.FAILED, ExitCode.CODE_MISSING, event.reason))
    if isinstance(event, Heard):
        return _hear(state, event.report, now)
    return _tick(state, now)


def _tick(state: State, now: float) -> Step:
    if state.phase is RunPhase.STARTING:
        return state, ()
    deadline = state.job.deadline
    if deadline and state.began_at is not None and now - state.began_at >= deadline:
        reason = f"the run has not ended within its deadline of {deadline:g} s"
        return ended(state, End(Phase.FAILED, ExitCode.DEADLINE, reason))
    state, effects = _go_on(state, now)
    state, more = say_missing(state, now)
    return state, (*effects, *more)


def _begin(state: State, event: Begin, now: float) -> Step:
    state = replace(state, leader=Leader(event.number, state.leader.id), pods=event.pods)
    if event.end:
        # Pods of the run stay because their tasks may not know the end yet. Leaving tasks need not.
        state, effects = scale(state, down=True, up=False)
        state, more = ended(state, event.end)
        return state, (*effects, *more)
    state = replace(
        state,
        phase=RunPhase.ADOPTING,
        revisions=event.revisions,
        began_at=now - event.age,
        said_at=now,
        adopts_since=now,
    )
    state = forget_reports(state, [task for task in state.seats if not _belongs(state, task)])
    if event.number and any(_follows_younger(state, each) for each in reports(state).values()):
        return _yield(state)
    job = state.job
    counts = ", ".join(f"{count} {role}" for role, count in job.replicas.items())
    state, effects = scale(state, down=False)
    existing = {role: min(n, event.pods.get(role, n)) for role, n in job.replicas.items()}
    if existing != job.replicas and all(existing.values()):
        state = replace(state, job=job.resized(existing))
    state, more = _go_on(state, now)
    return state, (Say(f"run {job.run}: {counts}"), *effects, *more)


def _hear(state: State, report: Report, now: float) -> Step:
    task = report.task
    seat = state.seat(task)
    before = seat.report
    if before and before.incarnation == report.incarnation and before.sequence > report.sequence:
        return state, ()  # a newer report has overtaken it
    if state.phase is not RunPhase.STARTING and not _belongs(state, task):
        return state, ()
    lost_after = now if seat.heard_at is None else seat.heard_at
    news_from = seat.news_from
    if before and before.incarnation != report.incarnation:
        # We have handled nothing of the new launcher yet. It may fail to prepare in the same
        # generation as the launcher before it.
        news_from = latest_generation(state)
    state = with_seat(state, task, report=report, heard_at=now, news_from=news_from)
    if task == state.job.mode.chief:
        if _step_of(before) != _step_of(report):
            state = replace(state, moved_at=now)
        if state.phase is RunPhase.LEADING:
            state = resolved(state, report)
    if state.phase is RunPhase.STARTING:
        return state, ()
    unnumbered = state.phase is RunPhase.ADOPTING and not state.leader.number
    if not unnumbered and _follows_younger(state, report):
        return _yield(state)
    if state.phase is RunPhase.ADOPTING:
        return _go_on(state, now)
    state, effects = notice(_after_misleading(state, report), report, lost_after, now)
    state, more = _go_on(state, now)
    return state, (*effects, *more)


def _go_on(state: State, now: float) -> Step:
    """Takes over if it has not yet, then leads."""
    effects: tuple[Effect, ...] = ()
    if state.phase is RunPhase.ADOPTING:
        state, effects = adopt(state, now)
        if state.phase is not RunPhase.LEADING:
            return state, effects
        for task in state.job.tasks:
            seat = state.seat(task)
            if seat.report and seat.orders.generation is not None:
                state, more = notice(state, seat.report, now, now)
                effects = (*effects, *more)
    state, more = _lead(state, now)
    return state, (*effects, *more)


def _lead(state: State, now: float) -> Step:
    """Ends a run that is done, adapts it to the pods that exist, starts forming tasks."""
    end = success(state)
    if end:
        return ended(state, end)
    effects: tuple[Effect, ...] = ()
    if awaits_pods(state) and not state.forming:
        state, effects = without_leaving(state, now)
        if effects:
            return state, effects
    if awaits_pods(state) and not awaited(state):
        state, effects = grow(state)
    state, more = _await_chief(state, now)
    if not more:
        state, more = _form(state, now)
    return state, (*effects, *more)


def _await_chief(state: State, now: float) -> Step:
    """Starts the tasks that wait for the chief, when it has succeeded, needs them, or is late."""
    if state.chief_due_at is None:
        return state, ()
    if state.seat(state.job.mode.chief).orders.done:
        return chief_awaited_no_more(state), ()
    if chief_calls(state):
        text = "the chief's session connects to the other workers, so they start now"
    elif now >= state.chief_due_at:
        seconds = chief_seconds(state.job)
        text = f"the chief's session is not up after {seconds:g} s; the others start anyway"
    else:
        return state, ()
    return chief_awaited_no_more(state), (Say(text),)


def _form(state: State, now: float) -> Step:
    """Judges the failures and starts the forming tasks, once they lack nothing."""
    settles = state.settled_at is not None and now < state.settled_at
    if not state.forming or settles:
        return state, ()
    if any(lacks(state, task) for task in state.forming - _late(state)):
        return state, ()
    if any(may_train(state, task, now) for task in leaving(state)):
        return state, ()
    effects: tuple[Effect, ...] = ()
    if state.settled_at is not None:
        state, effects = judge(state, now)
        if state.phase is RunPhase.ENDED or state.settled_at is not None:
            return state, effects
    late = _late(state)
    pauses = state.not_before is not None and now < state.not_before
    if pauses or any(lacks(state, task) for task in state.forming - late):
        return state, effects
    state, more = agree(state, now, late)
    return state, (*effects, *more)


def _late(state: State) -> frozenset[Task]:
    """The evaluator, if it lacks something and others form too: they do not wait for it."""
    late = frozenset(t for t in state.forming if t.role == EVALUATOR and lacks(state, t))
    return late if late < state.forming else frozenset()


def _step_of(report: Report | None) -> tuple[int, int | None, str] | None:
    child = report.child if report else None
    return (child.generation, child.global_step, child.epoch) if child else None


def _follows_younger(state: State, report: Report) -> bool:
    return report.holds is not None and report.holds.leader > state.leader


def _yield(state: State) -> Step:
    text = "a younger controller leads this run now; this one yields"
    return replace(state, phase=RunPhase.YIELDED), (Say(text),)


def _after_misleading(state: State, report: Report) -> State:
    """Handles a task to which an older controller gave a later generation meanwhile.

    No generation is used twice, so this controller forms a later one.
    """
    task = report.task
    orders = state.seat(task).orders
    told = _misled(state, report)
    if told is None:
        return state
    least = told + 1 if state.forming else told
    state = replace(state, generation=max(latest_generation(state), least))
    if orders.done and not orders.forming:
        return state
    reached = state.job.mode.reached([task], state.job.tasks)
    return form_with(state, reached | state.forming)


def _misled(state: State, report: Report) -> int | None:
    """The later generation that another controller gave a task; None if none did."""
    orders, holds = state.seat(report.task).orders, report.holds
    if holds and holds.leader == state.leader:
        return None
    generation = newest(report)
    if orders.forming or orders.generation is None:
        return generation if generation >= latest_generation(state) else None
    return generation if generation > orders.generation else None


def _belongs(state: State, task: Task) -> bool:
    """Whether it is a task of the run, or a leaving one that still has a pod."""
    wanted = state.wanted.replicas.get(task.role, 0)
    return task.index < max(state.pods.get(task.role, 0), wanted)
