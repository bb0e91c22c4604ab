"""The table of modes: whom a loss reaches, who runs the program, whose end counts."""

from __future__ import annotations

import pytest

from launcher.shared.identity import Task, parse_task
from launcher.shared.job import Job
from launcher.shared.modes import MODES
from tests.unit.jobs import job

JOBS = {
    "parameter-server": {"ps": 2, "worker": 2, "evaluator": 1},
    "coordinator": {"chief": 1, "ps": 2, "worker": 2, "evaluator": 1},
    "all-reduce": {"worker": 3, "evaluator": 1},
}
PS_ALL = "ps-0 ps-1 worker-0 worker-1"
RING = "worker-0 worker-1 worker-2"


def small(mode: str) -> Job:
    return job(mode=mode, replicas=JOBS[mode])


def named(names: str) -> frozenset[Task]:
    return frozenset(parse_task(name) for name in names.split())


@pytest.mark.parametrize(
    ("mode", "lost", "reached"),
    [
        ("parameter-server", "", ""),
        ("parameter-server", "worker-0", "worker-0"),
        ("parameter-server", "worker-1", "worker-1"),
        ("parameter-server", "ps-1", PS_ALL),
        ("parameter-server", "ps-1 evaluator-0", PS_ALL + " evaluator-0"),
        ("parameter-server", "evaluator-0", "evaluator-0"),
        ("coordinator", "chief-0", "chief-0"),
        ("coordinator", "worker-1", "worker-1"),
        ("coordinator", "ps-0", "ps-0 chief-0"),
        ("coordinator", "ps-0 worker-1", "ps-0 chief-0 worker-1"),
        ("coordinator", "evaluator-0", "evaluator-0"),
        ("all-reduce", "worker-0", RING),
        ("all-reduce", "worker-2", RING),
        ("all-reduce", "evaluator-0", "evaluator-0"),
        ("all-reduce", "worker-2 evaluator-0", RING + " evaluator-0"),
        # A task that is leaving the run stops, and restarts no other task.
        ("parameter-server", "worker-7", "worker-7"),
    ],
)
def test_each_mode_says_which_tasks_a_loss_reaches(mode: str, lost: str, reached: str) -> None:
    assert MODES[mode].reached(named(lost), small(mode).tasks) == named(reached)


@pytest.mark.parametrize(
    ("mode", "programs", "deciding"),
    [
        ("parameter-server", "worker-0 worker-1 evaluator-0", "worker-0 worker-1"),
        ("coordinator", "chief-0 evaluator-0", "chief-0"),
        ("all-reduce", RING + " evaluator-0", RING),
    ],
)
def test_each_mode_says_which_roles_run_the_program_and_decide_the_end(
    mode: str, programs: str, deciding: str
) -> None:
    of, tasks = MODES[mode], small(mode).tasks
    assert frozenset(filter(of.runs_program, tasks)) == named(programs)
    assert frozenset(filter(of.decides_success, tasks)) == named(deciding)
    assert of.chief in named(deciding)


def test_every_mode_is_listed_by_its_own_name() -> None:
    assert {name: mode.name for name, mode in MODES.items()} == {name: name for name in JOBS}
