"""What a new controller takes over, and which ends it finds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from launcher.decisions import directive
from launcher.decisions import state as decisions_state
from launcher.decisions.state import RunPhase
from launcher.decisions.step import step
from launcher.shared.exits import End, Phase
from launcher.shared.identity import Task
from launcher.shared.protocol import Action, Leader
from tests.unit.jobs import job
from tests.unit.play import (
    EVERYBODY,
    Play,
    all_run,
    kill_container,
    started,
)


def test_nothing_is_decided_before_the_record_of_the_end_is_read(play: Play) -> None:
    play.state = decisions_state.State(play.job, play.job, Leader(0, "new"))
    play.exit("worker-0", 0)
    play.exit("worker-1", 1)
    play.lose("worker-0")
    for _ in range(5):
        play.tell(*EVERYBODY)
        play.tick(100)
    assert play.state.phase is RunPhase.STARTING
    assert all(play.directive(pod.report()) is None for pod in play.pods.values())


def test_a_new_controller_takes_over_what_runs(play: Play) -> None:
    play.exit("worker-1", 1)
    play.settle()
    play.lead(play.job)
    play.settle("worker-1")
    assert play.state.phase is RunPhase.ADOPTING
    play.settle()
    assert [pod.started for pod in play.pods.values()] == [[1], [1], [1, 2]]
    assert len(play.state.charges) == 1, "the budget that was spent stays spent"
    assert play.said[1:] == ["generation 2: found running, and taken over"]


def test_a_failure_before_a_takeover_is_charged(play: Play) -> None:
    play.exit("worker-1", 1)
    play.lead(play.job)
    play.settle()
    assert play.running() == {"ps-0": 1, "worker-0": 1, "worker-1": 2}
    assert len(play.state.charges) == 1


def test_the_next_controller_does_not_restore_a_withdrawn_charge() -> None:
    """The simulator found a task that did not know of the withdrawal and restored the charge."""
    play = started(mode="coordinator")
    play.exit("chief-0", 1)
    play.settle("ps-0")
    assert play.state.charges
    play.lose("ps-0")
    play.settle("worker-0", "worker-1")
    assert not play.state.charges
    play.lead(play.job)
    play.settle()
    assert not play.state.charges


def test_a_takeover_forgives_a_failure_caused_by_a_loss_that_was_reported_late() -> None:
    """The simulator found a silent ps that had ended before the worker failed."""
    play = started(hangTimeout=60, replicas={"ps": 2, "worker": 2})
    play.exit("ps-1", 143)
    play.exit("worker-1", 1)
    play.settle("ps-1")
    assert len(play.state.charges) == 1
    play.see("worker-0", quiet=60)
    for _ in range(2):
        play.tell("worker-0", "worker-1", "ps-0")  # all tasks must restart
    play.lead(play.job)
    play.settle()
    assert not play.state.charges


def test_a_child_of_an_earlier_run_is_not_taken_for_one_of_this_run(play: Play) -> None:
    """The simulator found a run whose last generation only a new launcher knew."""
    for _ in range(2):
        play.exit("worker-1", 1)
        play.settle()
    assert play.running() == {"ps-0": 1, "worker-0": 1, "worker-1": 3}
    kill_container(play, "worker-1")
    play.lead(job(run="another"))
    play.tell("worker-1", "worker-1")  # its second report holds WAIT
    play.settle()
    assert play.running() == all_run(4)
    assert not play.state.charges


@pytest.mark.parametrize("how", ["a worker failed", "all were stopped"])
def test_a_failed_run_is_not_remembered_as_a_success(how: str) -> None:
    """If the end is not recorded, the next controller learns it from the tasks."""
    play = started(deadline=100)
    if how == "a worker failed":
        play.exit("worker-0", 0)
        play.exit("worker-1", 2)
    else:
        for name in ("worker-0", "worker-1"):  # they save, and end with 0
            play.pod(name).stops_with = 0
        play.tick(100)
    play.settle()
    assert play.end
    first = play.end
    play.lead(job(deadline=200))
    play.settle()
    assert play.end
    assert play.end.phase is first.phase is Phase.FAILED


def test_workers_that_finish_before_a_takeover_stay_finished(play: Play) -> None:
    play.exit("worker-0", 0)
    play.exit("worker-1", 0)
    play.lead(play.job)
    play.settle()
    assert play.end
    assert play.end.phase is Phase.SUCCEEDED
    assert play.pod("worker-0").started == [1]


@pytest.mark.parametrize("mode", ["parameter-server", "coordinator", "all-reduce"])
def test_a_failure_caused_by_a_loss_before_a_takeover_is_not_charged(mode: str) -> None:
    play = started(mode=mode, restarts__limit=0)
    lost, failed = {
        "parameter-server": ("ps-0", "worker-0"),
        "coordinator": ("ps-0", "chief-0"),
        "all-reduce": ("worker-1", "worker-0"),
    }[mode]
    play.lose(lost)
    play.exit(failed, 1)
    play.lead(play.job)
    play.settle()
    assert play.end is None
    assert not play.state.charges
    assert play.running()[failed] == 2


def test_a_new_controller_in_the_middle_of_stopping_uses_no_generation_twice() -> None:
    play = started(mode="all-reduce")
    play.exit("worker-1", 1)
    play.tell("worker-1")  # it waits for generation 2, worker-0 still trains in 1
    play.lead(play.job)
    play.settle()
    assert play.running() == {"worker-0": 3, "worker-1": 3}


def test_changed_arguments_lead_to_a_new_generation_with_a_new_budget(play: Play) -> None:
    play.exit("worker-1", 1)
    play.settle()
    play.lead(job(program__args=["--steps", "6"]))
    play.settle()
    assert play.running() == all_run(3)
    assert not play.state.charges
    holds = play.pod("worker-0").holds
    assert holds
    assert holds.job_digest == play.job.digest


def test_a_changed_policy_restarts_no_task(play: Play) -> None:
    play.lead(job(restarts__limit=7, cleanup="Keep"))
    play.settle()
    assert [pod.started for pod in play.pods.values()] == [[1]] * 3
    holds = play.pod("worker-0").holds
    assert holds
    assert holds.job_digest == play.job.digest


def test_the_older_of_two_controllers_yields(play: Play) -> None:
    older = play.state
    play.lead(play.job)
    play.settle()
    report = play.pod("worker-0").report()
    state, _ = step(older, decisions_state.Heard(report), play.now)
    assert state.phase is RunPhase.YIELDED
    assert directive.directive(directive.instructions(state), report) is None


def test_a_controller_without_kubernetes_takes_a_number_above_all_others(play: Play) -> None:
    """A clock that is behind must not keep a controller from leading."""
    play.state = decisions_state.State(play.job, play.job, Leader(0, "new"))
    play.step(decisions_state.Begin(0, {}, {}))
    play.settle()
    assert play.state.leader == Leader(2, "new")
    assert play.running() == all_run(1)


def test_a_new_controller_tells_tasks_where_the_chief_is() -> None:
    play = Play()
    for pod in play.pods.values():
        pod.be(address=f"10.0.0.{pod.task.index}")
    play.settle()
    play.lead(play.job)
    play.settle()
    assert play.state.hosts[Task("worker", 0)] == "10.0.0.0"
    play.lose("worker-0")
    play.pod("worker-0").be(address="10.0.0.9")
    play.settle()
    held = play.pod("ps-0").holds
    assert held
    assert held.chief == "10.0.0.9"
    assert play.pod("ps-0").started == [1]


@pytest.mark.parametrize("early", [True, False])
def test_the_older_controller_yields_even_before_it_leads(play: Play, early: bool) -> None:
    """Two controllers adopt at once. The younger finished first, and a task knows it already."""
    report = play.pod("worker-0").report()
    assert report.holds
    younger = replace(report.holds, leader=Leader(3, "younger"))
    events: list[decisions_state.Event] = [
        decisions_state.Begin(2, {}, {}),
        decisions_state.Heard(replace(report, holds=younger)),
    ]
    state = decisions_state.State(play.job, play.job, Leader(0, "older"))
    for event in reversed(events) if early else events:
        state, _ = step(state, event, play.now)
    assert state.phase is RunPhase.YIELDED


def test_a_generation_that_an_older_controller_used_meanwhile_is_not_used_again(
    play: Play,
) -> None:
    pod = play.pod("worker-1")
    held = pod.state.directive
    assert held
    older = Leader(0, "older")
    play.mislead("worker-1", replace(held, leader=older, action=Action.WAIT, generation=5))
    play.settle()
    assert pod.runs == 6
    assert not play.state.charges


def test_a_finished_task_keeps_the_generation_that_an_older_controller_gave_it(play: Play) -> None:
    play.exit("worker-0", 0)
    play.settle()
    play.lose("worker-0")
    pod = play.pod("worker-0")
    held = play.pod("worker-1").state.directive
    assert held
    older = Leader(0, "older")
    play.mislead("worker-0", replace(held, leader=older, action=Action.WAIT, generation=3))
    play.settle()
    assert pod.holds
    assert pod.holds.generation == 3
    assert pod.holds.action is Action.STAND_IN
    assert pod.started == []
    assert play.generation >= 3, "no generation is used twice"


def test_tasks_that_still_exist_are_told_a_recorded_end(play: Play) -> None:
    end = End(Phase.SUCCEEDED, 0, "ended already")
    play.lead(play.job, end=end)
    assert play.end == end
    play.settle()
    assert play.running() == {}
    assert all(pod.holds and pod.holds.action is Action.END for pod in play.pods.values())


def test_a_recorded_end_scales_away_pods_that_are_no_longer_wanted(play: Play) -> None:
    play.lead(job(), {"ps": 2, "worker": 1}, end=End(Phase.SUCCEEDED, 0, "ended already"))
    assert play.scaled == [("ps", 1)]


def test_each_task_is_told_the_end_once(play: Play) -> None:
    play.lead(play.job, end=End(Phase.SUCCEEDED, 0, "ended already"))
    play.settle()
    for pod in play.pods.values():
        assert play.directive(pod.report()) is None


@pytest.mark.parametrize(
    ("ends", "code", "task"),
    [({"worker-0": 0, "worker-1": 0}, 0, ""), ({"worker-1": 2}, 2, "worker-1")],
)
def test_a_run_whose_end_only_its_tasks_know_is_not_started_again(
    play: Play, ends: dict[str, int], code: int, task: str
) -> None:
    for name, ended in ends.items():
        play.exit(name, ended)
    play.settle()
    assert play.end
    play.lose("ps-0")
    # With another size it is the same run.
    play.lead(job(replicas={"ps": 1, "worker": 3}))
    play.make(Task("worker", 2))
    play.settle()
    assert play.running() == {}
    assert play.end
    assert (play.end.exit_code, play.end.task) == (code, task)
    assert play.end.found


def test_a_new_run_starts_after_the_end_of_the_last(play: Play) -> None:
    play.exit("worker-0", 0)
    play.exit("worker-1", 0)
    play.settle()
    play.lead(job(run="another"))
    play.settle()
    assert play.end is None
    assert play.running() == all_run(2)


def test_the_end_of_another_runs_program_is_not_remembered_as_this_runs(play: Play) -> None:
    """If the end is not recorded, the next controller learns it from the tasks."""
    for name in ("worker-0", "worker-1"):
        play.exit(name, 0)
    play.settle()
    assert play.end
    for name in ("worker-0", "worker-1"):
        play.pod(name).can_pull = False
    play.lead(job(run="another", deadline=100))
    play.settle()
    play.tick(100)
    play.settle()
    assert play.end
    assert play.end.phase is Phase.FAILED
    play.lead(job(run="another", deadline=200))
    play.settle()
    assert play.end
    assert play.end.phase is Phase.FAILED
