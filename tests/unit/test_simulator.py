"""Seeded schedules of crashes, delays, duplicates, new controllers and other sizes."""

from __future__ import annotations

import collections

import pytest

from launcher.exits import Phase
from tests.unit.simulator import Simulation, ViolationError, named

SCHEDULES = 200
BATCHES = 4


@pytest.mark.parametrize("batch", range(BATCHES))
def test_every_schedule_keeps_the_promises_and_ends(batch: int) -> None:
    phases: collections.Counter[Phase] = collections.Counter()
    for seed in range(batch, SCHEDULES, BATCHES):
        simulation = Simulation(seed)
        try:
            end = simulation.run()
        except ViolationError as violation:
            story = "\n".join(simulation.history[-80:])
            pytest.fail(f"seed {seed}: {violation}\n{story}", pytrace=False)
        assert named(end), f"seed {seed}: {end}"
        phases[end.phase] += 1
    assert min(phases[Phase.SUCCEEDED], phases[Phase.FAILED]) > SCHEDULES / BATCHES / 10


def test_a_seed_tells_the_whole_schedule() -> None:
    first, second = Simulation(7), Simulation(7)
    first.run()
    second.run()
    assert first.history == second.history
