"""More tasks or fewer: who trains on, who restarts, when pods are removed."""

from __future__ import annotations

import pytest

from launcher.decisions import forming
from launcher.decisions.state import Heard, RunPhase
from launcher.shared.identity import Task
from tests.unit.jobs import job
from tests.unit.play import (
    EVERYBODY,
    Play,
    all_run,
    grow,
    growing,
    started,
)


@pytest.mark.parametrize(
    ("replicas", "scaled"),
    [
        ({"ps": 1, "worker": 1}, [("worker", 2)]),
        ({"ps": 0, "worker": 0}, [("ps", 1), ("worker", 2)]),
        ({"ps": 1, "worker": 2}, []),
        ({}, []),  # the controller may not scale
    ],
)
def test_a_run_scales_its_statefulsets_at_the_beginning(
    replicas: dict[str, int], scaled: list[tuple[str, int]]
) -> None:
    play = Play(replicas=replicas)
    assert play.scaled == scaled
    play.settle()
    assert play.scaled == scaled
    assert play.running() == all_run(1)


def test_growth_lets_the_old_size_train_until_the_new_pods_are_there(play: Play) -> None:
    play.lead(job(replicas={"ps": 1, "worker": 3}), {"ps": 1, "worker": 2})
    assert play.scaled == [("worker", 3)]
    play.settle()
    assert play.running() == all_run(1)
    grow(play, "worker", 3)
    play.settle()
    assert play.running() == {**all_run(2), "worker-2": 2}


def test_failures_at_the_smaller_size_are_handled_while_new_pods_are_awaited() -> None:
    play = growing()
    play.tick(forming.SAY_SECONDS)
    assert "waiting for worker-2 (not heard from)" in play.said
    play.exit("worker-1", 1)
    play.settle()
    assert play.running() == {**all_run(1), "worker-1": 2}
    assert len(play.state.charges) == 1
    grow(play, "worker", 3)
    play.pod("worker-2").can_pull = False
    play.settle()
    assert play.running() == {**all_run(1), "worker-1": 2}, "worker-2 still pulls the code"
    play.pod("worker-2").can_pull = True
    play.settle()
    assert play.running() == {**all_run(3), "worker-2": 3}


def test_the_smaller_size_may_succeed_before_the_new_pods_come() -> None:
    play = growing()
    play.exit("worker-0", 0)
    play.exit("worker-1", 0)
    play.settle()
    assert play.end
    assert play.end.reason == "all 2 workers ended with exit code 0"


def test_the_next_controller_also_handles_failures_at_the_smaller_size() -> None:
    """The last controller has already asked for the pods, and they do not exist yet."""
    play = growing()
    play.lead(job(replicas={"ps": 1, "worker": 3}), {"ps": 1, "worker": 3})
    play.settle()
    play.tick(forming.LEAVING_SECONDS)
    play.settle()
    play.exit("worker-1", 1)
    play.settle()
    assert play.running() == {**all_run(1), "worker-1": 2}
    grow(play, "worker", 3)
    play.settle()
    assert play.running() == {**all_run(3), "worker-2": 3}


def test_surplus_pods_are_removed_while_other_pods_have_no_room() -> None:
    """worker-5 may occupy the room that worker-2 needs."""
    play = started()
    play.lead(job(replicas={"ps": 1, "worker": 6}), {"ps": 1, "worker": 2})
    grow(play, "worker", 6)
    pending = [play.pods.pop(Task("worker", index)) for index in (2, 3, 4)]
    play.settle()
    play.lead(job(replicas={"ps": 1, "worker": 3}), {"ps": 1, "worker": 6})
    for _ in range(3):
        play.settle()
        play.tick(forming.LEAVING_SECONDS)
    assert play.scaled == [("worker", 3)]
    assert play.running() == all_run(1)
    del play.pods[Task("worker", 5)]
    play.pods[Task("worker", 2)] = pending[0]
    play.settle()
    assert play.running() == {**all_run(2), "worker-2": 2}


def test_a_larger_size_starts_after_the_leaving_tasks_have_stopped() -> None:
    """The simulator found a leaving worker that trained on with restarted servers."""
    names = {"maxReplicas": {"worker": 3}}
    play = started(**names, replicas={"ps": 1, "worker": 3})
    play.lead(job(**names, replicas={"ps": 2, "worker": 1}), {"ps": 1, "worker": 3})
    grow(play, "ps", 2)
    play.tell("worker-1")
    play.settle("worker-1")
    assert play.running() == {"ps-0": 1, "worker-1": 1}
    assert play.scaled == [("ps", 2)]
    play.settle()
    assert play.running() == {"ps-0": 2, "ps-1": 2, "worker-0": 2}
    assert play.scaled == [("ps", 2), ("worker", 1)]


def test_a_new_pod_that_is_no_longer_wanted_is_removed_and_stops_no_task() -> None:
    play = growing()
    play.lead(job(), {"ps": 1, "worker": 3})  # two workers are wanted again
    play.now += forming.LEAVING_SECONDS
    play.settle()
    play.tick(forming.LEAVING_SECONDS)
    play.settle()
    assert play.running() == all_run(1)
    assert play.scaled == [("worker", 2)]


def test_workers_whose_names_are_listed_join_and_leave_alone() -> None:
    names = {"maxReplicas": {"worker": 4}}
    play = started(**names)
    play.lead(job(replicas={"ps": 1, "worker": 4}, **names), {"ps": 1, "worker": 2})
    play.settle()
    grow(play, "worker", 4)
    play.settle()
    assert play.running() == {**all_run(1), "worker-2": 2, "worker-3": 2}
    assert play.said[-2:] == ["generation 2 forms", "generation 2: worker-2, worker-3 start"]
    play.lead(job(**names), {"ps": 1, "worker": 4})
    play.settle()
    assert play.running() == all_run(1)
    assert play.scaled == [("worker", 2)]
    assert not play.state.charges


def test_other_arguments_wait_for_all_pods_of_the_larger_size() -> None:
    play = started()
    play.lead(job(run="another", replicas={"ps": 1, "worker": 3}), {"ps": 1, "worker": 2})
    play.settle()
    assert play.running() == all_run(1)
    grow(play, "worker", 3)
    play.settle()
    assert play.running() == {**all_run(2), "worker-2": 2}


def test_growth_leaves_the_evaluator_and_a_coordinators_servers_alone() -> None:
    play = started(mode="coordinator", replicas={"chief": 1, "ps": 1, "worker": 1, "evaluator": 1})
    bigger = {"chief": 1, "ps": 1, "worker": 2, "evaluator": 1}
    play.lead(job(mode="coordinator", replicas=bigger))
    grow(play, "worker", 2)
    play.settle()
    assert play.running() == {
        "chief-0": 2,
        "ps-0": 1,
        "worker-0": 1,
        "worker-1": 2,
        "evaluator-0": 1,
    }


def test_shrinking_stops_all_tasks_before_pods_are_removed() -> None:
    play = started(replicas={"ps": 1, "worker": 3})
    play.lead(job(), {"ps": 1, "worker": 3})
    play.settle("worker-2")
    assert play.scaled == []
    assert play.running() == {**all_run(1), "worker-2": 1}, "worker-2 has not been heard from"
    play.settle()
    assert play.running() == all_run(2)
    assert play.scaled == [("worker", 2)]
    assert play.pod("worker-2").started == [1]


@pytest.mark.parametrize("code", [1, 2])
def test_a_task_that_leaves_never_ends_the_run(code: int) -> None:
    play = started(replicas={"ps": 2, "worker": 2}, restarts__limit=0)
    play.exit("ps-1", code)
    play.lead(job(restarts__limit=0), {"ps": 2, "worker": 2})
    play.settle()
    assert play.end is None
    assert play.running() == all_run(2)
    assert play.scaled == [("ps", 1)]


def test_a_pod_that_never_started_does_not_delay_a_smaller_size() -> None:
    play = Play(job(replicas={"ps": 1, "worker": 3}))
    play.settle("worker-2")  # no node has room for it
    play.lead(job(), {"ps": 1, "worker": 3})
    play.settle("worker-2")
    assert play.running() == {}
    play.tick(forming.LEAVING_SECONDS - 0.1)
    assert play.state.phase is RunPhase.ADOPTING
    play.tick(0.1)
    play.settle("worker-2")
    assert set(play.running()) == set(EVERYBODY)
    assert play.scaled == [("worker", 2)]


def test_a_new_controller_completes_an_interrupted_scale_down() -> None:
    play = started(replicas={"ps": 1, "worker": 3})
    play.lead(job(), {"ps": 1, "worker": 3})
    play.settle()
    play.lead(job(), {"ps": 1, "worker": 3})  # the patch never arrived
    play.settle()
    assert play.said[1:] == ["generation 2: found running, and taken over"]
    assert play.running() == all_run(2)
    assert play.scaled == [("worker", 2)]


def test_a_new_pod_template_leads_to_one_generation_of_new_pods(play: Play) -> None:
    for pod in play.pods.values():
        pod.be(revision="old")
    play.lead(job(), {"ps": 1, "worker": 2}, {"ps": "new", "worker": "new"})
    play.settle()
    assert play.running() == {}
    for name in EVERYBODY:
        play.lose(name)
        play.pod(name).be(revision="new")
        play.settle()
    assert play.running() == all_run(play.generation)
    assert [pod.started for pod in play.pods.values()] == [[play.state.generation]] * 3


@pytest.mark.parametrize("silent", [False, True])
def test_a_smaller_size_starts_once_a_leaving_task_obeys_or_is_silent(silent: bool) -> None:
    """The simulator found an older controller, still alive, that told it to train meanwhile."""
    play = started()
    play.exit("worker-1", 1)
    play.tell("worker-1")  # it waits for its next generation
    play.lead(job(replicas={"ps": 1, "worker": 1}), {"ps": 1, "worker": 2})
    play.step(Heard(play.pod("worker-1").report()))  # and gets no answer
    play.settle("worker-1")
    assert play.running() == {}
    assert play.scaled == []
    if silent:
        play.tick(forming.LEAVING_SECONDS)
        play.settle("worker-1")
    else:
        play.settle()
    assert set(play.running()) == {"ps-0", "worker-0"}
    assert play.scaled == [("worker", 1)]


@pytest.mark.parametrize("reports", [True, False])
def test_a_size_that_somebody_else_has_changed_is_restored_without_a_charge(reports: bool) -> None:
    """`helm upgrade --force-replace` sets replicas to 1: Kubernetes then removes worker-1."""
    play = started()
    play.lead(play.job, {"ps": 1, "worker": 2})
    play.settle()
    play.counts["worker"] = 1
    if reports:
        play.drain("worker-1")
    play.settle(*(() if reports else ("worker-1",)))
    play.tick(forming.LEAVING_SECONDS)
    assert play.scaled == [("worker", 2)]
    play.lose("worker-1")
    play.settle()
    assert play.running().keys() == set(EVERYBODY)
    assert not play.state.charges
