"""Decides which running tasks go on under a new controller or at a larger size. Pure.

A controller keeps no memory of its own. Tasks remember which directive they hold and how their
children ended. A new controller rebuilds the run from that, and `step` goes on from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from launcher.decisions.code_agreement import known_digest, resolved
from launcher.decisions.failures import DRAINED
from launcher.decisions.forming import LEAVING_SECONDS, form_with, hosts, names, without_leaving
from launcher.decisions.state import (
    Orders,
    RunPhase,
    Say,
    State,
    Step,
    all_heard,
    awaits_pods,
    current,
    ended,
    leaving,
    newest,
    reports,
)
from launcher.shared.exits import End, ExitCode, Phase
from launcher.shared.identity import Task
from launcher.shared.job import Job
from launcher.shared.modes import EVALUATOR, Reach
from launcher.shared.protocol import Action, ChildReport, Holds, Leader, Report

# Under a new controller.


def adopt(state: State, now: float) -> Step:
    """Rebuilds the run from what the tasks hold, once all have reported: LEADING, or ENDED."""
    state, complete = _hear_out(state, now)
    if not complete:
        return state, ()
    holdings = _holdings(state)
    state = _numbered(state, holdings)
    run = state.job.run
    if any(holds.action is Action.END and holds.run == run for holds in holdings.values()):
        return ended(state, _remembered(state))
    if awaits_pods(state) and not _trains_on(state, holdings):
        # All tasks have to start, so they start at the wanted size.
        state = replace(state, job=state.wanted)
        if not all_heard(state, state.job.tasks):
            return state, ()
    running = _found_running(state, holdings)
    anew = _anew(state, holdings, running)
    return _set_going(_rebuilt(state, holdings, running, anew, now), holdings, anew, now)


def _hear_out(state: State, now: float) -> tuple[State, bool]:
    """Picks the size whose tasks have reported, and tells whether enough tasks have."""
    if not all_heard(state, state.job.tasks):
        smaller = _heard_size(state) if _waited(state.adopts_since, now) else None
        if not smaller:
            return state, False
        # The last controller asked for more pods, for which the cluster has no room yet.
        state = replace(state, job=smaller)
    if not all_heard(state, leaving(state)):
        # A leaving task may still run a child of the last generation, or never have started.
        if state.complete_at is None:
            return replace(state, complete_at=now), False
        if not _waited(state.complete_at, now):
            return state, False
    return state, True


def _waited(since: float | None, now: float) -> bool:
    """Whether a task has had time to report."""
    return since is not None and now - since >= LEAVING_SECONDS


def _heard_size(state: State) -> Job | None:
    """The job at the size whose tasks have reported, if a program trains at that size."""
    job = state.job
    heard = reports(state)
    counts = {
        role: next(i for i in range(count + 1) if i == count or Task(role, i) not in heard)
        for role, count in job.replicas.items()
    }
    if not all(count for role, count in counts.items() if role != EVALUATOR):
        return None
    smaller = job.resized(counts)
    trains = any(
        (holds := heard[task].holds)
        and holds.action is Action.RUN
        and _goes_on(smaller, task, holds)
        for task in smaller.tasks
        if job.mode.runs_program(task) and task.role != EVALUATOR
    )
    return smaller if trains else None


def _numbered(state: State, holdings: Mapping[Task, Holds]) -> State:
    """Gives a leader without a number one above all that the tasks know."""
    if state.leader.number:
        return state
    number = max((holds.leader.number for holds in holdings.values()), default=0)
    return replace(state, leader=Leader(number + 1, state.leader.id))


def _trains_on(state: State, holdings: Mapping[Task, Holds]) -> bool:
    """Whether a program goes on at the current size, or only the evaluator's pod is missing."""
    tasks = frozenset(state.job.tasks)
    if all(task in tasks or task.role == EVALUATOR for task in state.wanted.tasks):
        return True
    running = _found_running(state, holdings)
    kept = running.keys() - _anew(state, holdings, running)
    return any(state.job.mode.runs_program(task) for task in kept)


def _found_running(state: State, holdings: Mapping[Task, Holds]) -> dict[Task, int]:
    """The generations of the tasks whose children can go on, or ended without being told to."""
    return {
        task: holds.generation
        for task in state.job.tasks
        if (holds := holdings.get(task))
        and holds.action in (Action.RUN, Action.STAND_IN)
        and _goes_on(state.job, task, holds)
    }


def _rebuilt(
    state: State,
    holdings: Mapping[Task, Holds],
    running: Mapping[Task, int],
    anew: frozenset[Task],
    now: float,
) -> State:
    """The run rebuilt from what its tasks hold, led by this controller."""
    heard = reports(state)
    generation = max(newest(report) for report in heard.values())
    seats = {
        task: replace(
            state.seats[task],
            orders=_orders_found(report, running.get(task)),
            # Earlier failures of tasks that restart anyway no longer matter.
            news_from=generation + 1 if task in anew else running.get(task, 1),
        )
        for task, report in heard.items()
    }
    mine = [holds for holds in holdings.values() if holds.run == state.job.run]
    commits = [(holds.generation, holds.pull, holds.commit) for holds in mine]
    state = replace(
        state,
        phase=RunPhase.LEADING,
        generation=generation or None,
        charges=(now,) * _charged(state, holdings),
        seats={**state.seats, **seats},
        hosts=hosts(state),
        commit=(max(commits)[2] or None) if commits else None,
        digest=known_digest(state),
    )
    chief = heard.get(state.job.mode.chief)
    return resolved(state, chief) if chief else state


def _orders_found(report: Report, generation: int | None) -> Orders:
    """What the last controller decided of a task. A task without a generation must start."""
    holds = report.holds
    pull = holds.pull if holds else 0
    if generation is None:
        return Orders(pull=pull)
    served = holds is not None and holds.action is Action.STAND_IN
    done = served or _ended_with(0, report.child)
    return Orders(generation, report.incarnation, done=done, pull=pull)


def _charged(state: State, holdings: Mapping[Task, Holds]) -> int:
    """How many failures count against the restart budget.

    Charges can be taken back, so the smallest count in the newest generation is the right one.
    """
    for task in {*(t for t in state.job.tasks if t.role != EVALUATOR), *leaving(state)}:
        report, holds = state.seat(task).report, holdings.get(task)
        begun = holds is not None and holds.generation > 0
        if not begun or not report or _ended_with(DRAINED, report.child):
            return 0  # the charged failures may be due to the loss of this task
    digest = state.job.program_digest
    known = [holds for holds in holdings.values() if holds.program_digest == digest]
    latest = max((holds.generation for holds in known), default=0)
    return min((holds.charged for holds in known if holds.generation == latest), default=0)


def _set_going(
    state: State, holdings: Mapping[Task, Holds], anew: frozenset[Task], now: float
) -> Step:
    """Makes tasks that cannot go on form; if all can, removes the pods of leaving tasks."""
    if anew:
        state = form_with(state, anew)
        stop = any(holds.action in (Action.RUN, Action.STAND_IN) for holds in holdings.values())
        text = f"{names(anew, state.job.tasks, 'stop')}: " if stop else ""
        return state, (Say(f"{text}generation {state.generation} forms"),)
    state, effects = without_leaving(state, now)
    text = f"generation {state.generation}: found running, and taken over"
    text += f", with code {state.digest}" if state.digest else ""
    return state, (*effects, Say(text))


# At a larger size.


def grow(state: State) -> Step:
    """Changes to the wanted size, whose pods are there."""
    state = replace(state, job=state.wanted)
    holdings = _holdings(state)
    begun = {
        task: seat.orders.generation
        for task, seat in state.seats.items()
        if seat.orders.generation is not None
    }
    running = {
        task: generation
        for task, generation in begun.items()
        if task in holdings and _goes_on(state.job, task, holdings[task])
    }
    anew = _anew(state, holdings, running)
    state = form_with(state, anew | state.forming)
    text = f"{names(anew, state.job.tasks, 'stop')}: " if anew & begun.keys() else ""
    return state, (Say(f"{text}generation {state.generation} forms"),)


# What tasks hold, and whether they can go on with it.


def _holdings(state: State) -> dict[Task, Holds]:
    """The directives that tasks hold."""
    return {task: report.holds for task, report in reports(state).items() if report.holds}


def _goes_on(job: Job, task: Task, holds: Holds) -> bool:
    """Whether a task can go on with the directive that it holds."""
    if holds.program_digest != job.program_digest:
        return False
    # Where other counts restart only the chief, servers go on with an older ClusterSpec. So does
    # the evaluator, which is in no ClusterSpec.
    servers_keep = job.mode.resize is Reach.WITH_CHIEF and not job.mode.runs_program(task)
    keeps = servers_keep or task.role == EVALUATOR
    return holds.cluster_digest == job.cluster_digest or keeps


def _anew(
    state: State, holdings: Mapping[Task, Holds], running: Mapping[Task, int]
) -> frozenset[Task]:
    """The tasks that must start: new and lost ones, and all that have to restart with them."""
    job, tasks = state.job, state.job.tasks
    if not holdings or any(
        holds.program_digest != job.program_digest for holds in holdings.values()
    ):
        return frozenset(tasks)
    kept = {
        task
        for task, report in reports(state).items()
        if task in running and current(state, report)
    }
    lost = [task for task in tasks if task not in kept]
    return job.mode.reached(lost, tasks)


# The end, from what the tasks remember.


def _ended_with(exit_code: int, child: ChildReport | None) -> bool:
    """Whether a task's child ended with this exit code, and was not told to stop."""
    return child is not None and child.exit_code == exit_code and not child.stopped


def _remembered(state: State) -> End:
    """How a run ended, as its tasks remember it; used if the end is not recorded."""
    mode = state.job.mode
    heard = reports(state)
    needed = [mode.chief] if state.job.success == "Chief" else state.job.tasks
    children = [heard[t].child for t in needed if mode.decides_success(t) and t in heard]
    ended_well = any(_ended_with(0, child) for child in children)
    if ended_well and not any(child and child.exit_code for child in children):
        return End(Phase.SUCCEEDED, ExitCode.OK, "its workers ended with exit code 0", found=True)
    failed = [
        (task, child)
        for task, report in heard.items()
        if (child := report.child) and child.exit_code and not child.stopped
    ]
    if failed:
        # The first failure of the newest generation; a SIGTERM only if there is no other failure.
        task, root = min(
            failed,
            key=lambda each: (-each[1].generation, each[1].exit_code == DRAINED, -each[1].ago),
        )
        assert root.exit_code  # it has failed
        return End(Phase.FAILED, root.exit_code, root.reason, str(task), found=True)
    return End(Phase.FAILED, ExitCode.TRY_AGAIN, "no task has reported the cause", found=True)
