"""Plays schedules. Shrinks one that breaks a promise, and returns its history as text."""

from __future__ import annotations

from launcher.shared.exits import End
from tests.unit.simulator.promises import Violation
from tests.unit.simulator.schedule import (
    Schedule,
    schedule_for,
)
from tests.unit.simulator.world import Simulation


def play(schedule: Schedule) -> Violation | None:
    try:
        Simulation(schedule).run()
    except Violation as violation:
        return violation
    except Exception as error:
        return Violation("crash", repr(error))
    return None


def shrink(schedule: Schedule, rule: str) -> Schedule:
    """Leaves out faults as long as the same rule is still broken."""
    index = 0
    while index < len(schedule.faults):
        fewer = schedule.faults[:index] + schedule.faults[index + 1 :]
        smaller = schedule._replace(faults=fewer)
        violation = play(smaller)
        if violation and violation.rule == rule:
            schedule, index = smaller, 0
        else:
            index += 1
    return schedule


def tell(schedule: Schedule) -> str:
    """The history of a schedule, for a person."""
    simulation = Simulation(schedule, tell=True)
    try:
        end = _end(simulation.run())
    except Exception as error:
        end = f"{type(error).__name__}: {error}"
    assert simulation.history is not None
    faults = [f"  {fault}" for fault in schedule.faults]
    head = [f"seed {schedule.seed}: {schedule.wish}", *faults]
    return "\n".join([*head, *simulation.history, end])


def _end(end: End) -> str:
    return (
        f"{end.phase.value} with exit code {end.exit_code}: {end.words}; "
        f"task {end.task or None}, last lines {list(end.last_lines)}"
    )


def explain(seed: int) -> str:
    """The history of a failing seed, after its schedule is shrunk."""
    schedule = schedule_for(seed)
    violation = play(schedule)
    assert violation
    return tell(shrink(schedule, violation.rule))
