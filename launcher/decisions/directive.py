"""What one task shall change to. Pure.

A directive is made of the Instructions to all tasks and of the task's own report, and of nothing
else. So whoever compares Instructions knows whether a directive may have changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from launcher.decisions.state import (
    Orders,
    RunPhase,
    State,
    latest_generation,
)
from launcher.shared.identity import Task
from launcher.shared.job import Job
from launcher.shared.protocol import Action, Directive, Leader, Report

NO_ORDERS = Orders()


@dataclass(frozen=True)
class Instructions:
    """All of a State that directives are made of."""

    phase: RunPhase
    leader: Leader
    # The run at the size that trains.
    job: Job
    # The latest one, 0 before any.
    generation: int
    # How many failures the restart budget has paid for.
    charged: int
    # What a branch means, where that has been found out.
    commit: str | None
    # The addresses of tasks whose names may still mean an older pod.
    hosts: Mapping[Task, str]
    # Whether a program that shall stop still runs.
    programs_stop: bool
    orders: Mapping[Task, Orders]


def instructions(state: State) -> Instructions:
    """What the tasks of a run are told by a State."""
    return Instructions(
        phase=state.phase,
        leader=state.leader,
        job=state.job,
        generation=latest_generation(state),
        charged=len(state.charges),
        commit=state.commit,
        hosts=state.hosts,
        programs_stop=_programs_stop(state),
        orders=state.orders,
    )


def _programs_stop(state: State) -> bool:
    """Whether a program that shall stop still runs."""
    programs = filter(state.job.mode.decides_success, state.to_stop)
    reports = (state.seats[task].report for task in programs)
    return any(
        report and not report.stands_in and report.child and report.child.exit_code is None
        for report in reports
    )


def directive(told: Instructions, report: Report) -> Directive | None:
    """What the task that reports shall change to; None where it shall go on with what it holds."""
    if told.phase in (RunPhase.STARTING, RunPhase.YIELDED):
        return None
    if told.phase is RunPhase.ADOPTING and report.holds:
        return None
    change = _end(told, report) if told.phase is RunPhase.ENDED else _part(told, report)
    if not change:
        return None
    action, generation = change
    found = Directive(
        told.leader,
        action,
        generation,
        told.charged,
        told.job,
        told.orders.get(report.task, NO_ORDERS).pull,
        told.commit or "",
        told.hosts,
    )
    return found if found.holds() != report.holds else None


def _end(told: Instructions, report: Report) -> tuple[Action, int] | None:
    """The run has ended: nothing to tell who knows that, even by another controller."""
    holds = report.holds
    if not holds:
        return Action.END, told.generation
    if holds.action is Action.END and holds.run == told.job.run:
        return None
    generation = max(told.generation, holds.generation)  # of which this one may not know
    return Action.END, generation


def _part(told: Instructions, report: Report) -> tuple[Action, int] | None:
    """The task's part in the run: what it shall do, and in which generation."""
    task, holds, mode = report.task, report.holds, told.job.mode
    orders = told.orders.get(task, NO_ORDERS)
    if orders.forming or orders.generation is None:
        serves = not mode.runs_program(task) and holds and holds.action is Action.RUN
        if serves and told.programs_stop:
            return None  # it keeps the variables until every program could save them
        member = task.index < told.job.replicas.get(task.role, 0)
        if holds and not member:
            return Action.WAIT, max(told.generation, holds.generation)  # it only has to stop
        return Action.WAIT, told.generation
    if not orders.done:
        return Action.WAIT if orders.waits_for_chief else Action.RUN, orders.generation
    # It must not train again. What an older controller told it since is no going back.
    later = holds.generation if holds else 0
    generation = max(orders.generation, later)
    if mode.stand_ins and mode.decides_success(task):
        return Action.STAND_IN, generation
    if report.incarnation == orders.incarnation and later <= orders.generation:
        return Action.RUN, generation  # it holds that already, and its child has ended
    return Action.WAIT, generation
