"""Checks that programs that run together have the same code, by its digest. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from launcher.decisions.forming import first_of, form_with, names, start
from launcher.decisions.state import (
    Disagreement,
    Say,
    State,
    Step,
    digests,
    ended,
    pull_again,
)
from launcher.shared.exits import End, ExitCode, Phase
from launcher.shared.identity import Task
from launcher.shared.modes import EVALUATOR
from launcher.shared.protocol import Report

# How long and how often tasks pull again before different code ends the run. NFS clients may serve
# old files for up to a minute.
AGREE_SECONDS = 120.0
AGREE_PULLS = 3
LONGEST_PULL_PAUSE = 20.0


def agree(state: State, now: float, later: frozenset[Task] = frozenset()) -> Step:
    """Starts the forming tasks, if those that run the program have the same code.

    A run keeps the code that it began with, unless code.refresh lets each generation pull new code.
    """
    found = digests(state)
    if not found:  # only servers start, and they have no code
        return start(state, now, later)
    alone = frozenset(task for task in found if task.role == EVALUATOR)
    workers = [digest for task, digest in found.items() if task not in alone]
    most = state.digest or Counter(workers or found.values()).most_common(1)[0][0]
    others = sorted(task for task, digest in found.items() if digest != most)
    if not others:
        return start(state, now, later)
    if alone.issuperset(others) and not alone.issuperset(state.forming):
        # The run does not wait for the evaluator.
        return start(state, now, later=later | alone & state.forming)
    named = first_of([f"{task} has {found[task]}" for task in others], " have others")
    known = "the run began with" if state.digest else "the rest"
    text = f"the code of all tasks must be the same: {named}, {known} {most}"
    everybody = frozenset(state.job.tasks)
    if state.job.delivery.refresh and not state.forming >= everybody:
        return form_with(state, everybody), (Say(f"{text}; all tasks pull it again"),)
    # Before the first start it is unknown which code is the newest, so all pull again.
    again = others if state.digest else sorted(found)
    return _disagree(state, now, text, again, others[0] if not alone.issuperset(others) else None)


def _disagree(state: State, now: float, text: str, again: list[Task], culprit: Task | None) -> Step:
    """Has tasks pull the code again after a pause; ends the run if that does not help.

    If only the evaluator differs, there is no culprit, and the run does not end.
    """
    before = state.disagreement or Disagreement(now)
    seconds = now - before.since
    if culprit and before.pulls >= AGREE_PULLS and seconds >= AGREE_SECONDS:
        reason = f"{text}; pulling it again for {seconds:.0f} s has not helped. "
        reason += f"If {state.job.source} was changed during the run, raise run.attempt"
        return ended(state, End(Phase.FAILED, ExitCode.CODE_MISSING, reason, str(culprit)))
    state = replace(
        pull_again(state, again),
        disagreement=replace(before, pulls=before.pulls + 1),
        not_before=now + min(LONGEST_PULL_PAUSE, 1.0 + seconds),
    )
    return state, (Say(f"{text}; {names(again, state.job.tasks, 'pull')} it again"),)


def resolved(state: State, chief: Report) -> State:
    """Keeps the commit to which the chief resolved the branch, so that all tasks pull it."""
    holds = chief.holds
    if state.commit or not chief.can_start or not holds or holds.run != state.job.run:
        return state
    if not chief.commit or holds.pull != state.seat(chief.task).orders.pull:
        return state
    return replace(state, commit=chief.commit)


def known_digest(state: State) -> str | None:
    """The digest of the code that the run began with, as most tasks that have run report it."""
    found = Counter(
        digest
        for task, digest in digests(state).items()
        if task.role != EVALUATOR
        and (report := state.seat(task).report)
        and (holds := report.holds)
        and holds.run == state.job.run
        and holds.generation
    )
    return (found.most_common(1)[0][0] or None) if found else None
