"""Judges how children end: success or failure, whose fault, restart or end of the run. Pure."""

from __future__ import annotations

import re
import signal
from dataclasses import replace

from launcher.decisions.errors import error_of, mistake_of
from launcher.decisions.forming import chief_awaited_no_more, form_with, names
from launcher.decisions.state import (
    Blame,
    Failure,
    Progress,
    Say,
    State,
    Step,
    ended,
    latest_generation,
    member,
    reports,
    told_to_end,
    with_orders,
    with_seat,
)
from launcher.shared.exits import End, ExitCode, Phase, signalled
from launcher.shared.modes import EVALUATOR
from launcher.shared.protocol import Action, ChildReport, Report

SETTLE_SECONDS = 0.5  # how long after a follow-up failure the root cause may be reported
LATE_SECONDS = 5.0  # how old a report may be when it arrives
LONGEST_BACKOFF = 60.0
EVALUATOR_BACKOFF = 10.0
# The launcher's own exit codes that a restart cannot repair.
PERMANENT = frozenset({ExitCode.USAGE, ExitCode.CODE_MISSING, ExitCode.CONFIGURATION})
# A drain or a deleted pod ends a child with SIGTERM. If that happens more than DRAINS times within
# restarts.refill while the launcher lives on, it is the program's fault.
DRAINED = signalled(signal.SIGTERM)
DRAINS = 2


# What a report tells.


def notice(state: State, report: Report, lost_after: float, now: float) -> Step:
    """Handles what a report tells of the task's child: nothing new, done, or failed.

    `lost_after` is the time of the report before: a child that was lost since then ended after it.
    """
    task, child = report.task, report.child
    orders = state.seat(task).orders
    if orders.incarnation not in (None, report.incarnation):
        if orders.done and not orders.forming:
            return state, ()
        state = with_orders(state, [task], incarnation=report.incarnation)
        if not orders.done:
            return _launcher_lost(state, report, lost_after, now)
    if not child or not member(state, task):
        return state, ()
    if child.up and task == state.job.mode.chief and child.generation == orders.generation:
        state = chief_awaited_no_more(state)
    if child.exit_code is None:
        return _child_runs(state, report, child, now)
    if child.generation < state.seat(task).news_from:
        return state, ()
    state = with_seat(state, task, news_from=child.generation + 1)
    return _child_ended(state, report, child, child.exit_code, lost_after, now)


def _launcher_lost(state: State, report: Report, lost_after: float, now: float) -> Step:
    """The launcher that ran the task's child is gone, and the child with it."""
    task, child = report.task, report.child
    generation = state.seat(task).orders.generation
    assert generation is not None  # the lost launcher ran it
    if not report.holds and child and child.exit_code and child.generation == generation:
        # The new launcher has found the crash marker: the child was not told to end.
        state = with_seat(state, task, news_from=generation + 1)
        blame, exit_code, reason = Blame.WITH_LAUNCHER, child.exit_code, child.reason
    else:
        blame, exit_code = Blame.OUTSIDE, DRAINED
        reason = "its pod or its launcher was restarted"
    return _fail(state, Failure(task, generation, exit_code, reason, lost_after, blame), now)


def _child_runs(state: State, report: Report, child: ChildReport, now: float) -> Step:
    """A child that hangs has failed; a server whose pod terminates is lost."""
    task = report.task
    orders = state.seat(task).orders
    if orders.forming or orders.generation is None:
        return state, ()
    if child.hung and child.generation == orders.generation:
        reason = f"no progress for {state.job.hang_timeout:g} s"
        failure = Failure(
            task, child.generation, ExitCode.DEADLINE, reason, now, Blame.PROGRAM, child.last_lines
        )
        return _fail(state, failure, now, everybody=task.role != EVALUATOR)
    if told_to_end(state, report):
        # The server still runs, so that the chief can save.
        reason = "its pod is terminating"
        failure = Failure(task, child.generation, DRAINED, reason, now, Blame.OUTSIDE)
        return _fail(state, failure, now)
    return state, ()


def _child_ended(
    state: State,
    report: Report,
    child: ChildReport,
    exit_code: int,
    lost_after: float,
    now: float,
) -> Step:
    """A child has succeeded, has stopped as it was told to, or has failed."""
    task = report.task
    orders = state.seat(task).orders
    if child.stopped:
        if orders.generation is None or orders.done:
            return state, ()
        if orders.forming and not _should_run(report):
            return state, ()  # it stopped as it was told to
        blame, reason = Blame.OUTSIDE, "it was stopped from outside"
    elif exit_code == 0 and state.job.mode.runs_program(task):
        return (state if orders.forming else with_orders(state, [task], done=True)), ()
    elif (
        orders.forming and state.settled_at is None and child.generation < latest_generation(state)
    ):
        return state, ()  # a follow-up failure: other tasks have stopped before it
    else:
        blame, reason = Blame.PROGRAM, child.reason
        if exit_code == DRAINED:
            state, blame = _drained(state, report, now)
        mistake = mistake_of(exit_code, child.last_lines)
        reason += f", {mistake} (see docs/failures.md)" if mistake else ""
    at = lost_after if blame is Blame.OUTSIDE else now - child.ago
    failure = Failure(
        task, child.generation, exit_code, reason, at, blame, child.last_lines, _progress(state)
    )
    return _fail(state, failure, now)


def _progress(state: State) -> Progress:
    """The latest epoch and step that a program has reported; the evaluator's are not the run's."""
    heard = reports(state).items()
    children = [each.child for task, each in heard if each.child and task.role != EVALUATOR]
    epochs = [re.match(r"\d+", child.epoch) for child in children]
    return Progress(
        max((int(epoch[0]) for epoch in epochs if epoch), default=0),
        max((child.global_step or 0 for child in children), default=0),
    )


def _drained(state: State, report: Report, now: float) -> tuple[State, Blame]:
    """Whose fault the end of a child by SIGTERM is: the program's, if that happens too often."""
    drains = (*_lately(state, state.seat(report.task).drains, now), now)
    outside = len(drains) <= DRAINS
    return (
        with_seat(state, report.task, drains=drains),
        Blame.OUTSIDE if outside else Blame.PROGRAM,
    )


def _should_run(report: Report) -> bool:
    """Whether the directive that a task holds lets its latest child run."""
    holds, child = report.holds, report.child
    if not holds or not child:
        return False
    return holds.action is Action.RUN and holds.generation == child.generation


def _fail(state: State, failure: Failure, now: float, everybody: bool = False) -> Step:
    """Records a failure, and makes all tasks that it reaches form."""
    task = failure.task
    known = state.seat(task).failure
    if known and (known.blame is not Blame.PROGRAM or failure.blame is Blame.PROGRAM):
        return state, ()
    tasks = state.job.tasks
    if failure.blame is not Blame.PROGRAM and task.role != EVALUATOR:
        # Later failures may be follow-up failures, so we take their charges back. Earlier
        # failures stay charged.
        outside = failure.blame is Blame.OUTSIDE
        since = failure.at - LATE_SECONDS if outside else failure.at
        state = replace(state, charges=tuple(at for at in state.charges if at <= since))
    reached = state.job.mode.reached([task], tasks)
    if everybody:
        reached |= state.job.mode.reached(tasks, tasks)
    if state.settled_at is None:
        state = replace(state, settled_at=now + SETTLE_SECONDS)
    state = with_seat(state, task, failure=failure)
    who = names(reached, tasks, "stop")
    text = f"generation {failure.generation}: lost {task}: {failure.reason}; {who}"
    if task.role != EVALUATOR and all(t.role == EVALUATOR for t in state.forming):
        state = replace(state, not_before=None)  # the pause was the evaluator's
    return form_with(state, reached | state.forming), (Say(text),)


# Success, restart, or the end of the run.


def success(state: State) -> End | None:
    """The end of a successful run; None until all programs that must succeed have."""
    mode = state.job.mode
    chief_decides = state.job.success == "Chief"
    deciding = [mode.chief] if chief_decides else filter(mode.decides_success, state.job.tasks)
    if not all(state.seat(task).orders.done for task in deciding):
        return None
    count = 1 if chief_decides else sum(map(mode.decides_success, state.job.tasks))
    report = state.seat(mode.chief).report
    lines = report.child.last_lines if report and report.child else ()
    who = str(mode.chief) if count == 1 else f"all {count} workers"
    reason = f"{who} ended with exit code 0"
    return End(Phase.SUCCEEDED, ExitCode.OK, reason, str(mode.chief), lines)


def judge(state: State, now: float) -> Step:
    """Finds the root cause of the failures, and ends the run with it or lets tasks restart."""
    failures, before = _by_cause(state), state
    root = failures[0]
    if root.task.role == EVALUATOR:
        state = replace(state, not_before=now + EVALUATOR_BACKOFF)
    elif root.blame is not Blame.OUTSIDE:
        state = _charged(_repeated(state, root), root, now)
        why = _final(state, root)
        if why:
            return _give_up(state, before, root, why)
    return _try_again(state, root), (Say(_explain(state, failures, now)),)


def _repeated(state: State, root: Failure) -> State:
    """Counts failures with the same error, between which no program has reported a step."""
    last, error = state.last_failure, error_of(root.last_lines)[:1]
    same = (
        last is not None
        and (last.exit_code, last.progress) == (root.exit_code, root.progress)
        and error == error_of(last.last_lines)[:1] != ()
    )
    return replace(state, last_failure=root, repeats=state.repeats + 1 if same else 1)


def _charged(state: State, root: Failure, now: float) -> State:
    """Charges a failure to the restart budget, and makes the tasks wait.

    A mistake of TensorFlow is not charged if the run has advanced since the last one: then the
    charges for earlier mistakes are also taken back. A restarted chief restores a checkpoint, so
    the run can be behind the last mistake for a while.
    """
    mistake = mistake_of(root.exit_code, root.last_lines)
    charges = _lately(state, state.charges, now)
    if mistake:
        advanced = root.progress.beyond(state.mistake_progress)
        state = replace(state, mistake_progress=root.progress)
        if advanced:
            charges = tuple(at for at in charges if at not in state.mistake_charges)
            return replace(state, charges=charges, mistake_charges=())
        state = replace(state, mistake_charges=(*state.mistake_charges, now))
    charges = (*charges, now)
    backoff = min(LONGEST_BACKOFF, 2.0 ** (len(charges) - 2))
    return replace(state, charges=charges, not_before=now + backoff if len(charges) > 1 else None)


def _by_cause(state: State) -> list[Failure]:
    """All failures, the root cause first.

    The evaluator comes last: it causes no failure of another task, and never ends the run. A
    server does not depend on a program, so a lost server comes before a failed program, even if
    the program's end was reported first: both end within milliseconds.
    """
    runs_program = state.job.mode.runs_program
    return sorted(
        (failure for task in state.job.tasks if (failure := state.seat(task).failure)),
        key=lambda f: (f.task.role == EVALUATOR, f.blame, runs_program(f.task), f.at),
    )


def _final(state: State, root: Failure) -> str | None:
    """Why a failure ends the run; None if it does not."""
    restarts = state.job.restarts
    if root.exit_code in PERMANENT or root.exit_code in restarts.permanent_codes:
        return "which is never retried"
    if len(state.charges) > restarts.limit:
        return f"and the restart budget of {restarts.limit} is spent"
    return None


def _give_up(state: State, before: State, root: Failure, why: str) -> Step:
    """Ends the run, once all tasks have reported: the loss of one would be the root cause."""
    everybody = frozenset(task for task in state.job.tasks if task.role != EVALUATOR)
    if not state.forming >= everybody:
        # Judged again later.
        return form_with(before, everybody), (Say(f"{root.task} failed, {why}; all tasks stop"),)
    reason = f"{root.task} failed: {root.reason}, {_again(state)}{why}"
    # A server must not end, so its exit code 0 is a failure too.
    end = End(Phase.FAILED, root.exit_code or 1, reason, str(root.task), root.last_lines)
    return ended(state, end)


def _again(state: State) -> str:
    if state.repeats < 2:
        return ""
    return f"{state.repeats} times in a row with the same error and no new step reported, "


def _try_again(state: State, root: Failure) -> State:
    """Clears the failures, so that the forming tasks can start."""
    reports = [state.seat(task).report for task in state.forming]
    children = [report.child for report in reports if report]
    if any(child and child.generation == state.generation for child in children):
        # A task failed to prepare for this generation, so all prepare for the next one.
        state = replace(state, generation=latest_generation(state) + 1)
    seats = {
        task: replace(seat, failure=None) if seat.failure else seat
        for task, seat in state.seats.items()
    }
    return replace(state, seats=seats, settled_at=None, cause=f"{root.task}: {root.reason}")


def _explain(state: State, failures: list[Failure], now: float) -> str:
    root = failures[0]
    text = f"the cause: {root.task}: {root.reason}; "
    if state.charges[-1:] == (now,):
        text += f"{_again(state)}restart {len(state.charges)} of {state.job.restarts.limit}"
    else:
        text += "not charged to the restart budget"
    collateral = ", ".join(f"{f.task} ({f.reason})" for f in failures[1:])
    text += f"; followed by {collateral}" if collateral else ""
    wait = 0.0 if state.not_before is None else state.not_before - now
    backs_off = wait > 0 and root.blame is not Blame.OUTSIDE
    return text + (f"; next try in {wait:.0f} s" if backs_off else "")


def _lately(state: State, times: tuple[float, ...], now: float) -> tuple[float, ...]:
    """The times within the last restarts.refill seconds."""
    refill = state.job.restarts.refill
    return tuple(at for at in times if not refill or now - at < refill)
