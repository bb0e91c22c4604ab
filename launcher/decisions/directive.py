"""The directive that answers a task's report. Pure.

A directive depends only on the Instructions, which all tasks share, and on the task's own report.
So the controller renews it only when one of these changes.
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
    """The part of a State that directives depend on."""

    phase: RunPhase
    leader: Leader
    # The run at the size that trains.
    job: Job
    # The latest generation; 0 before the first.
    generation: int
    # How many failures count against the restart budget.
    charged: int
    # The commit to which the chief resolved the branch; None until then.
    commit: str | None
    # The IP addresses of tasks whose names may still resolve to an older pod.
    hosts: Mapping[Task, str]
    # Whether a program that is to stop still runs.
    programs_stop: bool
    orders: Mapping[Task, Orders]


def instructions(state: State) -> Instructions:
    """The part of a State that directives depend on."""
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
    """Whether a program that is to stop still runs."""
    programs = filter(state.job.mode.decides_success, state.to_stop)
    reports = (state.seats[task].report for task in programs)
    return any(
        report and not report.stands_in and report.child and report.child.exit_code is None
        for report in reports
    )


def directive(told: Instructions, report: Report) -> Directive | None:
    """What the reporting task must change to; None if it goes on with what it holds."""
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
    """The run has ended. A task that knows the end, even from another controller, gets None."""
    holds = report.holds
    if not holds:
        return Action.END, told.generation
    if holds.action is Action.END and holds.run == told.job.run:
        return None
    generation = max(told.generation, holds.generation)  # an older controller may have led longer
    return Action.END, generation


def _part(told: Instructions, report: Report) -> tuple[Action, int] | None:
    """The task's part in the run: its action and generation; None to keep what it holds."""
    task, holds, mode = report.task, report.holds, told.job.mode
    orders = told.orders.get(task, NO_ORDERS)
    if orders.forming or orders.generation is None:
        serves = not mode.runs_program(task) and holds and holds.action is Action.RUN
        if serves and told.programs_stop:
            return None  # the server keeps the variables until every program has saved and stopped
        member = task.index < told.job.replicas.get(task.role, 0)
        if holds and not member:
            return Action.WAIT, max(told.generation, holds.generation)  # leaving tasks only stop
        return Action.WAIT, told.generation
    if not orders.done:
        return Action.WAIT if orders.waits_for_chief else Action.RUN, orders.generation
    # The program must not train again. An older controller may have given the task a later
    # generation; the number never decreases.
    later = holds.generation if holds else 0
    generation = max(orders.generation, later)
    if mode.stand_ins and mode.decides_success(task):
        return Action.STAND_IN, generation
    if report.incarnation == orders.incarnation and later <= orders.generation:
        return Action.RUN, generation  # the task follows that, and its child has ended
    return Action.WAIT, generation
