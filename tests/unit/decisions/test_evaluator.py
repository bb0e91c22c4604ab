"""The evaluator delays no other task and decides nothing."""

from __future__ import annotations

import pytest

from launcher.decisions import failures, forming
from launcher.shared.exits import Phase
from launcher.shared.identity import parse_task
from tests.unit.jobs import job
from tests.unit.play import (
    Play,
    all_run,
    started,
)


@pytest.mark.parametrize("code", [0, 1, 2])
def test_the_evaluator_never_decides_the_end(code: int) -> None:
    play = started(replicas={"ps": 1, "worker": 2, "evaluator": 1}, restarts__limit=0)
    play.exit("evaluator-0", code)
    play.settle()
    assert play.end is None
    assert not play.state.charges
    assert play.pod("evaluator-0").runs == (None if code == 0 else 2)
    assert play.pod("worker-0").runs == 1


def test_an_evaluator_that_fails_does_not_delay_the_workers() -> None:
    replicas = {"ps": 1, "worker": 2, "evaluator": 1}
    play = Play(job(chiefFirst=True, replicas=replicas))
    play.settle()
    for _ in range(4):
        play.exit("evaluator-0", 1)
        play.settle()
        play.tick(failures.EVALUATOR_BACKOFF / 2)
    play.settle()
    assert "worker-1" in play.running()


EVALUATED = {"ps": 1, "worker": 2, "evaluator": 1}


OTHERS = ("ps-0", "worker-0", "worker-1")


def without_evaluator(play: Play, seconds: float) -> None:
    """Time passes in which only the others report, as if the evaluator's node were lost."""
    for _ in range(10):
        play.tell(*OTHERS)
        play.tick(seconds / 10)


def test_the_end_does_not_wait_for_a_silent_evaluator() -> None:
    play = started(replicas=EVALUATED)
    play.exit("worker-1", 2)
    without_evaluator(play, 10)
    assert play.end
    assert (play.end.phase, play.end.exit_code, play.end.task) == (Phase.FAILED, 2, "worker-1")


@pytest.mark.parametrize("refresh", ["OnRequest", "OnGeneration"])
@pytest.mark.parametrize("failed", [False, True])
def test_a_restart_of_all_tasks_does_not_wait_for_the_evaluator(refresh: str, failed: bool) -> None:
    code = {"image": {"path": "/x"}, "refresh": refresh}
    known = not failed and refresh == "OnRequest"  # it may keep its child
    play = started(replicas=EVALUATED, code=code)
    if failed:
        play.exit("evaluator-0", 1)
        play.tell("evaluator-0")
    play.lose("ps-0")
    without_evaluator(play, 10)
    assert {name: play.running().get(name) for name in OTHERS} == all_run(2)
    play.settle()
    play.tick(failures.EVALUATOR_BACKOFF)
    play.settle()
    assert play.running() == {**all_run(2), "evaluator-0": 1 if known else 3}


def test_the_backoff_of_an_evaluator_delays_no_other_task() -> None:
    play = started(replicas=EVALUATED)
    play.exit("evaluator-0", 1)
    for _ in range(2):
        play.tell("evaluator-0")
        play.tick(failures.SETTLE_SECONDS)
    assert play.state.not_before is not None
    assert play.state.not_before > play.now
    play.lose("worker-1")
    for _ in range(5):
        play.tell(*OTHERS, "evaluator-0")
        play.tick(2 * failures.SETTLE_SECONDS / 5)
    play.tell(*OTHERS)
    assert "worker-1" in play.running()


def test_an_evaluator_that_hangs_starts_again_alone_and_is_not_charged() -> None:
    play = started(hangTimeout=60, replicas={"ps": 1, "worker": 2, "evaluator": 1})
    play.see("evaluator-0", quiet=60)
    play.settle()
    assert play.running() == {**all_run(1), "evaluator-0": 2}
    assert play.state.charges == ()


@pytest.mark.parametrize(
    ("missing", "running"),
    [
        ("evaluator-0", {"ps-0": 2, "worker-0": 2, "worker-1": 2, "worker-2": 2}),
        ("worker-2", {"worker-0": 1, "worker-1": 1, "evaluator-0": 1}),
    ],
)
def test_a_restart_after_a_takeover_waits_for_a_worker_but_not_for_the_evaluator(
    missing: str, running: dict[str, int]
) -> None:
    replicas = {"ps": 1, "worker": 3, "evaluator": 1}
    play = started(replicas=replicas)
    away = play.pods.pop(parse_task(missing))
    play.lose("ps-0")
    play.lead(job(replicas=replicas), replicas)
    for _ in range(3):
        play.settle()
        play.tick(forming.LEAVING_SECONDS)
    assert play.running() == running
    play.pods[away.task] = away
    play.settle()
    assert set(play.running()) == {str(task) for task in play.job.tasks}
