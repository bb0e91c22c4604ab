"""What the ends of children mean: done or lost, whose fault, tried again or the run's end. Pure."""

from __future__ import annotations

import signal
from dataclasses import replace

from launcher.decisions.forming import form_with, names
from launcher.decisions.state import Failure, Say, State, Step, ended, member, told_to_end
from launcher.shared.exits import Code, End, Phase, signalled
from launcher.shared.modes import EVALUATOR
from launcher.shared.protocol import Action, Report

SETTLE_SECONDS = 0.5  # what is lost so soon after a failure may have caused it
LATE_SECONDS = 5.0  # that a report may be old when it is heard
LONGEST_BACKOFF = 60.0
EVALUATOR_BACKOFF = 10.0
# The launcher's own ends that another try cannot mend.
PERMANENT = frozenset({Code.USAGE, Code.CODE_MISSING, Code.CONFIGURATION})
# Ended from outside: a drained node, a deleted pod. The program's fault only where a child ends so
# again and again while its launcher is left alone.
DRAINED = signalled(signal.SIGTERM)
DRAINS = 2


def notice(state: State, report: Report, lost_after: float, now: float) -> Step:
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
    if not child or not member(state, task):
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
        if told_to_end(state, report) and task not in state.forming and task in state.runs:
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


def _should_run(report: Report) -> bool:
    """Whether a task holds that its latest child shall run: nobody here has stopped it."""
    holds, child = report.holds, report.child
    if not holds or not child:
        return False
    return holds.action is Action.RUN and holds.generation == child.generation


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
    who = names(reached, tasks, "stop")
    text = f"generation {failure.generation}: lost {failure.task}: {failure.reason}; {who}"
    if failure.task.role != EVALUATOR and all(t.role == EVALUATOR for t in state.forming):
        state = replace(state, not_before=now)  # the evaluator's pause is its own
    return form_with(state, reached | state.forming), (Say(text),)


def success(state: State) -> End | None:
    """The good end of the run, once all have ended well for whom it waits."""
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


def judge(state: State, now: float) -> Step:
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
        everybody = frozenset(task for task in state.job.tasks if task.role != EVALUATOR)
        if why and not state.forming >= everybody:
            # Only once all have been heard from: one that is gone would explain it.
            state = replace(state, charges=charges)
            return form_with(state, everybody), (Say(f"{root.task}: {why}; all tasks stop"),)
        if why:
            reason = f"{root.task} failed: {root.reason}, {why}"
            return ended(
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


def _lately(state: State, times: tuple[float, ...], now: float) -> tuple[float, ...]:
    """Those that the restart budget has not forgotten yet."""
    refill = state.job.restarts.refill
    return tuple(at for at in times if not refill or now - at < refill)
