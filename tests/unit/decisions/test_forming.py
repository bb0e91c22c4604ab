"""How a generation forms: who takes part, what they wait for, how far a loss reaches."""

from __future__ import annotations

import pytest

from launcher.decisions import forming
from launcher.shared.protocol import Action
from launcher.task.state import ChiefCalled
from tests.unit.jobs import job
from tests.unit.play import (
    Play,
    all_run,
    grow,
    started,
)


def test_no_task_starts_before_all_have_reported() -> None:
    play = Play()
    play.settle("worker-1")
    assert play.running() == {}
    play.settle()
    assert play.running() == all_run(1)
    assert play.said[0] == "run 0123456789ab: 1 ps, 2 worker"
    assert play.said[-1] == "generation 1: all tasks start"


def test_no_task_starts_before_all_have_the_code() -> None:
    play = Play()
    play.pod("worker-1").can_pull = False
    play.settle()
    assert play.running() == {}
    play.pod("worker-1").can_pull = True
    play.settle()
    assert play.running() == all_run(1)


def test_missing_tasks_are_named_in_the_log_now_and_then() -> None:
    play = Play()
    play.tick(forming.SAY_SECONDS)
    everybody = "waiting for ps-0 (not heard from), worker-0 (not heard from), "
    assert play.said[1:] == [everybody + "worker-1 (not heard from)"]
    play.settle("worker-1")
    play.tick(forming.SAY_SECONDS - 0.1)
    assert len(play.said) == 2
    play.tick(0.1)
    assert play.said[2:] == ["waiting for worker-1 (not heard from)"]


def test_ten_of_many_missing_tasks_are_named() -> None:
    play = Play(job(replicas={"ps": 1, "worker": 50}))
    play.tick(forming.SAY_SECONDS)
    assert play.said[-1].count("worker-") == 9
    assert play.said[-1].endswith(" and 41 more")


def test_a_pod_that_is_replaced_before_the_first_generation_is_no_failure() -> None:
    play = Play()
    play.settle("worker-1")
    play.lose("worker-0")
    play.settle()
    assert play.running() == all_run(1)
    assert not play.state.charges


def test_the_chief_goes_first_until_its_session_is_up() -> None:
    play = Play(job(chiefFirst=True))
    play.settle()
    assert play.running() == {"ps-0": 1, "worker-0": 1}
    play.see("worker-0", up=True)
    play.settle()
    assert play.running() == all_run(1)


def test_the_others_start_when_the_chief_needs_them_and_then_together_with_it() -> None:
    play = Play(job(chiefFirst=True))
    play.settle()
    assert play.running() == {"ps-0": 1, "worker-0": 1}
    play.call("worker-1")
    play.settle()
    assert play.running() == all_run(1)
    assert play.said[-1] == ("the chief's session connects to the other workers, so they start now")
    play.exit("ps-0", 1)
    play.settle()
    assert play.running() == all_run(2)
    assert play.said[-1] == "generation 2: all tasks start"


@pytest.mark.parametrize(
    ("changes", "known"),
    [
        ({"hangTimeout": 100}, True),
        ({"replicas": {"ps": 1, "worker": 3}}, True),
        ({"run": "another"}, False),
        ({"run": "another", "program__args": ["--other"]}, False),
    ],
)
def test_a_new_controller_learns_from_the_tasks_that_the_chief_needs_them(
    changes: dict[str, object], known: bool
) -> None:
    play = Play(job(chiefFirst=True))
    play.settle()
    play.call("worker-1")
    play.settle()
    play.lead(job(chiefFirst=True, **changes))
    grow(play, "worker", play.job.replicas["worker"])
    play.settle()
    play.exit("ps-0", 1)
    play.settle()
    waits = play.generation if known else None
    assert play.pod("worker-1").runs == waits


@pytest.mark.parametrize("who", ["10.0.0.77", "its own chief"])
def test_only_a_call_of_the_chief_starts_the_others(who: str) -> None:
    """A name can still resolve to an address that another pod has now."""
    play = Play(job(chiefFirst=True))
    play.settle()
    if who == "its own chief":
        play.call("worker-1")
    else:
        play.pod("worker-1").take(ChiefCalled(who))
    play.settle()
    assert play.pod("worker-1").runs == (1 if who == "its own chief" else None)


@pytest.mark.parametrize("saves", [False, True])
def test_a_chief_that_needs_the_others_is_not_taken_for_one_that_hangs(saves: bool) -> None:
    """A chief of SyncReplicasOptimizer may need them, but does not connect to them."""
    play = Play(job(chiefFirst=True, hangTimeout=12, checkpoints="/data" if saves else ""))
    play.settle()
    play.tick(6)
    play.settle()
    assert play.pod("worker-1").runs == 1


@pytest.mark.parametrize("how", ["late", "very late", "done"])
def test_the_others_do_not_wait_for_ever_for_a_chief_whose_session_is_unknown(how: str) -> None:
    saves = how == "very late"
    play = Play(job(chiefFirst=True, checkpoints="/data/checkpoint" if saves else ""))
    play.settle()
    if saves:
        play.tick(forming.SAVING_CHIEF_SECONDS - 1)
        play.settle()
        assert not play.pod("worker-1").runs
    if how != "done":
        play.tick(forming.CHIEF_SECONDS)
    else:
        play.exit("worker-0", 0)
    play.settle()
    assert play.pod("worker-1").runs == 1


@pytest.mark.parametrize(
    ("mode", "lost", "again"),
    [
        ("parameter-server", "worker-1", {"worker-1"}),
        ("parameter-server", "ps-0", {"ps-0", "worker-0", "worker-1"}),
        ("coordinator", "worker-1", {"worker-1"}),
        ("coordinator", "chief-0", {"chief-0"}),
        ("coordinator", "ps-0", {"ps-0", "chief-0"}),
        ("all-reduce", "worker-1", {"worker-0", "worker-1"}),
    ],
)
@pytest.mark.parametrize("how", ["fails", "is terminated", "is drained", "is replaced"])
def test_a_loss_reaches_as_far_as_the_mode_says(
    mode: str, lost: str, again: set[str], how: str
) -> None:
    play = started(mode=mode)
    if how == "fails":
        play.exit(lost, 1)
    elif how == "is terminated":
        play.exit(lost, 143)
    elif how == "is drained":
        play.drain(lost)
        play.tell(lost)
        play.lose(lost)
    else:
        play.lose(lost)
    play.settle()
    running = play.running()
    assert {name for name, generation in running.items() if generation == 2} == again
    assert {name for name, generation in running.items() if generation == 1} == (
        {str(task) for task in play.job.tasks} - again
    )
    assert len(play.state.charges) == (1 if how == "fails" else 0)


def test_servers_stop_after_the_programs() -> None:
    """They keep the variables until every program has had time to save them."""
    play = started(replicas={"ps": 2, "worker": 2})
    play.exit("ps-0", 1)
    play.tell("ps-0", "ps-1")
    assert play.running() == {"ps-1": 1, "worker-0": 1, "worker-1": 1}
    play.tell("worker-0", "worker-0", "ps-1")
    assert play.running() == {"ps-1": 1, "worker-1": 1}
    play.tell("worker-1", "worker-1", "ps-1")
    assert play.running() == {}
    play.settle()
    assert set(play.running().values()) == {2}


def test_a_new_servers_pod_forms_while_a_program_still_runs(play: Play) -> None:
    """It has no variables to keep, so it need not wait for the programs."""
    play.exit("worker-0", 143)
    play.lose("ps-0")
    play.tell("ps-0", "worker-0", "ps-0")
    assert play.running() == {"worker-1": 1}
    holds = play.pod("ps-0").holds
    assert holds
    assert (holds.action, holds.generation) == (Action.WAIT, 2)


def test_a_generation_starts_after_the_last_one_has_stopped(play: Play) -> None:
    play.exit("ps-0", 1)
    play.settle("worker-0")
    assert play.running() == {"worker-0": 1}
    play.tick(forming.SAY_SECONDS)
    assert "worker-0 (its child has not stopped)" in play.said[-1]
    play.settle()
    assert play.running() == all_run(2)


@pytest.mark.parametrize(
    ("mode", "lost", "again"),
    [
        ("parameter-server", "worker-1", False),
        ("parameter-server", "ps-0", True),
        ("all-reduce", "worker-1", True),
    ],
)
def test_a_finished_worker_trains_again_only_where_all_tasks_must(
    mode: str, lost: str, again: bool
) -> None:
    play = started(mode=mode)
    play.exit("worker-0", 0)
    play.settle()
    assert play.pod("worker-0").stands_in == (mode == "parameter-server")
    play.exit(lost, 1)
    play.settle()
    assert play.pod("worker-0").started == ([1, 2] if again else [1])
    assert play.pod("worker-0").stands_in != again
    for name in play.running():
        if name != "ps-0":
            play.exit(name, 0)
    play.settle()
    assert play.end
    assert play.end.exit_code == 0
