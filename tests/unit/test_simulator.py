"""The simulator: every schedule of faults must end well, and broken rules must be noticed."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from launcher.decisions import code_agreement, directive, failures, forming, step, takeover
from launcher.task import step as task_step
from tests.unit.simulator import histories
from tests.unit.simulator.schedule import schedule_for

SCHEDULES = 2000
BATCHES = 4
MOST = 4000  # schedules, until a broken rule is noticed
# Rare schedules that notice a broken rule, which are tried before all others to save time. One that
# no longer notices it makes the test slower, not wrong.
NOTICED_BY = [114, 120, 256, 268, 269, 305, 371, 375, 472, 522, 604, 1235, 1479, 1545]


@pytest.mark.parametrize("batch", range(BATCHES))
def test_every_schedule_keeps_the_promises_and_ends(batch: int) -> None:
    for seed in range(batch, SCHEDULES, BATCHES):
        if histories.play(schedule_for(seed)):
            pytest.fail(histories.explain(seed), pytrace=False)


# Each is a rule: its module, the rule as it stands there, and broken.
RULES = {
    "a drained task is never charged": (
        failures,
        "outside = len(drains) <= DRAINS",
        "outside = False",
    ),
    "TensorFlow's mistake is not charged if the run has advanced": (
        failures,
        "advanced = root.progress.beyond(state.mistake_progress)",
        "advanced = False",
    ),
    "TensorFlow's mistake is charged if the run has not advanced": (
        failures,
        "advanced = root.progress.beyond(state.mistake_progress)",
        "advanced = True",
    ),
    "what failed for want of a lost task is taken back": (
        failures,
        "tuple(at for at in state.charges if at <= since)",
        "state.charges",
    ),
    "a failure ends the run only once all have been heard from": (
        failures,
        "if not state.forming >= everybody:",
        "if False:",
    ),
    "a new controller does not forget the generation": (
        takeover,
        "generation = max(newest(report) for report in heard.values())",
        "generation = 0",
    ),
    "every start is a new generation": (
        forming,
        "generation = latest_generation(state) if before else latest_generation(state) + 1",
        "generation = max(1, latest_generation(state))",
    ),
    "a new controller waits for those who leave": (
        takeover,
        "if not _waited(state.complete_at, now):",
        "if False:",
    ),
    "nothing starts while a child still runs": (
        forming,
        "if runs(report):",
        "if False:",
    ),
    "other counts are a new generation": (
        takeover,
        "return holds.cluster_digest == job.cluster_digest or keeps",
        "return True",
    ),
    "programs that run together are of one code": (
        code_agreement,
        "others = sorted(task for task, digest in found.items() if digest != most)",
        "others = []",
    ),
    "success needs every worker": (
        failures,
        "if not all(state.seat(task).orders.done for task in deciding):",
        "if not any(state.seat(task).orders.done for task in deciding):",
    ),
    "a finished task does not train again": (
        directive,
        "if report.incarnation == orders.incarnation and later <= orders.generation:",
        "if True:",
    ),
    "an end on record is the end": (
        step,
        "if event.end:",
        "if False:",
    ),
    "an end is believed by tasks that an older controller led": (
        directive,
        "generation = max(told.generation, holds.generation)",
        "generation = told.generation",
    ),
    "a failure is dealt with once": (
        failures,
        "if child.generation < state.seat(task).news_from:",
        "if False:",
    ),
    "a task obeys no older controller": (
        task_step,
        "if current and (directive.leader, directive.generation)",
        "if False and (directive.leader, directive.generation)",
    ),
    "a task starts its child once in a generation": (
        task_step,
        "return state.child is not None and state.child.generation == generation",
        "return False",
    ),
    "a task that waits starts nothing": (
        task_step,
        "if directive.action is not Action.RUN:",
        "if False:",
    ),
    "a preparation that was cancelled is no failure": (
        task_step,
        "        if doing.ending:\n            return state, ()\n"
        "        state = replace(state, failed=",
        "        state = replace(state, failed=",
    ),
    "workers that the chief needs do not wait for it": (
        step,
        "if chief_calls(state):",
        "if False:",
    ),
    "who could not prepare prepares again": (
        failures,
        "if any(child and child.generation == state.generation for child in children):",
        "if False:",
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_the_simulator_notices_a_broken_rule(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, stands, broken = RULES[rule]
    source = inspect.getsource(module)
    assert source.count(stands) == 1, f"{module.__name__} has changed: change RULES too"
    other = types.ModuleType("broken")
    monkeypatch.setitem(sys.modules, "broken", other)  # where dataclasses look for it
    exec(source.replace(stands, broken), other.__dict__)  # noqa: S102
    for name, function in inspect.getmembers(module, inspect.isfunction):
        if function.__module__ == module.__name__:  # other modules hold the same function objects
            monkeypatch.setattr(function, "__code__", vars(other)[name].__code__)
    seeds = [*NOTICED_BY, *range(MOST)]
    assert any(histories.play(schedule_for(seed)) for seed in seeds), rule


def test_the_same_events_give_the_same_decisions() -> None:
    """Also in another process, where sets have another order."""

    def digest(seed: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "tests.unit.simulator", "--seeds", "60", "--digest"],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert digest("1") == digest("2") != ""


def test_a_schedule_that_fails_is_shrunk_and_its_history_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(failures, "DRAINED", 0)
    for seed in range(MOST):
        schedule = schedule_for(seed)
        violation = histories.play(schedule)
        if violation and len(schedule.faults) > 3:
            break
    else:
        pytest.fail("no schedule fails")
    smaller = histories.shrink(schedule, violation.rule)
    assert len(smaller.faults) < len(schedule.faults)
    told = histories.tell(smaller)
    assert told.startswith(f"seed {seed}: ")
    assert f"Violation: {violation.rule}: " in told.splitlines()[-1]
