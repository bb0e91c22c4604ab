"""Agreement of the tasks on the code: programs that run together are of one digest. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from launcher.decisions.forming import asked_again, first_of, form_with, names, start
from launcher.decisions.state import Say, State, Step, codes, ended
from launcher.shared.exits import Code, End, Phase
from launcher.shared.identity import Task
from launcher.shared.modes import EVALUATOR
from launcher.shared.protocol import Report

# For the tasks' code to become the same: NFS clients may believe what they saw for a minute.
AGREE_SECONDS = 120.0
AGREE_PULLS = 3
LONGEST_PULL_PAUSE = 20.0


def agree(state: State, now: float, later: frozenset[Task] = frozenset()) -> Step:
    """Starts the tasks that are formed, if those that run the program have the same code.

    What the run began with is its code to the end, unless each generation is to pull anew.
    """
    found = codes(state)
    if not found:  # servers start, while the one program there is is being stopped
        return start(state, now, later)
    alone = frozenset(task for task in found if task.role == EVALUATOR)
    workers = [digest for task, digest in found.items() if task not in alone]
    most = state.code or Counter(workers or found.values()).most_common(1)[0][0]
    others = sorted(task for task, digest in found.items() if digest != most)
    if not others:
        return start(state, now, later)
    named = first_of([f"{task} has {found[task]}" for task in others], " have others")
    known = "the run began with" if state.code else "the rest"
    text = f"the code of all tasks must be the same: {named}, {known} {most}"
    if alone.issuperset(others) and not alone.issuperset(state.forming):
        # The evaluator only looks on: nobody waits for it.
        return start(state, now, later=later | alone & state.forming)
    since = state.differ_since or now
    everybody = frozenset(state.job.tasks)
    if state.job.delivery.refresh and not state.forming >= everybody:
        return form_with(state, everybody), (Say(f"{text}; all tasks pull it again"),)
    over = state.differ_pulls >= AGREE_PULLS and now - since >= AGREE_SECONDS
    if over and not alone.issuperset(others):
        reason = f"{text}; pulling it again for {now - since:.0f} s has not helped. "
        reason += f"{state.job.source} was changed after the run had begun: raise run.attempt"
        return ended(state, End(Phase.FAILED, Code.CODE_MISSING, reason, str(others[0])))
    # Among those that start for the first time nobody knows whose is the newest.
    again = others if state.code else sorted(found)
    pause = min(LONGEST_PULL_PAUSE, 1.0 + (now - since))
    state = replace(
        asked_again(state, again),
        differ_since=since,
        differ_pulls=state.differ_pulls + 1,
        not_before=now + pause,
    )
    return state, (Say(f"{text}; {names(again, state.job.tasks, 'pull')} it again"),)


def resolved(state: State, chief: Report) -> State:
    """What a branch means is found out once, by the chief, for all tasks."""
    holds = chief.holds
    if state.commit or not chief.ready or not holds or holds.run != state.job.run:
        return state
    if holds.pull != state.pulls.get(chief.task, 0):
        return state
    return replace(state, commit=chief.commit)


def known_code(state: State) -> str:
    """The digest of the code that the run began with, as those know it who took part."""
    digests = Counter(
        digest
        for task, digest in codes(state).items()
        if task.role != EVALUATOR
        and (holds := state.seats[task].holds)
        and holds.run == state.job.run
        and holds.generation
    )
    return digests.most_common(1)[0][0] if digests else ""
