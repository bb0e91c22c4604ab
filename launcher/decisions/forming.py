"""Forms a generation: which tasks, what they still lack, their pods, the start. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from launcher.decisions.state import (
    RunPhase,
    Say,
    Scale,
    Seat,
    State,
    Step,
    awaits_pods,
    current,
    digests,
    forget_reports,
    latest_generation,
    leaving,
    member,
    pull_again,
    reports,
    runs,
    told_to_end,
    with_orders,
)
from launcher.shared.identity import Task
from launcher.shared.job import Job
from launcher.shared.modes import EVALUATOR, Reach
from launcher.shared.protocol import Action

# How long we wait for a silent task to report. A live task reports more often.
LEAVING_SECONDS = 40.0
SAY_SECONDS = 10.0  # between two lines about what the run waits for
SAY_TASKS = 10  # how many tasks one line names
# How long the other tasks wait for the chief's session before they start anyway. We wait longer if
# `checkpoints` is set, since the session then shows there: restoring a large model takes time. We
# wait at most half of `hangTimeout`, because a chief that needs the others must not count as hung.
CHIEF_SECONDS = 20.0
SAVING_CHIEF_SECONDS = 120.0


def form_with(state: State, tasks: Iterable[Task]) -> State:
    """Makes tasks form, in one generation with those that form already."""
    before, tasks = state.forming, frozenset(tasks)
    if before >= tasks:
        return state
    generation = latest_generation(state) if before else latest_generation(state) + 1
    state = with_orders(state, tasks - before, forming=True)
    state = replace(state, generation=generation, disagreement=None)
    job = state.job
    programs = [task for task in job.tasks if job.mode.decides_success(task)]
    all_form = state.forming.issuperset(programs) and not before.issuperset(programs)
    if job.delivery.refresh and all_form:
        # The new generation pulls the code again, and so does the evaluator.
        alone = [task for task in job.tasks if task.role == EVALUATOR]
        state = pull_again(state, [*programs, *alone])
        state = replace(with_orders(state, alone, forming=True), commit=None, digest=None)
    return state


def lacks(state: State, task: Task) -> str | None:
    """What a task still lacks to start, for people; None if nothing."""
    seat = state.seat(task)
    report, is_member = seat.report, member(state, task)
    if not report:
        return "not heard from" if is_member else None
    if runs(report):
        return "its child has not stopped"
    holds = report.holds
    # Until it holds our WAIT, an older controller that still lives can tell it to run.
    if not holds or (holds.leader, holds.action) != (state.leader, Action.WAIT):
        return "has not answered"
    if not is_member:
        return None
    expected = (state.generation, state.job.digest, seat.orders.pull)
    if (holds.generation, holds.job_digest, holds.pull) != expected:
        return "has not answered"
    if told_to_end(state, report):
        return "its pod is terminating"
    if seat.failure:
        return None
    if not current(state, report):
        return "its pod is being replaced"
    return None if report.can_start else "pulls the code"


def may_train(state: State, task: Task, now: float) -> bool:
    """Whether a leaving task may still train with servers of the last generation.

    A task whose last report has a running child may. Any other may until it follows this
    controller, or has been silent for LEAVING_SECONDS.
    """
    seat = state.seat(task)
    if not lacks(state, task) or not seat.report:
        return False
    return runs(seat.report) or _silent_for(state, task, now) < LEAVING_SECONDS


def _silent_for(state: State, task: Task, now: float) -> float:
    """For how many seconds a task has not reported; 0 if it never has."""
    heard_at = state.seat(task).heard_at
    return 0.0 if heard_at is None else now - heard_at


def awaited(state: State) -> dict[Task, str]:
    """What each task still lacks before the run can grow; empty if nothing."""
    lacking = {}
    for task in state.wanted.tasks:
        report = state.seat(task).report
        if not report:
            lacking[task] = "not heard from"
        elif not member(state, task) and not report.can_start:
            failed = report.child if _pull_failed(state, task) else None
            lacking[task] = failed.reason if failed else "pulls the code"
    return lacking


def _pull_failed(state: State, task: Task) -> bool:
    """Whether a task that is to join has reported that it could not pull the code."""
    seat = state.seat(task)
    report = seat.report
    if (
        member(state, task)
        or not report
        or report.can_start
        or not report.child
        or not report.holds
    ):
        return False
    return bool(report.child.exit_code) and report.holds.pull == seat.orders.pull


def say_missing(state: State, now: float) -> Step:
    """Every SAY_SECONDS, logs what the run waits for, and retries failed pulls and sizes."""
    if state.said_at is not None and now - state.said_at < SAY_SECONDS:
        return state, ()
    done = ""
    lacking: dict[Task, str]
    if state.phase is RunPhase.ADOPTING:
        heard = reports(state)
        tasks = [*state.job.tasks, *leaving(state)]
        lacking = {task: "not heard from" for task in tasks if task not in heard}
    else:
        tasks = sorted({*state.forming, *(leaving(state) if state.forming else ())})
        lacking = {task: what for task in tasks if (what := lacks(state, task))}
        if awaits_pods(state) and not lacking:
            lacking = awaited(state)
            failed = [task for task in lacking if _pull_failed(state, task)]
            state = pull_again(state, failed) if failed else state
    # Somebody else may have scaled the StatefulSet: `helm upgrade --force-replace` sets it to 1.
    gone = {t.role for t in state.job.tasks if _silent_for(state, t, now) >= LEAVING_SECONDS}
    gone |= {task.role for task in lacking if state.seat(task).heard_at is None}
    again = [Scale(role, pods) for role, pods in state.pods.items() if role in gone]
    if state.phase is not RunPhase.ADOPTING:
        lacking = {**lacking, **_stuck(state, now)}
        if not lacking:
            lacking = _quiet(state, now)
            done = first_of([str(task) for task, seat in state.seats.items() if seat.orders.done])
    if not lacking:
        return state, ()
    named = first_of([f"{task} ({what})" for task, what in lacking.items()])
    text = f"waiting for {named}" + (f"; ended with exit code 0: {done}" if done else "")
    return replace(state, said_at=now), (Say(text), *again)


def _stuck(state: State, now: float) -> dict[Task, str]:
    """What tasks that were told to run wait for."""
    stuck = {}
    for task in state.job.tasks:
        seat = state.seat(task)
        report, orders = seat.report, seat.orders
        if not report or orders.forming or orders.generation is None:
            continue  # see `lacks`
        silent_for = _silent_for(state, task, now)
        if silent_for >= LEAVING_SECONDS:
            stuck[task] = f"not heard from for {silent_for:.0f} s"
        elif orders.waits_for_chief:
            stuck[task] = f"waits for the session of {state.job.mode.chief}"
        elif not orders.done and (not report.child or report.child.generation < orders.generation):
            program = state.job.mode.runs_program(task)
            stuck[task] = "waits for the servers" if program else "pulls the code"
    return stuck


def _quiet(state: State, now: float) -> dict[Task, str]:
    """What programs wait for, if none makes progress: said each time that this time has doubled."""
    quiet, least = {}, math.inf
    for task, seat in state.seats.items():
        report, orders = seat.report, seat.orders
        child = report.child if report else None
        decides = state.job.mode.decides_success(task) and member(state, task)
        if not decides or orders.done or not child or seat.heard_at is None:
            continue
        if child.exit_code is not None or not child.quiet:
            return {}
        quiet_for = child.quiet + now - seat.heard_at
        least = min(least, quiet_for)
        last = f"; its last line: {child.last_lines[-1]}" if child.last_lines else ""
        quiet[task] = f"no progress for {quiet_for:.0f} s{last}"
    return {} if state.said_at is not None and now - state.said_at < least / 2 else quiet


def start(state: State, now: float, later: frozenset[Task] = frozenset()) -> Step:
    """Starts the forming tasks, all of which have reported that no child of theirs runs.

    The tasks in `later` go on forming, for the next generation.
    """
    job, generation = state.job, latest_generation(state)
    tasks = state.forming & frozenset(job.tasks) - later
    state = with_orders(state, state.forming - later, forming=False)
    state = replace(state, seats={**state.seats, **_started(state, tasks)})
    state = replace(
        _awaiting_chief(state, tasks, now),
        hosts=hosts(state),
        generation=generation + 1 if later else generation,
        disagreement=None,
        said_at=now,
    )
    text = f"generation {generation}: {names(tasks, job.tasks, 'start')}"
    if any(state.seat(task).orders.waits_for_chief for task in tasks):
        text += f", {job.mode.chief} first"
    state, scaling = _let_go(state)
    digest = next((digest for task, digest in digests(state).items() if task in tasks), None)
    if digest and not state.digest:
        state = replace(state, digest=digest)
        text += f", with code {digest}"
    return state, (*scaling, Say(text))


def _started(state: State, tasks: Iterable[Task]) -> dict[Task, Seat]:
    """The seats of tasks that start in the latest generation."""
    generation = latest_generation(state)
    seats = {}
    for task in tasks:
        seat = state.seats[task]
        assert seat.report
        incarnation = seat.report.incarnation
        orders = replace(seat.orders, generation=generation, incarnation=incarnation, done=False)
        # Ends of earlier children may be reported again, but were handled already.
        seats[task] = replace(seat, orders=orders, news_from=generation)
    return seats


def _awaiting_chief(state: State, tasks: frozenset[Task], now: float) -> State:
    """In modes with chief_first, makes programs that start with the chief wait for its session.

    They do not wait if the session is known to wait for them.
    """
    job = state.job
    chief = job.mode.chief
    if chief not in tasks:
        return state
    if job.chief_first and job.mode.chief_first and not chief_calls(state):
        programs = [task for task in tasks if job.mode.decides_success(task) and task != chief]
        state = with_orders(state, programs, waits_for_chief=True)
    waits = any(seat.orders.waits_for_chief for seat in state.seats.values())
    return replace(state, chief_due_at=now + chief_seconds(job) if waits else None)


def chief_calls(state: State) -> bool:
    """Whether the chief of this run has connected to a worker whose program had not started.

    Such a session has no device filters, or not those that keep workers apart: it needs them all.
    """
    heard = (seat.report for seat in state.seats.values())
    return any(r and r.called and r.holds and r.holds.run == state.job.run for r in heard)


def chief_awaited_no_more(state: State) -> State:
    """Starts the tasks that wait for the chief."""
    if state.chief_due_at is None:
        return state
    waiting = [task for task, seat in state.seats.items() if seat.orders.waits_for_chief]
    return replace(with_orders(state, waiting, waits_for_chief=False), chief_due_at=None)


def without_leaving(state: State, now: float) -> Step:
    """Removes the pods of leaving tasks, where no task has to restart for it.

    A run that waits for more pods is about to restart, so it removes pods only when their tasks
    have stopped.
    """
    gone = leaving(state)
    if not gone or (awaits_pods(state) and any(may_train(state, task, now) for task in gone)):
        return state, ()
    return _let_go(state)


def _let_go(state: State) -> Step:
    """Removes the pods of leaving tasks, and forgets these tasks' reports."""
    return scale(forget_reports(state, leaving(state)), down=True)


def chief_seconds(job: Job) -> float:
    """How long the other tasks wait for the chief's session, in seconds."""
    seconds = SAVING_CHIEF_SECONDS if job.checkpoints else CHIEF_SECONDS
    return min(seconds, job.hang_timeout / 2) if job.hang_timeout else seconds


def hosts(state: State) -> dict[Task, str]:
    """The IP addresses of the chief and of the tasks whose loss restarts others."""
    mode = state.job.mode
    return {
        task: report.address
        for task in state.job.tasks
        if (task == mode.chief or mode.losses.get(task.role, Reach.ITSELF) is not Reach.ITSELF)
        and (report := state.seat(task).report)
        and report.address
    }


def scale(state: State, down: bool, up: bool = True) -> Step:
    """Scales to the wanted counts: with `up` roles that grow, with `down` roles that shrink."""
    effects = tuple(
        Scale(role, wanted)
        for role, wanted in state.wanted.replicas.items()
        if (up and state.pods.get(role, wanted) < wanted)
        or (down and state.pods.get(role, wanted) > wanted)
    )
    pods = {**state.pods, **{effect.role: effect.replicas for effect in effects}}
    return replace(state, pods=pods), effects


def names(tasks: Iterable[Task], everybody: Iterable[Task], verb: str) -> str:
    """Who does something, as text: `worker-1 stops`, `all tasks stop`."""
    tasks = frozenset(tasks)
    if tasks >= frozenset(everybody):
        return f"all tasks {verb}"
    return f"{first_of(sorted(map(str, tasks)))} {verb}" + ("s" if len(tasks) == 1 else "")


def first_of(texts: Sequence[str], rest: str = "") -> str:
    """The first few texts, and how many more there are."""
    more = f" and {len(texts) - SAY_TASKS} more{rest}" if len(texts) > SAY_TASKS else ""
    return ", ".join(texts[:SAY_TASKS]) + more
