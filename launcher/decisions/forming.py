"""Forming a generation: who takes part, what they still lack, the pods, the start. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from launcher.decisions.state import (
    RunPhase,
    Say,
    Scale,
    State,
    Step,
    asked,
    codes,
    current,
    leaving,
    member,
    runs,
    told_to_end,
)
from launcher.shared.identity import Task
from launcher.shared.job import Job
from launcher.shared.modes import EVALUATOR, Reach
from launcher.shared.protocol import Action, Report

SAY_SECONDS = 10.0  # between two lines about who is missing
SAY_TASKS = 10  # named in one line
# For the chief's session to come up before the others start anyway; longer where its checkpoints
# are looked at, which tell it: to restore a large model takes its time.
CHIEF_SECONDS = 20.0
SAVING_CHIEF_SECONDS = 120.0


def form_with(state: State, tasks: Iterable[Task]) -> State:
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
        state = replace(asked_again(state, [*programs, *alone]), commit="", code="")
        state = replace(state, forming=state.forming | frozenset(alone))
    return state


def asked_again(state: State, tasks: Iterable[Task]) -> State:
    """Has tasks pull the code once more."""
    pulls = {**state.pulls, **{task: state.pulls.get(task, 0) + 1 for task in tasks}}
    return replace(state, pulls=pulls)


def lacks(state: State, task: Task) -> str:
    """What a task still lacks to start, or nothing."""
    seat = state.seats.get(task)
    is_member = member(state, task)
    if not seat:
        return "not heard from" if is_member else ""
    if runs(seat):
        return "its child has not stopped"
    if not is_member:
        return ""
    holds, pull = seat.holds, state.pulls.get(task, 0)
    wanted = (state.leader, Action.WAIT, state.generation, state.job.digest, pull)
    held = holds and (holds.leader, holds.action, holds.generation, holds.job, holds.pull)
    if held != wanted:
        return "has not answered"
    if told_to_end(state, seat):
        return "its pod is ending"
    if task in state.failures:
        return ""
    if not current(state, task):
        return "its pod is being replaced"
    return "" if seat.ready else "pulls the code"


def awaited(state: State) -> dict[Task, str]:
    """What the tasks lack without which the run cannot grow."""
    lacking = {}
    for task in asked(state).tasks:
        seat = state.seats.get(task)
        if not seat:
            lacking[task] = "not heard from"
        elif not member(state, task) and not seat.ready:
            failed = seat.child if _pull_failed(state, seat) else None
            lacking[task] = failed.reason if failed else "pulls the code"
    return lacking


def _pull_failed(state: State, seat: Report | None) -> bool:
    """Whether a task that is to join has told that it could not pull the code."""
    if not seat or seat.ready or not seat.child or not seat.holds:
        return False
    pull = state.pulls.get(seat.task, 0)
    return not member(state, seat.task) and bool(seat.child.code) and seat.holds.pull == pull


def say_missing(state: State, now: float) -> Step:
    """Names now and then whom the run waits for, and why; a pull that failed is tried again."""
    if now - state.said_at < SAY_SECONDS:
        return state, ()
    if state.phase is RunPhase.ADOPTING:
        lacking = {task: "not heard from" for task in state.job.tasks if task not in state.seats}
    else:
        tasks = sorted({*state.forming, *(leaving(state) if state.forming else ())})
        lacking = {task: what for task in tasks if (what := lacks(state, task))}
        if state.goal and not lacking:
            lacking = awaited(state)
            again = [task for task in lacking if _pull_failed(state, state.seats.get(task))]
            state = asked_again(state, again) if again else state
    if not lacking:
        return state, ()
    named = first_of([f"{task} ({what})" for task, what in lacking.items()])
    return replace(state, said_at=now), (Say(f"waiting for {named}"),)


def start(state: State, now: float, later: frozenset[Task] = frozenset()) -> Step:
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
    state = replace(
        state,
        runs={**state.runs, **dict.fromkeys(tasks, generation)},
        members={**state.members, **members},
        # An end of an earlier child that is still being reported has been dealt with.
        dealt={**state.dealt, **dict.fromkeys(tasks, generation - 1)},
        done=state.done - tasks,
        hosts=hosts(state),
        generation=generation + 1 if later else generation,
        forming=later,
        differ_since=0.0,
        differ_pulls=0,
        held=held,
        held_until=now + chief_seconds(job) if job.mode.chief in tasks else state.held_until,
    )
    state, scaling = _let_go(state)
    text = f"generation {generation}: {names(tasks, job.tasks, 'start')}"
    text += f", {job.mode.chief} first" if held & tasks else ""
    code = next((digest for task, digest in codes(state).items() if task in tasks), "")
    if code and not state.code:
        state = replace(state, code=code)
        text += f", with code {code}"
    return state, (*scaling, Say(text))


def without_leaving(state: State) -> Step:
    """Pods that are too many go, where nobody has to start again for it.

    Those that wait for more pods start again soon: theirs go when they have stopped.
    """
    gone = leaving(state)
    if not gone or (state.goal and any(lacks(state, task) for task in gone)):
        return state, ()
    return _let_go(state)


def _let_go(state: State) -> Step:
    """The pods of those who leave go, and nobody asks for them any more."""
    gone = set(leaving(state))
    seats = {task: seat for task, seat in state.seats.items() if task not in gone}
    return scale(replace(state, seats=seats), down=True)


def chief_seconds(job: Job) -> float:
    """How long the others wait for the chief's session."""
    return SAVING_CHIEF_SECONDS if job.checkpoints else CHIEF_SECONDS


def hosts(state: State) -> dict[Task, str]:
    """Where the chief is, and those whose loss starts others again, by IP address."""
    mode = state.job.mode
    return {
        task: state.seats[task].address
        for task in state.job.tasks
        if (task == mode.chief or mode.losses.get(task.role, Reach.ITSELF) is not Reach.ITSELF)
        and state.seats[task].address
    }


def scale(state: State, down: bool, up: bool = True) -> Step:
    """Pods are made before they are needed, and go when nothing of theirs runs any more."""
    effects = tuple(
        Scale(role, wanted)
        for role, wanted in asked(state).replicas.items()
        if (up and state.replicas.get(role, wanted) < wanted)
        or (down and state.replicas.get(role, wanted) > wanted)
    )
    replicas = {**state.replicas, **{effect.role: effect.replicas for effect in effects}}
    return replace(state, replicas=replicas), effects


def names(tasks: Iterable[Task], everybody: Iterable[Task], verb: str) -> str:
    """Who does something, in few words."""
    tasks = frozenset(tasks)
    if tasks >= frozenset(everybody):
        return f"all tasks {verb}"
    return f"{first_of(sorted(map(str, tasks)))} {verb}" + ("s" if len(tasks) == 1 else "")


def first_of(texts: Sequence[str], rest: str = "") -> str:
    """The first of some texts, and how many more there are."""
    more = f" and {len(texts) - SAY_TASKS} more{rest}" if len(texts) > SAY_TASKS else ""
    return ", ".join(texts[:SAY_TASKS]) + more
