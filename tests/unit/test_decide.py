"""The decisions about a run, as histories of events."""

from __future__ import annotations

from dataclasses import replace

import pytest

from launcher.decisions import code_agreement, directive, failures, forming, takeover
from launcher.decisions import state as run_state
from launcher.decisions.state import RunPhase
from launcher.decisions.step import step
from launcher.shared.exits import Code, End, Phase
from launcher.shared.identity import Task, parse_task
from launcher.shared.protocol import Action, ChildReport, Leader
from tests.unit.jobs import job
from tests.unit.play import Play, Pod

EVERYBODY = ("ps-0", "worker-0", "worker-1")


def all_run(generation: int) -> dict[str, int]:
    return dict.fromkeys(EVERYBODY, generation)


@pytest.fixture
def play() -> Play:
    """A run whose first generation runs."""
    return started()


def started(**changes: object) -> Play:
    play = Play(job(**changes))
    play.settle()
    assert play.running() == {str(task): 1 for task in play.job.tasks}
    return play


# Forming.


def test_nothing_starts_before_everybody_is_there() -> None:
    play = Play()
    play.settle("worker-1")
    assert play.running() == {}
    play.settle()
    assert play.running() == all_run(1)
    assert play.said[0] == "run 0123456789ab: 1 ps, 2 worker"
    assert play.said[-1] == "generation 1: all tasks start"


def test_nothing_starts_before_the_code_is_there() -> None:
    play = Play()
    play.pod("worker-1").ready = False
    play.settle()
    assert play.running() == {}
    play.pod("worker-1").ready = True
    play.settle()
    assert play.running() == all_run(1)


def test_who_is_missing_is_said_now_and_then() -> None:
    play = Play()
    play.tick(forming.SAY_SECONDS)
    everybody = "waiting for ps-0 (not heard from), worker-0 (not heard from), "
    assert play.said[1:] == [everybody + "worker-1 (not heard from)"]
    play.settle("worker-1")
    play.tick(forming.SAY_SECONDS - 0.1)
    assert len(play.said) == 2
    play.tick(0.1)
    assert play.said[2:] == ["waiting for worker-1 (not heard from)"]


def test_of_many_who_are_missing_ten_are_named() -> None:
    play = Play(job(replicas={"ps": 1, "worker": 50}))
    play.tick(forming.SAY_SECONDS)
    assert play.said[-1].count("worker-") == 9
    assert play.said[-1].endswith(" and 41 more")


def test_a_pod_that_starts_again_before_the_first_generation_is_no_failure() -> None:
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
    chief = play.pod("worker-0")
    assert chief.child
    chief.child = replace(chief.child, up=True)
    play.settle()
    assert play.running() == all_run(1)


@pytest.mark.parametrize("how", ["late", "very late", "done"])
def test_nobody_waits_for_ever_for_a_chief_that_does_not_tell(how: str) -> None:
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


# How far a loss reaches.


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
@pytest.mark.parametrize("how", ["fails", "is terminated", "is drained", "is made again"])
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


def test_servers_stop_after_the_programs(play: Play) -> None:
    """They keep the variables until every program could save them."""
    play.exit("worker-0", 143)
    play.lose("ps-0")
    play.tell("ps-0", "worker-0", "ps-0")
    play = started(replicas={"ps": 2, "worker": 2})
    play.exit("ps-0", 1)
    play.tell("ps-0", "ps-1")
    assert play.pod("ps-1").runs == 1
    play.settle()
    assert set(play.running().values()) == {2}


# Success.


def test_success_needs_every_worker(play: Play) -> None:
    play.exit("worker-0", 0, "auc 0.99")
    play.settle()
    assert play.end is None
    assert play.running() == {"ps-0": 1, "worker-1": 1}
    assert play.pod("worker-0").serving, "its seat is kept"
    play.exit("worker-1", 0)
    play.settle()
    assert play.end
    assert (play.end.phase, play.end.code) == (Phase.SUCCEEDED, 0)
    assert (play.end.task, play.end.last_lines) == ("worker-0", ("auc 0.99",))
    assert play.running() == {}
    assert all(pod.holds and pod.holds.action is Action.END for pod in play.pods.values())


def test_success_may_need_the_chief_alone() -> None:
    play = started(success="Chief")
    play.exit("worker-1", 0)
    play.settle()
    assert play.end is None
    play.exit("worker-0", 0)
    play.settle()
    assert play.end
    assert play.end.phase is Phase.SUCCEEDED
    assert play.running() == {}


@pytest.mark.parametrize("code", [0, 1, 2])
def test_the_evaluator_never_decides_the_end(code: int) -> None:
    play = started(replicas={"ps": 1, "worker": 2, "evaluator": 1}, restarts__limit=0)
    play.exit("evaluator-0", code)
    play.settle()
    assert play.end is None
    assert not play.state.charges
    assert play.pod("evaluator-0").runs == (None if code == 0 else 2)
    assert play.pod("worker-0").runs == 1


@pytest.mark.parametrize("mode", ["parameter-server", "all-reduce"])
def test_a_finished_worker_whose_pod_is_made_again_does_not_train_again(mode: str) -> None:
    play = started(mode=mode)
    play.exit("worker-0", 0)
    play.settle()
    play.lose("worker-0")
    play.settle()
    play.settle()
    assert play.pod("worker-0").started == []
    play.exit("worker-1", 0)
    play.settle()
    assert play.end
    assert play.end.phase is Phase.SUCCEEDED
    assert play.pod("worker-0").started == []


def test_nor_does_it_where_only_its_seat_tells_a_new_controller(play: Play) -> None:
    play.exit("worker-0", 0)
    play.settle()
    play.lose("worker-0")
    play.settle()
    play.lead(play.job)
    play.settle()
    assert play.pod("worker-0").started == []
    play.exit("worker-1", 0)
    play.settle()
    assert play.end
    assert play.end.phase is Phase.SUCCEEDED


def test_a_parameter_server_that_ends_is_lost_whatever_its_code(play: Play) -> None:
    play.exit("ps-0", 0)
    play.settle()
    assert play.end is None
    assert play.running() == all_run(2)


@pytest.mark.parametrize("event", ["lost", "failed", "ticked"])
def test_nothing_starts_after_the_end(play: Play, event: str) -> None:
    play.exit("worker-0", 0)
    play.exit("worker-1", 0)
    play.settle()
    if event == "lost":
        play.lose("worker-1")
    elif event == "failed":
        pod = play.pod("worker-1")
        assert pod.child
        pod.child = replace(pod.child, code=1)
    play.tick(1000)
    play.settle()
    assert play.running() == {}
    assert play.state.phase is RunPhase.ENDED
    assert play.pod("worker-1").started in ([], [1])


# Failure: the cause, its consequences, the budget.


def test_the_budget_ends_the_run_with_the_programs_code(play: Play) -> None:
    for generation in (1, 2, 3):
        assert play.end is None
        assert play.pod("worker-1").runs == generation
        play.exit("worker-1", 42, "Traceback", "ValueError")
        play.settle()
    assert play.end
    assert (play.end.phase, play.end.code, play.end.task) == (Phase.FAILED, 42, "worker-1")
    assert play.end.last_lines == ("Traceback", "ValueError")
    assert play.end.reason == "worker-1 failed: exit code 42, and the restart budget of 2 is spent"
    assert play.running() == {}


def test_the_budget_is_refilled() -> None:
    play = started(restarts__refill=100)
    for _ in range(5):
        play.exit("worker-1", 1)
        play.settle()
        play.tick(101)
        play.settle()
    assert play.end is None
    assert len(play.state.charges) == 1


@pytest.mark.parametrize("code", [2, 127, Code.CODE_MISSING, Code.CONFIGURATION, Code.USAGE])
def test_a_permanent_code_is_not_tried_again(play: Play, code: int) -> None:
    play.exit("worker-0", code)
    play.settle()
    assert play.end
    assert play.end.code == code
    assert play.end.reason.endswith("which another try cannot mend")
    assert [pod.started for pod in play.pods.values()] == [[1], [1], [1]]


def test_backoff_comes_only_after_a_second_failure_and_is_announced() -> None:
    play = started(restarts__limit=9)
    said = []
    for _ in range(4):
        play.exit("worker-1", 1)
        play.settle()
        said += [line for line in play.said if line.startswith("the cause: ")][-1:]
    waits = [line.partition("; next try in ")[2] for line in said]
    assert waits == ["", "1 s", "2 s", "4 s"]


@pytest.mark.parametrize("order", [("worker-0", "worker-1"), ("worker-1", "worker-0")])
def test_the_earliest_failure_is_the_cause_in_whatever_order_it_is_heard(
    order: tuple[str, str],
) -> None:
    play = started(mode="all-reduce")
    play.now = 100.0
    for name, ago in (("worker-1", 5.0), ("worker-0", 1.0)):
        play.exit(name, 3 if name == "worker-1" else 4)
        pod = play.pod(name)
        assert pod.child
        pod.child = replace(pod.child, ago=ago)
    play.tell(*order)
    play.settle()
    assert len(play.state.charges) == 1
    cause = "the cause: worker-1: exit code 3; restart 1 of 2; followed by worker-0 (exit code 4)"
    assert cause in play.said


def test_a_server_that_was_killed_is_the_cause_though_its_programs_were_seen_to_fail_first(
    play: Play,
) -> None:
    for name, code, ago in (("worker-1", 1, 0.3), ("ps-0", 137, 0.0)):
        play.exit(name, code)
        pod = play.pod(name)
        assert pod.child
        pod.child = replace(pod.child, ago=ago)
    play.tell("worker-1", "ps-0")
    play.settle()
    cause = "the cause: ps-0: killed by SIGKILL (exit code 137); restart 1 of 2; "
    assert cause + "followed by worker-1 (exit code 1)" in play.said


@pytest.mark.parametrize("how", ["lost", "drained", "terminated"])
@pytest.mark.parametrize("when", ["before", "after", "much later"])
def test_a_peer_that_is_gone_explains_a_failure(play: Play, how: str, when: str) -> None:
    def be_gone() -> None:
        if how == "lost":
            play.lose("ps-0")
        elif how == "drained":
            play.drain("ps-0")
            play.tell("ps-0")
            play.lose("ps-0")
        else:
            play.exit("ps-0", 143)

    if when == "before":
        be_gone()
    for name in ("worker-0", "worker-1"):
        play.exit(name, 1)
        play.tell(name)
    if when == "much later":
        play.settle("ps-0")
        assert len(play.state.charges) == 1, "so far nothing else is known"
    if when != "before":
        be_gone()
    play.settle()
    assert set(play.running()) == set(EVERYBODY)
    assert not play.state.charges


def test_a_task_that_was_stopped_from_outside_explains_what_was_heard_before(play: Play) -> None:
    play = started(mode="all-reduce", restarts__limit=0)
    play.drain("worker-0")
    play.exit("worker-1", 1)
    play.tell("worker-1", "worker-0")
    play.settle()
    assert play.end is None
    assert not play.state.charges
    assert play.running() == {"worker-0": 2, "worker-1": 2}


def test_a_run_does_not_end_before_all_have_been_heard_from() -> None:
    play = started(restarts__limit=0)
    play.exit("worker-1", 1)
    play.settle("ps-0")
    play.tick(100)
    assert play.end is None
    play.lose("ps-0")
    play.settle()
    assert play.end is None
    assert set(play.running().values()) == {2}


@pytest.mark.parametrize("mode", ["parameter-server", "coordinator"])
def test_a_server_that_is_told_to_end_serves_until_the_chief_has_saved(mode: str) -> None:
    play = started(mode=mode)
    chief = str(play.job.mode.chief)
    ps = play.pod("ps-0")
    ps.ready = False
    play.tell("ps-0", chief, "ps-0")
    assert f"{chief}" not in play.running(), "it is told to stop, and saves"
    assert ps.runs == 1
    ps.end(143, stopped=True)
    play.settle()
    assert chief not in play.running(), "the pod has yet to be made again"
    play.lose("ps-0")
    play.settle()
    assert play.running()[chief] == play.running()["ps-0"] == 2
    assert len([text for text in play.said if "lost ps-0" in text]) == 1
    assert (
        "the cause: ps-0: its pod was told to end; not charged to the restart budget" in play.said
    )


def test_a_coordinators_worker_that_is_told_to_end_concerns_nobody_else() -> None:
    play = started(mode="coordinator")
    play.pod("worker-0").ready = False
    play.tell("worker-0")
    play.settle()
    assert play.running()["chief-0"] == 1


def kill_container(play: Play, name: str) -> None:
    """The child is killed together with its launcher; the next launcher in the pod knows."""
    generation = play.pod(name).runs
    assert generation
    play.lose(name)
    play.pod(name).child = ChildReport(generation, code=137, reason="killed with its launcher")


def test_who_is_killed_with_its_launcher_is_charged_until_the_budget_is_spent(play: Play) -> None:
    for _ in range(3):
        play.now += 1
        kill_container(play, "worker-1")
        play.settle()
    assert "the cause: worker-1: killed with its launcher; restart 1 of 2" in play.said
    assert play.end
    assert (play.end.code, play.end.task) == (137, "worker-1")


def test_who_is_killed_with_its_launcher_is_the_cause_of_what_failed_since(play: Play) -> None:
    play.now += 10
    play.exit("worker-0", 1)
    play.settle("ps-0")
    assert len(play.state.charges) == 1
    kill_container(play, "ps-0")
    play.settle()
    assert len(play.state.charges) == 1, "it is charged instead"
    assert play.said[-2].startswith("the cause: ps-0: killed with its launcher; restart 1 of 2")


def test_a_pod_that_is_killed_before_its_controller_knows_of_it_starts_again(play: Play) -> None:
    for name in EVERYBODY:
        kill_container(play, name)
    play.lead(play.job)
    play.settle()
    assert play.running() == all_run(2)


def test_a_program_cannot_hide_its_failures_behind_sigterm(play: Play) -> None:
    for code in (1, 143) * 6:
        if not play.end:
            play.now += 3
            play.exit("worker-1", code)
            play.settle()
    assert play.end


def test_a_server_that_ends_with_0_has_failed_when_the_budget_is_spent() -> None:
    play = started(restarts__limit=0)
    play.exit("ps-0", 0)
    play.settle()
    assert play.end
    assert (play.end.phase, play.end.code) == (Phase.FAILED, 1)


def test_an_evaluator_that_fails_does_not_hold_the_workers_back() -> None:
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
    """Nothing is heard from the evaluator any more, as from a node that is gone."""
    for _ in range(10):
        play.tell(*OTHERS)
        play.tick(seconds / 10)


def test_the_end_waits_for_no_evaluator() -> None:
    play = started(replicas=EVALUATED)
    play.exit("worker-1", 2)
    without_evaluator(play, 10)
    assert play.end
    assert (play.end.phase, play.end.code, play.end.task) == (Phase.FAILED, 2, "worker-1")


@pytest.mark.parametrize("refresh", ["OnRequest", "OnGeneration"])
@pytest.mark.parametrize("failed", [False, True])
def test_a_new_start_of_all_waits_for_no_evaluator(refresh: str, failed: bool) -> None:
    code = {"image": {"path": "/x"}, "refresh": refresh}
    known = not failed and refresh == "OnRequest"  # it may go on with what it has
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


def test_the_pause_of_an_evaluator_is_its_own() -> None:
    play = started(replicas=EVALUATED)
    play.exit("evaluator-0", 1)
    for _ in range(2):
        play.tell("evaluator-0")
        play.tick(failures.SETTLE_SECONDS)
    assert play.state.not_before > play.now
    play.lose("worker-1")
    for _ in range(5):
        play.tell(*OTHERS, "evaluator-0")
        play.tick(2 * failures.SETTLE_SECONDS / 5)
    play.tell(*OTHERS)
    assert "worker-1" in play.running()


def test_servers_start_while_the_one_program_that_there_is_stops() -> None:
    """A coordinator that saves has no code to agree on, nor has that of the image a digest."""
    play = started(mode="coordinator")
    play.pod("chief-0").ready = False
    play.exit("worker-0", 1)
    play.settle()
    assert play.running()["worker-0"] == 2


def test_a_child_that_is_terminated_again_and_again_is_charged(play: Play) -> None:
    for charged in (0, 0, 1, 2):
        play.exit("worker-1", 143)
        play.settle()
        assert len(play.state.charges) == charged
    play.exit("worker-1", 143)
    play.settle()
    assert play.end
    assert play.end.code == 143


def test_losses_are_never_charged_however_many(play: Play) -> None:
    for generation in range(2, 12):
        play.lose("worker-1")
        play.settle()
        assert play.pod("worker-1").runs == generation
    assert not play.state.charges


def test_a_failure_is_charged_once_however_often_it_is_told(play: Play) -> None:
    play.exit("worker-1", 1)
    for _ in range(5):
        play.tell("worker-1")
    for _ in range(5):
        play.settle()
    assert len(play.state.charges) == 1
    assert play.pod("worker-1").runs == 2


def test_what_fails_while_all_stop_for_another_size_is_not_charged() -> None:
    size = {"mode": "all-reduce", "restarts__limit": 0}
    play = started(**size, replicas={"worker": 3})
    play.lead(job(**size, replicas={"worker": 2}), {"worker": 3})
    play.tell("worker-1", "worker-2", "worker-0")  # worker-0 stops first
    play.exit("worker-1", 1)  # and worker-1 misses it
    play.settle()
    assert play.end is None
    assert not play.state.charges
    assert play.running() == {"worker-0": 2, "worker-1": 2}


def test_a_hang_is_charged_and_starts_everybody_again() -> None:
    play = started(hangTimeout=60)
    pod = play.pod("worker-1")
    assert pod.child
    pod.child = replace(pod.child, hung=True)
    play.settle()
    assert play.running() == all_run(2)
    assert len(play.state.charges) == 1
    assert any("no progress for 60 s" in line for line in play.said)


def test_an_evaluator_that_hangs_starts_again_alone_and_is_not_charged() -> None:
    play = started(hangTimeout=60, replicas={"ps": 1, "worker": 2, "evaluator": 1})
    pod = play.pod("evaluator-0")
    assert pod.child
    pod.child = replace(pod.child, hung=True)
    play.settle()
    assert play.running() == {**all_run(1), "evaluator-0": 2}
    assert play.state.charges == ()


@pytest.mark.parametrize("age", [0.0, 60.0])
def test_a_deadline_ends_the_run(age: float) -> None:
    play = started(deadline=100)
    play.lead(play.job, age=age)
    play.settle()
    play.tick(99.0 - age)
    assert play.end is None
    play.tick(1.0)
    assert play.end
    assert (play.end.phase, play.end.code) == (Phase.FAILED, Code.DEADLINE)
    play.settle()
    assert play.running() == {}


def test_a_deadline_is_heard_of_even_where_not_all_have_been_adopted() -> None:
    play = started(deadline=100)
    play.lead(play.job)
    play.settle("worker-1")
    play.tick(100)
    assert play.end
    play.settle()
    assert play.running() == {}


def fail_to_prepare(play: Play, name: str, code: int) -> None:
    """What a task reports of code or peers that it could not get."""
    pod = play.pod(name)
    assert pod.holds
    pod.child = ChildReport(pod.holds.generation, code, reason="no code")


def test_code_that_is_missing_ends_the_run_before_it_starts() -> None:
    play = Play()
    play.pod("worker-1").ready = False
    play.settle()
    fail_to_prepare(play, "worker-1", Code.CODE_MISSING)
    play.settle()
    assert play.end
    assert (play.end.code, play.end.task) == (66, "worker-1")
    assert play.running() == {}


@pytest.mark.parametrize("made_again", [False, True])
def test_a_passing_failure_to_prepare_is_tried_again(made_again: bool) -> None:
    play = Play()
    play.pod("worker-1").ready = False
    for charged in (1, 2):
        play.settle()
        fail_to_prepare(play, "worker-1", Code.IO)
        play.settle()
        assert play.end is None
        assert len(play.state.charges) == charged
        if made_again:
            play.lose("worker-1")
            play.pod("worker-1").ready = False
    play.pod("worker-1").ready = True
    play.settle()
    assert play.running() == all_run(play.state.generation)


def test_so_it_is_in_a_generation_in_which_it_failed_in_an_earlier_pod(play: Play) -> None:
    """What the simulator found: the second failure passed for the first."""
    play = started(mode="all-reduce")
    play.lose("worker-1")
    play.pod("worker-1").ready = False
    play.tell("worker-1", "worker-0", "worker-1")
    for _ in range(2):
        fail_to_prepare(play, "worker-1", Code.IO)
        play.tell("worker-1")
        play.lose("worker-1")
        play.pod("worker-1").ready = False
        play.tell("worker-1")
    fail_to_prepare(play, "worker-1", Code.IO)
    play.settle()
    holds = play.pod("worker-1").holds
    assert holds
    assert holds.generation > 2, "it pulls again only for another one"


def test_a_finished_task_that_is_formed_anew_may_fail_to_prepare(play: Play) -> None:
    play = started(mode="all-reduce")
    play.exit("worker-1", 0)
    play.settle()
    play.lose("worker-0")
    play.lose("worker-1")
    play.pod("worker-1").ready = False
    play.settle()
    fail_to_prepare(play, "worker-1", Code.IO)
    play.settle()
    play.pod("worker-1").ready = True
    play.settle()
    assert play.running() == {"worker-0": 3, "worker-1": 3}


def test_no_code_ends_a_run_of_which_nobody_is_there() -> None:
    play = Play()
    play.step(run_state.NoCode("there is no app in /exports"))
    assert play.end
    assert (play.end.code, play.end.reason) == (66, "there is no app in /exports")


def test_no_code_is_not_believed_where_somebody_has_started() -> None:
    play = Play()
    play.tell("worker-0")
    play.step(run_state.NoCode("there is no app in /exports"))
    assert play.end is None


# What arrives twice, late, or from strangers.


def test_a_report_that_was_overtaken_is_ignored(play: Play) -> None:
    old = play.pod("worker-1").report()
    play.exit("worker-1", 1)
    play.settle()
    before = play.state
    play.step(run_state.Heard(old))
    assert play.state == before


def test_strangers_change_nothing(play: Play) -> None:
    stranger = Pod(Task("worker", 7), "stranger")
    before = play.state
    report = stranger.report()
    play.step(run_state.Heard(report))
    assert play.state == before
    told = directive.directive(play.state, report)
    assert told
    assert told.action is Action.WAIT


def test_a_stranger_that_trains_is_told_to_stop(play: Play) -> None:
    play.pods[Task("worker", 7)] = Pod(Task("worker", 7), "stranger")
    stranger = play.pod("worker-7")
    stranger.holds = play.pod("worker-0").holds
    stranger.start()
    play.settle()
    assert play.running() == all_run(1)


# A new controller.


def test_nothing_is_decided_before_the_record_of_the_end_is_read(play: Play) -> None:
    play.state = run_state.State(play.job, Leader(0, "new"))
    play.exit("worker-0", 0)
    play.exit("worker-1", 1)
    play.lose("worker-0")
    for _ in range(5):
        play.tell(*EVERYBODY)
        play.tick(100)
    assert play.state.phase is RunPhase.STARTING
    assert all(directive.directive(play.state, pod.report()) is None for pod in play.pods.values())


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


def test_what_failed_while_nobody_led_is_charged(play: Play) -> None:
    play.exit("worker-1", 1)
    play.lead(play.job)
    play.settle()
    assert play.running() == {"ps-0": 1, "worker-0": 1, "worker-1": 2}
    assert len(play.state.charges) == 1


def test_a_charge_that_was_taken_back_stays_so_for_the_next_controller(play: Play) -> None:
    """What the simulator found: a task that had not yet heard of it brought it back."""
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


def test_what_failed_for_want_of_what_was_lost_unheard_is_not_charged_after_a_takeover() -> None:
    """What the simulator found: a silent ps had been ended before a worker failed."""
    play = started(hangTimeout=60, replicas={"ps": 2, "worker": 2})
    play.pod("ps-1").end(143)
    play.exit("worker-1", 1)
    play.settle("ps-1")
    assert len(play.state.charges) == 1
    chief = play.pod("worker-0")
    assert chief.child
    chief.child = replace(chief.child, hung=True)
    for _ in range(2):
        play.tell("worker-0", "worker-1", "ps-0")  # all are to start again
    play.lead(play.job)
    play.settle()
    assert not play.state.charges


def test_a_child_of_an_earlier_run_is_not_taken_for_one_of_this(play: Play) -> None:
    """What the simulator found: only a new launcher knew of the last generation there had been."""
    for _ in range(2):
        play.exit("worker-1", 1)
        play.settle()
    assert play.running() == {"ps-0": 1, "worker-0": 1, "worker-1": 3}
    kill_container(play, "worker-1")
    play.lead(job(run="another"))
    play.tell("worker-1", "worker-1")  # the second time it holds what it was told: to wait
    play.settle()
    assert play.running() == all_run(4)
    assert not play.state.charges


@pytest.mark.parametrize("how", ["a worker failed", "all were stopped"])
def test_a_failed_run_is_not_remembered_as_one_that_succeeded(how: str) -> None:
    """Where the end is not on record, a controller after it asks the tasks."""
    play = started(deadline=100)
    if how == "a worker failed":
        play.exit("worker-0", 0)
        play.exit("worker-1", 2)
    else:
        play.tick(100)
        for name in ("worker-0", "worker-1"):  # they save, and end with 0
            play.pod(name).end(0, stopped=True)
    play.settle()
    assert play.end
    first = play.end
    play.lead(job(deadline=200))
    play.settle()
    assert play.end
    assert play.end.phase is first.phase is Phase.FAILED


def test_what_finished_while_nobody_led_has_finished(play: Play) -> None:
    play.exit("worker-0", 0)
    play.exit("worker-1", 0)
    play.lead(play.job)
    play.settle()
    assert play.end
    assert play.end.phase is Phase.SUCCEEDED
    assert play.pod("worker-0").started == [1]


@pytest.mark.parametrize("mode", ["parameter-server", "coordinator", "all-reduce"])
def test_what_failed_for_want_of_what_was_lost_while_nobody_led_is_not_charged(mode: str) -> None:
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


def test_other_arguments_are_a_new_generation_with_a_new_budget(play: Play) -> None:
    play.exit("worker-1", 1)
    play.settle()
    play.lead(job(program__args=["--steps", "6"]))
    play.settle()
    assert play.running() == all_run(3)
    assert not play.state.charges
    holds = play.pod("worker-0").holds
    assert holds
    assert holds.job == play.job.digest


def test_other_policies_start_nothing_again(play: Play) -> None:
    play.lead(job(restarts__limit=7, cleanup="Keep"))
    play.settle()
    assert [pod.started for pod in play.pods.values()] == [[1]] * 3
    holds = play.pod("worker-0").holds
    assert holds
    assert holds.job == play.job.digest


def test_the_older_of_two_controllers_yields(play: Play) -> None:
    older = play.state
    play.lead(play.job)
    play.settle()
    report = play.pod("worker-0").report()
    state, _ = step(older, run_state.Heard(report), play.now)
    assert state.phase is RunPhase.YIELDED
    assert directive.directive(state, report) is None


def test_where_nobody_gives_numbers_it_takes_one_above_all_others(play: Play) -> None:
    """A clock that is behind must not keep a controller from leading."""
    play.state = run_state.State(play.job, Leader(0, "new"))
    play.step(run_state.Begin(0, {}, {}))
    play.settle()
    assert play.state.leader == Leader(2, "new")
    assert play.running() == all_run(1)


def test_a_new_controller_tells_where_the_chief_is() -> None:
    play = Play()
    for pod in play.pods.values():
        pod.address = f"10.0.0.{pod.task.index}"
    play.settle()
    play.lead(play.job)
    play.settle()
    assert play.state.hosts[Task("worker", 0)] == "10.0.0.0"
    play.lose("worker-0")
    play.pod("worker-0").address = "10.0.0.9"
    play.settle()
    held = play.pod("ps-0").holds
    assert held
    assert held.chief == "10.0.0.9"
    assert play.pod("ps-0").started == [1]


@pytest.mark.parametrize("early", [True, False])
def test_the_older_yields_also_where_it_has_not_led_yet(play: Play, early: bool) -> None:
    """Both adopt at once; the younger was done first, and a task knows it already."""
    report = play.pod("worker-0").report()
    assert report.holds
    younger = replace(report.holds, leader=Leader(3, "younger"))
    events: list[run_state.Event] = [
        run_state.Begin(2, {}, {}),
        run_state.Heard(replace(report, holds=younger)),
    ]
    state = run_state.State(play.job, Leader(0, "older"))
    for event in reversed(events) if early else events:
        state, _ = step(state, event, play.now)
    assert state.phase is RunPhase.YIELDED


def test_a_generation_that_an_older_controller_used_meanwhile_is_not_used_again(
    play: Play,
) -> None:
    pod = play.pod("worker-1")
    assert pod.holds
    older = Leader(0, "older")
    pod.holds = replace(pod.holds, leader=older, action=Action.WAIT, generation=5)
    pod.end(143, stopped=True)
    play.settle()
    assert pod.runs == 6
    assert not play.state.charges


def test_a_finished_task_that_an_older_controller_misled_goes_not_back(play: Play) -> None:
    play.exit("worker-0", 0)
    play.settle()
    play.lose("worker-0")
    pod = play.pod("worker-0")
    holds = play.pod("worker-1").holds
    assert holds
    pod.holds = replace(holds, leader=Leader(0, "older"), action=Action.WAIT, generation=3)
    play.settle()
    assert pod.holds.generation == 3
    assert pod.holds.action is Action.SERVE
    assert pod.started == []
    assert play.state.generation >= 3, "no generation is used twice"


# The end, once more.


def test_an_end_on_record_is_told_to_tasks_that_are_still_there(play: Play) -> None:
    end = End(Phase.SUCCEEDED, 0, "ended already")
    play.lead(play.job, end=end)
    assert play.end == end
    play.settle()
    assert play.running() == {}
    assert all(pod.holds and pod.holds.action is Action.END for pod in play.pods.values())


def test_an_end_on_record_frees_pods_that_have_left_since(play: Play) -> None:
    play.lead(job(), {"ps": 2, "worker": 1}, end=End(Phase.SUCCEEDED, 0, "ended already"))
    assert play.scaled == [("ps", 1)]


def test_the_end_is_told_once(play: Play) -> None:
    play.lead(play.job, end=End(Phase.SUCCEEDED, 0, "ended already"))
    play.settle()
    for pod in play.pods.values():
        assert directive.directive(play.state, pod.report()) is None


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
    play.pods[Task("worker", 2)] = Pod(Task("worker", 2), "new")
    play.settle()
    assert play.running() == {}
    assert play.end
    assert (play.end.code, play.end.task) == (code, task)
    assert play.end.reason.startswith("ended already")


def test_another_run_is_started_after_the_end(play: Play) -> None:
    play.exit("worker-0", 0)
    play.exit("worker-1", 0)
    play.settle()
    play.lead(job(run="another"))
    play.settle()
    assert play.end is None
    assert play.running() == all_run(2)


# Size.


def grow(play: Play, role: str, count: int) -> None:
    for index in range(count):
        task = Task(role, index)
        play.pods.setdefault(task, Pod(task, f"{task} first"))


@pytest.mark.parametrize(
    ("replicas", "scaled"),
    [
        ({"ps": 1, "worker": 1}, [("worker", 2)]),
        ({"ps": 0, "worker": 0}, [("ps", 1), ("worker", 2)]),
        ({"ps": 1, "worker": 2}, []),
        ({}, []),  # not ours to scale
    ],
)
def test_pods_are_made_at_the_beginning(
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


def growing(replicas: dict[str, int] | None = None, **changes: object) -> Play:
    """A run that shall have a third worker, for which there is no room yet."""
    play = started(**changes)
    play.lead(job(**changes, replicas=replicas or {"ps": 1, "worker": 3}), {"ps": 1, "worker": 2})
    play.settle()
    return play


def test_who_waits_for_more_pods_leads_the_smaller_size_meanwhile() -> None:
    play = growing()
    play.tick(forming.SAY_SECONDS)
    assert "waiting for worker-2 (not heard from)" in play.said
    play.exit("worker-1", 1)
    play.settle()
    assert play.running() == {**all_run(1), "worker-1": 2}
    assert len(play.state.charges) == 1
    grow(play, "worker", 3)
    play.pod("worker-2").ready = False
    play.settle()
    assert play.running() == {**all_run(1), "worker-1": 2}, "it pulls the code"
    play.pod("worker-2").ready = True
    play.settle()
    assert play.running() == {**all_run(3), "worker-2": 3}


def test_who_waits_for_more_pods_ends_well_without_them() -> None:
    play = growing()
    play.exit("worker-0", 0)
    play.exit("worker-1", 0)
    play.settle()
    assert play.end
    assert play.end.reason == "all 2 workers ended with exit code 0"


def test_another_controller_leads_the_smaller_size_too() -> None:
    """The last one had asked for the pods already, and they are still not there."""
    play = growing()
    play.lead(job(replicas={"ps": 1, "worker": 3}), {"ps": 1, "worker": 3})
    play.settle()
    play.tick(takeover.LEAVING_SECONDS)
    play.settle()
    play.exit("worker-1", 1)
    play.settle()
    assert play.running() == {**all_run(1), "worker-1": 2}
    grow(play, "worker", 3)
    play.settle()
    assert play.running() == {**all_run(3), "worker-2": 3}


@pytest.mark.parametrize("missing", ["evaluator-0", "worker-2"])
def test_what_is_lost_before_a_takeover_waits_for_no_evaluator(missing: str) -> None:
    replicas = {"ps": 1, "worker": 3, "evaluator": 1}
    play = started(replicas=replicas)
    away = play.pods.pop(parse_task(missing))
    play.lose("ps-0")
    play.lead(job(replicas=replicas), replicas)
    for _ in range(3):
        play.settle()
        play.tick(takeover.LEAVING_SECONDS)
    if missing == "evaluator-0":
        assert set(play.running()) == {"ps-0", "worker-0", "worker-1", "worker-2"}
    play.pods[away.task] = away
    play.settle()
    assert set(play.running()) == {str(task) for task in play.job.tasks}


def test_pods_that_are_too_many_go_though_others_have_no_room() -> None:
    """The room that worker-2 needs may be that of worker-5."""
    play = started()
    play.lead(job(replicas={"ps": 1, "worker": 6}), {"ps": 1, "worker": 2})
    grow(play, "worker", 6)
    pending = [play.pods.pop(Task("worker", index)) for index in (2, 3, 4)]
    play.settle()
    play.lead(job(replicas={"ps": 1, "worker": 3}), {"ps": 1, "worker": 6})
    for _ in range(3):
        play.settle()
        play.tick(takeover.LEAVING_SECONDS)
    assert play.scaled == [("worker", 3)]
    assert play.running() == all_run(1)
    del play.pods[Task("worker", 5)]
    play.pods[Task("worker", 2)] = pending[0]
    play.settle()
    assert play.running() == {**all_run(2), "worker-2": 2}


def test_a_larger_size_waits_for_those_who_leave_to_stop() -> None:
    """What the simulator found: a worker that had left trained on with servers that began anew."""
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


def test_who_waits_for_more_pods_stops_nobody_for_a_pod_that_goes() -> None:
    play = growing()
    play.lead(job(), {"ps": 1, "worker": 3})  # it was asked for two again
    play.now += takeover.LEAVING_SECONDS
    play.settle()
    play.tick(takeover.LEAVING_SECONDS)
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


def test_shrinking_stops_everybody_before_pods_go() -> None:
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


def test_a_pod_that_never_came_does_not_hold_up_a_smaller_size() -> None:
    play = Play(job(replicas={"ps": 1, "worker": 3}))
    play.settle("worker-2")  # no node has room for it
    play.lead(job(), {"ps": 1, "worker": 3})
    play.settle("worker-2")
    assert play.running() == {}
    play.tick(takeover.LEAVING_SECONDS - 0.1)
    assert play.state.phase is RunPhase.ADOPTING
    play.tick(0.1)
    play.settle("worker-2")
    assert set(play.running()) == set(EVERYBODY)
    assert play.scaled == [("worker", 2)]


def test_a_scale_down_that_was_interrupted_is_done() -> None:
    play = started(replicas={"ps": 1, "worker": 3})
    play.lead(job(), {"ps": 1, "worker": 3})
    play.settle()
    play.lead(job(), {"ps": 1, "worker": 3})  # the patch never arrived
    play.settle()
    assert play.said[1:] == ["generation 2: found running, and taken over"]
    assert play.running() == all_run(2)
    assert play.scaled == [("worker", 2)]


def test_a_new_template_is_one_new_generation_of_new_pods(play: Play) -> None:
    for pod in play.pods.values():
        pod.revision = "old"
    play.lead(job(), {"ps": 1, "worker": 2}, {"ps": "new", "worker": "new"})
    play.settle()
    assert play.running() == {}
    for name in EVERYBODY:
        play.lose(name)
        play.pod(name).revision = "new"
        play.settle()
    assert play.running() == all_run(play.state.generation)
    assert [pod.started for pod in play.pods.values()] == [[play.state.generation]] * 3


# The code.


def give(play: Play, *digests: str) -> None:
    """What each worker finds when it pulls."""
    for index, digest in enumerate(digests):
        play.pod(f"worker-{index}").code = digest


def talk(play: Play) -> None:
    """All talk for a moment, in which no pause passes."""
    for _ in range(4):
        play.tell(*EVERYBODY)


def coded(*digests: str, **changes: object) -> Play:
    """A run whose two workers have pulled code with these digests."""
    play = Play(job(**changes))
    give(play, *digests)
    talk(play)
    return play


def test_tasks_that_have_the_same_code_start_and_it_is_told() -> None:
    play = coded("a1", "a1")
    assert play.running() == all_run(1)
    assert "generation 1: all tasks start, with code a1" in play.said
    play.exit("worker-1", 1)
    play.settle()
    assert play.said[-1] == "generation 2: worker-1 starts"


def test_those_whose_code_differs_are_named_and_all_who_start_pull_it_again() -> None:
    play = coded("a1", "b2")
    assert play.running() == {}
    said = "the code of all tasks must be the same: worker-1 has b2, the rest a1"
    assert play.said[-1] == f"{said}; worker-0, worker-1 pull it again"
    assert play.pod("ps-0").pulls == [0]
    assert play.pod("worker-0").pulls == [0, 1], "its own may be the older one"
    give(play, "b2", "b2")
    play.settle()
    assert play.running() == all_run(1)


def test_code_that_stays_different_ends_the_run_after_a_while() -> None:
    play = coded("a1", "b2")
    play.settle()
    assert code_agreement.AGREE_SECONDS <= play.now < code_agreement.AGREE_SECONDS * 2
    assert play.end
    assert (play.end.code, play.end.task) == (66, "worker-1")
    assert "worker-1 has b2, the rest a1; pulling it again for" in play.end.reason
    assert play.end.reason.endswith("was changed after the run had begun: raise run.attempt")


BRANCH = {"git": {"url": "https://e.com/a", "ref": "main"}}


def test_what_a_branch_means_is_found_out_once() -> None:
    play = Play(job(code=BRANCH))
    give(play, "a1", "a1")
    chief, worker = play.pod("worker-0"), play.pod("worker-1")
    worker.ready = False
    talk(play)
    assert worker.holds
    assert worker.holds.commit == "", "the chief has yet to tell"
    chief.commit = "c1"
    talk(play)
    assert worker.holds.commit == "c1"
    worker.ready = True
    talk(play)
    assert play.running() == all_run(1)
    chief.commit = "c2"  # whatever it may say later
    play.lead(play.job)
    play.lose("worker-1")
    play.settle()
    held = play.pod("worker-1").holds
    assert held
    assert held.commit == "c1"


def evaluated(**changes: object) -> Play:
    """A run with an evaluator; all have pulled the same code."""
    return coded("a1", "a1", replicas={"ps": 1, "worker": 2, "evaluator": 1}, **changes)


def test_an_evaluator_with_other_code_never_ends_the_run_and_holds_up_nobody() -> None:
    play = evaluated()
    play.pod("evaluator-0").code = "a1"
    play.settle()
    assert play.running() == {**all_run(1), "evaluator-0": 1}
    play.lose("evaluator-0")
    play.pod("evaluator-0").code = "b2"
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
    assert play.running().keys() == all_run(1).keys(), "nobody waits for it"
    play.pod("evaluator-0").code = "a1"
    play.settle()
    assert "evaluator-0" in play.running()


def test_what_the_run_began_with_is_its_code_also_where_all_start_again() -> None:
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
    assert play.state.code == "a1"
    assert play.said[-1] == "generation 1: found running, and taken over, with code a1"


def test_who_shall_join_and_cannot_pull_the_code_says_why_and_tries_again() -> None:
    play = growing()
    grow(play, "worker", 3)
    new = play.pod("worker-2")
    new.ready = False
    play.tell("worker-2", "worker-2")
    new.child = ChildReport(1, code=74, reason="no answer")
    pulls = len(new.pulls)
    play.tell("worker-2")
    play.tick(forming.SAY_SECONDS)
    assert play.said[-1] == "waiting for worker-2 (no answer)"
    play.tell("worker-2")
    assert len(new.pulls) == pulls + 1
    new.child, new.ready = None, True
    play.settle()
    assert play.running() == {**all_run(2), "worker-2": 2}


@pytest.mark.parametrize("led_anew", [False, True])
def test_code_never_changes_under_what_runs(led_anew: bool) -> None:
    """The folder was edited; a pod that is made again finds what is there now."""
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
def test_code_is_pulled_for_each_generation_of_all_where_that_is_asked_for(
    evaluators: int,
) -> None:
    code = {"folder": {"path": "/app"}, "refresh": "OnGeneration"}
    replicas = {"ps": 1, "worker": 2, **({"evaluator": 1} if evaluators else {})}
    play = Play(job(code=code, replicas=replicas))
    for pod in play.pods.values():
        pod.code = "a1"
    play.settle()
    before = [list(play.pod(f"worker-{index}").pulls) for index in (0, 1)]
    play.exit("worker-1", 1)
    play.settle()
    assert [play.pod(f"worker-{index}").pulls for index in (0, 1)] == before, "one alone keeps it"
    play.exit("ps-0", 1)
    play.settle()
    after = [play.pod(f"worker-{index}").pulls for index in (0, 1)]
    assert [len(each) for each in after] == [len(each) + 1 for each in before]
    assert play.running() == {**all_run(3), **({"evaluator-0": 3} if evaluators else {})}
    play.lose("worker-1")
    for pod in play.pods.values():
        pod.code = "b2"  # what there is to pull now
    play.settle()
    assert play.end is None
    assert play.state.code == "b2"


# What the first cut asked as well.


def test_a_failure_is_told_from_its_loss_to_the_new_start(play: Play) -> None:
    before = len(play.said)
    play.exit("worker-1", 1)
    play.settle()
    assert play.said[before:] == [
        "generation 1: lost worker-1: exit code 1; worker-1 stops",
        "the cause: worker-1: exit code 1; restart 1 of 2",
        "generation 2: worker-1 starts",
    ]


def test_a_failure_settles_for_a_moment(play: Play) -> None:
    """What fails together is judged together."""
    play.exit("worker-1", 1)
    play.tell("worker-1")
    play.tick(failures.SETTLE_SECONDS - 0.1)
    play.tell(*EVERYBODY)
    assert play.running() == {"ps-0": 1, "worker-0": 1}
    play.exit("worker-0", 1)
    play.tell("worker-0")
    play.settle()
    assert play.running() == {"ps-0": 1, "worker-0": 2, "worker-1": 2}
    assert len(play.state.charges) == 1


def test_who_fails_again_soon_waits_longer_each_time() -> None:
    play = started(restarts__limit=5)
    waits = []
    for generation in range(2, 6):
        play.exit("worker-1", 1)
        play.tell("worker-1")
        begin = play.now
        while play.running().get("worker-1") != generation:
            assert play.now - begin < 60
            play.tick(0.25)
            play.tell("worker-1", "worker-1")
        waits.append(play.now - begin - failures.SETTLE_SECONDS)
    assert waits == [0, 1, 2, 4]


def test_a_budget_of_none_allows_no_restart() -> None:
    play = started(restarts__limit=0)
    play.exit("worker-0", 1)
    play.settle()
    assert play.end
    assert play.end.code == 1


def test_no_generation_starts_before_the_last_one_has_stopped(play: Play) -> None:
    play.exit("ps-0", 1)
    play.settle("worker-0")
    assert play.running() == {"worker-0": 1}
    play.tick(forming.SAY_SECONDS)
    assert "worker-0 (its child has not stopped)" in play.said[-1]
    play.settle()
    assert play.running() == all_run(2)


def test_a_failure_whose_pod_goes_as_well_is_the_pods(play: Play) -> None:
    play.exit("worker-1", 1)
    play.tell("worker-1")
    play.lose("worker-1")
    play.settle()
    assert not play.state.charges
    assert play.running() == {"ps-0": 1, "worker-0": 1, "worker-1": 2}


@pytest.mark.parametrize(
    ("mode", "lost", "again"),
    [
        ("parameter-server", "worker-1", False),
        ("parameter-server", "ps-0", True),
        ("all-reduce", "worker-1", True),
    ],
)
def test_a_worker_that_finished_trains_again_where_all_must(
    mode: str, lost: str, again: bool
) -> None:
    play = started(mode=mode)
    play.exit("worker-0", 0)
    play.settle()
    assert play.pod("worker-0").serving == (mode == "parameter-server")
    play.exit(lost, 1)
    play.settle()
    assert play.pod("worker-0").started == ([1, 2] if again else [1])
    assert play.pod("worker-0").serving != again
    for name in play.running():
        if name != "ps-0":
            play.exit(name, 0)
    play.settle()
    assert play.end
    assert play.end.code == 0


def test_a_report_that_is_heard_twice_changes_nothing(play: Play) -> None:
    report = play.pod("worker-1").report()
    play.step(run_state.Heard(report))
    before = play.state
    play.step(run_state.Heard(report))
    assert play.state == before


def test_the_same_events_give_the_same_decisions() -> None:
    def history() -> tuple[run_state.State, list[str]]:
        play = started()
        play.exit("worker-1", 1)
        play.settle("worker-0")
        play.lose("worker-0")
        play.settle()
        return play.state, play.said

    assert history() == history()


@pytest.mark.parametrize("when", ["before", "after"])
def test_reports_count_whether_they_come_before_the_beginning_or_after(
    play: Play, when: str
) -> None:
    play.state = run_state.State(play.job, Leader(0, "new"))
    if when == "before":
        play.tell(*EVERYBODY)
    play.step(run_state.Begin(1, {"ps": 1, "worker": 2}, {}))
    if when == "after":
        play.tell(*EVERYBODY)
    assert play.state.phase is RunPhase.LEADING
    assert play.running() == all_run(1)
