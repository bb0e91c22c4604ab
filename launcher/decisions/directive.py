"""What one task shall change to. Pure."""

from __future__ import annotations

from launcher.decisions.state import RunPhase, State, latest_generation, member, runs
from launcher.shared.protocol import Action, Directive, Report


def directive(state: State, report: Report) -> Directive | None:
    """What the task that reports shall change to; None where it shall go on with what it holds."""
    if state.phase in (RunPhase.STARTING, RunPhase.YIELDED):
        return None
    if state.phase is RunPhase.ADOPTING and report.holds:
        return None
    wanted = _wanted(state, report)
    return wanted if wanted and wanted.holds() != report.holds else None


def _wanted(state: State, report: Report) -> Directive | None:
    task, mode = report.task, state.job.mode
    orders = state.seat(task).orders
    action, generation = Action.WAIT, latest_generation(state)
    if state.phase is RunPhase.ENDED:
        holds = report.holds
        if holds and holds.action is Action.END and holds.run == state.job.run:
            return None
        action = Action.END
        if holds:
            generation = max(generation, holds.generation)  # of which this one may not know
    elif orders.forming or orders.generation is None:
        holds = report.holds
        serving = not mode.runs_program(task) and holds and holds.action is Action.RUN
        if serving and programs_stop(state):
            return None  # it keeps the variables until every program could save them
        if holds and not member(state, task):
            generation = max(generation, holds.generation)  # it only has to stop
    elif not orders.done:
        generation = orders.generation
        action = Action.WAIT if orders.waits_for_chief else Action.RUN
    else:
        # It must not train again. What an older controller told it since is no going back.
        generation = orders.generation
        later = report.holds.generation if report.holds else 0
        if mode.seats and mode.decides_success(task):
            action, generation = Action.SERVE, max(generation, later)
        elif report.incarnation == orders.incarnation and later <= generation:
            action = Action.RUN  # and has
        else:
            generation = max(generation, later)
    return Directive(
        state.leader,
        action,
        generation,
        len(state.charges),
        state.job,
        orders.pull,
        state.commit or "",
        state.hosts,
    )


def programs_stop(state: State) -> bool:
    """Whether a program that shall stop still runs."""
    decides_success = state.job.mode.decides_success
    return any(
        (seat.orders.forming or seat.orders.generation is None)
        and (report := seat.report)
        and decides_success(task)
        and runs(report)
        and not report.serving
        for task, seat in state.seats.items()
    )
