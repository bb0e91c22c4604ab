"""Taking over: what goes on of that which runs, by a new controller or at a larger size. Pure.

A controller keeps nothing of its own. Tasks remember what they hold and how their children ended,
and from that the run is built again; `decide` goes on from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from launcher.decisions.code_agreement import known_code, resolved
from launcher.decisions.failures import DRAINED
from launcher.decisions.forming import form_with, hosts, names, without_leaving
from launcher.decisions.state import (
    Effect,
    Failure,
    RunPhase,
    Say,
    State,
    Step,
    asked,
    current,
    ended,
    leaving,
    newest,
)
from launcher.shared.exits import Code, End, Phase
from launcher.shared.identity import Task
from launcher.shared.job import Job
from launcher.shared.modes import EVALUATOR, Reach
from launcher.shared.protocol import Action, Holds, Leader, Report

# For a task that is no part of the run any more to report: longer than its longest silence.
LEAVING_SECONDS = 40.0


def adopt(state: State, now: float) -> Step:
    """Rebuilds the run from what the tasks hold, once all have reported: LEADING, or ENDED."""
    before, job, tasks = state, state.job, state.job.tasks
    if not all(task in state.seats for task in tasks):
        there = _heard_size(state)
        if not there or now - state.adopts_since < LEAVING_SECONDS:
            return state, ()
        # The last controller had asked for more pods, and there is no room for them yet.
        return adopt(replace(state, job=there, goal=asked(state)), now)
    if not all(task in state.seats for task in leaving(state)):
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
        return ended(state, _remembered(state, now))
    generation = max(newest(seat) for seat in state.seats.values())
    mine = [holds for holds in held.values() if holds.run == job.run]
    goes_on = {
        task: held[task] for task in tasks if task in held and _goes_on(job, task, held[task])
    }
    # Charges are taken back as well, in the newest generation: the least there knows best.
    known = [h for h in held.values() if h.program == job.program_digest]
    latest = max((holds.generation for holds in known), default=0)
    charged = min((h.charged for h in known if h.generation == latest), default=0)
    needed = {*(task for task in tasks if task.role != EVALUATOR), *leaving(state)}
    begun = {task for task, holds in held.items() if holds.generation}
    if any(task not in begun or _ended_with(DRAINED, state.seats[task]) for task in needed):
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
        code=known_code(state),
        runs=running,
        members={task: state.seats[task].incarnation for task in running},
        hosts=hosts(state),
        done=frozenset(
            task
            for task in running
            if held[task].action is Action.SERVE or _ended_with(0, state.seats[task])
        ),
    )
    if job.mode.chief in state.seats:
        state = resolved(state, state.seats[job.mode.chief])
    anew = _anew(state, held, running)
    if state.goal and not any(job.mode.runs_program(task) for task in set(running) - anew):
        lacking = [task for task in state.goal.tasks if task not in tasks]
        if any(task.role != EVALUATOR for task in lacking):
            # Nothing would train on: all wait for the whole size.
            whole = replace(before, job=state.goal, goal=None)
            heard = all(task in state.seats for task in lacking)
            return adopt(whole, now) if heard else (whole, ())
    # What failed of those that start anyway may have failed for the same reason.
    dealt = {task: generation if task in anew else running[task] - 1 for task in tasks}
    state = replace(state, dealt=dealt)
    effects: tuple[Effect, ...] = ()
    if anew:
        state = form_with(state, anew)
        stop = any(holds.action in (Action.RUN, Action.SERVE) for holds in held.values())
        text = f"{names(anew, tasks, 'stop')}: " if stop else ""
        effects = (Say(f"{text}generation {state.generation} forms"),)
    else:
        state, effects = without_leaving(state)
        text = f"generation {generation}: found running, and taken over"
        text += f", with code {state.code}" if state.code else ""
        effects = (*effects, Say(text))
    return state, effects


def grow(state: State) -> Step:
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
    state = form_with(state, anew | state.forming)
    text = f"{names(anew, state.job.tasks, 'stop')}: " if anew & state.runs.keys() else ""
    return state, (Say(f"{text}generation {state.generation} forms"),)


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


def _holdings(state: State) -> dict[Task, Holds]:
    return {task: seat.holds for task, seat in state.seats.items() if seat.holds}


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
    lost = {task for task in tasks if task not in running or not current(state, task)}
    return job.mode.reached(lost, tasks)


def _ended_with(code: int, seat: Report) -> bool:
    """Whether a task's child ended so, and not because it was told to."""
    child = seat.child
    return child is not None and child.code == code and not child.stopped


def _remembered(state: State, now: float) -> End:
    """How a run that has ended did, as its tasks still know it: no record of it was kept."""
    mode = state.job.mode
    children = [(task, seat.child) for task, seat in state.seats.items() if seat.child]
    failed = [
        Failure(task, child.generation, child.code, child.reason, now - child.ago)
        for task, child in children
        if child.code and not child.stopped
    ]
    needed = [mode.chief] if state.job.success == "Chief" else state.job.tasks
    seats = [state.seats[t] for t in needed if mode.decides_success(t) and t in state.seats]
    ended_well = any(_ended_with(0, seat) for seat in seats)
    if ended_well and not any(seat.child and seat.child.code for seat in seats):
        return End(Phase.SUCCEEDED, Code.OK, "its workers ended with exit code 0", found=True)
    if failed:
        root = min(failed, key=lambda f: (-f.generation, f.code == DRAINED, f.at))
        return End(Phase.FAILED, root.code, root.reason, str(root.task), found=True)
    return End(Phase.FAILED, Code.TRY_AGAIN, "no task remembers how", found=True)
