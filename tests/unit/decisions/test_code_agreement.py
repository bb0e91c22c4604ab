"""Tasks that run together have code of the same digest."""

from __future__ import annotations

import pytest

from launcher.decisions import code_agreement, failures, forming
from tests.unit.jobs import job
from tests.unit.play import (
    EVERYBODY,
    Play,
    all_run,
    fail_to_prepare,
    grow,
    growing,
)


def give(play: Play, *digests: str) -> None:
    """Sets the digest of the code that each worker finds when it pulls."""
    for index, digest in enumerate(digests):
        play.pod(f"worker-{index}").digest = digest


def talk(play: Play) -> None:
    """All tasks report a few times, while no time passes."""
    for _ in range(4):
        play.tell(*EVERYBODY)


def coded(*digests: str, **changes: object) -> Play:
    """A run whose two workers have pulled code with these digests."""
    play = Play(job(**changes))
    give(play, *digests)
    talk(play)
    return play


def test_tasks_with_the_same_code_start_and_the_log_names_its_digest() -> None:
    play = coded("a1", "a1")
    assert play.running() == all_run(1)
    assert "generation 1: all tasks start, with code a1" in play.said
    play.exit("worker-1", 1)
    play.settle()
    assert play.said[-1] == "generation 2: worker-1 starts"


def test_tasks_with_other_code_are_named_and_all_pull_it_again() -> None:
    play = coded("a1", "b2")
    assert play.running() == {}
    said = "the code of all tasks must be the same: worker-1 has b2, the rest a1"
    assert play.said[-1] == f"{said}; worker-0, worker-1 pull it again"
    assert play.pod("ps-0").pulls == []
    assert play.pod("worker-0").pulls == [0, 1], "its own code may be the older one"
    give(play, "b2", "b2")
    play.settle()
    assert play.running() == all_run(1)


def test_code_that_stays_different_ends_the_run_after_a_while() -> None:
    play = coded("a1", "b2")
    play.settle()
    assert code_agreement.AGREE_SECONDS <= play.now < code_agreement.AGREE_SECONDS * 2
    assert play.end
    assert (play.end.exit_code, play.end.task) == (66, "worker-1")
    assert "worker-1 has b2, the rest a1; pulling it again for" in play.end.reason
    assert play.end.reason.endswith("was changed during the run, raise run.attempt")


BRANCH = {"git": {"url": "https://e.com/a", "ref": "main"}}


def test_a_branch_is_resolved_to_a_commit_once_for_the_run() -> None:
    play = Play(job(code=BRANCH))
    give(play, "a1", "a1")
    chief, worker = play.pod("worker-0"), play.pod("worker-1")
    chief.can_pull = worker.can_pull = False
    talk(play)
    assert worker.holds
    assert worker.holds.commit == "", "the chief has not reported the commit yet"
    assert worker.pulls == []
    chief.commit, chief.can_pull = "c1", True
    talk(play)
    assert worker.holds.commit == "c1"
    worker.can_pull = True
    talk(play)
    assert play.running() == all_run(1)
    chief.commit = "c2"  # a later commit does not count
    play.lead(play.job)
    play.lose("worker-1")
    play.settle()
    held = play.pod("worker-1").holds
    assert held
    assert held.commit == "c1"


def evaluated(**changes: object) -> Play:
    """A run with an evaluator; all have pulled the same code."""
    return coded("a1", "a1", replicas={"ps": 1, "worker": 2, "evaluator": 1}, **changes)


def test_an_evaluator_with_other_code_neither_ends_nor_delays_the_run() -> None:
    play = evaluated()
    play.pod("evaluator-0").digest = "a1"
    play.settle()
    assert play.running() == {**all_run(1), "evaluator-0": 1}
    play.lose("evaluator-0")
    play.pod("evaluator-0").digest = "b2"
    for _ in range(20):
        play.tick(code_agreement.LONGEST_PULL_PAUSE)
        talk(play)
        play.tell("evaluator-0")
    assert play.end is None
    assert play.running() == all_run(1)
    assert play.pod("evaluator-0").pulls[-1] > 3
    play.exit("worker-1", 1)
    talk(play)
    play.tick(code_agreement.LONGEST_PULL_PAUSE)
    play.tell(*EVERYBODY, "evaluator-0", *EVERYBODY, "evaluator-0")
    assert play.running().keys() == all_run(1).keys(), "no task waits for the evaluator"
    play.pod("evaluator-0").digest = "a1"
    play.settle()
    assert "evaluator-0" in play.running()


def test_a_restart_of_all_tasks_keeps_the_code_that_the_run_began_with() -> None:
    play = coded("a1", "a1")
    for name in EVERYBODY:
        play.lose(name)
    give(play, "b2", "b2")
    talk(play)
    play.tick(failures.SETTLE_SECONDS)
    talk(play)
    assert play.running() == {}
    assert "worker-0 has b2, worker-1 has b2, the run began with a1" in play.said[-1]
    give(play, "a1", "a1")
    play.settle()
    assert set(play.running()) == set(EVERYBODY)


def test_one_slow_pull_does_not_end_the_run() -> None:
    play = coded("a1", "b2")
    play.now += code_agreement.AGREE_SECONDS * 2
    talk(play)
    assert play.end is None
    give(play, "b2", "b2")
    play.settle()
    assert play.running() == all_run(1)


def test_a_new_controller_knows_the_code_that_runs() -> None:
    play = coded("a1", "a1")
    play.lead(play.job)
    talk(play)
    assert play.state.digest == "a1"
    assert play.said[-1] == "generation 1: found running, and taken over, with code a1"


def test_a_new_worker_whose_pull_fails_is_named_and_pulls_again() -> None:
    play = growing()
    grow(play, "worker", 3)
    new = play.pod("worker-2")
    new.can_pull = False
    play.tell("worker-2", "worker-2")
    fail_to_prepare(play, "worker-2", 74, "no answer")
    pulls = len(new.pulls)
    play.tell("worker-2")
    play.tick(forming.SAY_SECONDS)
    assert play.said[-1] == "waiting for worker-2 (no answer)"
    play.tell("worker-2")
    assert len(new.pulls) == pulls + 1
    new.can_pull = True
    play.settle()
    assert play.running() == {**all_run(2), "worker-2": 2}


@pytest.mark.parametrize("led_anew", [False, True])
def test_a_new_pod_with_edited_code_does_not_join_the_tasks_that_run(led_anew: bool) -> None:
    """The source was edited, so a replaced pod finds other code."""
    play = coded("a1", "a1")
    play.lose("worker-1")
    give(play, "a1", "b2")
    talk(play)
    play.tick(failures.SETTLE_SECONDS)
    talk(play)
    if led_anew:
        play.lead(play.job)
        talk(play)
    assert play.running() == {"ps-0": 1, "worker-0": 1}
    assert play.pod("worker-0").pulls == [0]
    assert play.pod("worker-1").pulls[-1] > 0
    give(play, "a1", "a1")
    play.settle()
    assert play.running() == {**all_run(1), "worker-1": play.state.generation}


@pytest.mark.parametrize("evaluators", [0, 1])
def test_refresh_on_generation_pulls_the_code_when_all_tasks_start_again(
    evaluators: int,
) -> None:
    code = {"folder": {"path": "/app"}, "refresh": "OnGeneration"}
    replicas = {"ps": 1, "worker": 2, **({"evaluator": 1} if evaluators else {})}
    play = Play(job(code=code, replicas=replicas))
    for pod in play.pods.values():
        pod.digest = "a1"
    play.settle()
    before = [list(play.pod(f"worker-{index}").pulls) for index in (0, 1)]
    play.exit("worker-1", 1)
    play.settle()
    assert [play.pod(f"worker-{index}").pulls for index in (0, 1)] == before, (
        "a single task keeps its code"
    )
    play.exit("ps-0", 1)
    play.settle()
    after = [play.pod(f"worker-{index}").pulls for index in (0, 1)]
    assert [len(each) for each in after] == [len(each) + 1 for each in before]
    assert play.running() == {**all_run(3), **({"evaluator-0": 3} if evaluators else {})}
    play.lose("worker-1")
    for pod in play.pods.values():
        pod.digest = "b2"  # the source was edited
    play.settle()
    assert play.end is None
    assert play.state.digest == "b2"
