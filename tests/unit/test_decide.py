"""The decisions about a run, as histories of events."""

from __future__ import annotations

from dataclasses import replace

import pytest

from launcher import decide
from launcher.decide import RunPhase
from launcher.exits import Code, Phase
from launcher.identity import Task
from launcher.protocol import Action, ChildReport, Leader
from tests.unit.jobs import job
from tests.unit.play import Play, Pod

EVERYBODY = ("ps-0", "worker-0", "worker-1")
RING = ("worker-0", "worker-1", "worker-2")


def all_run(generation: int, **others: int) -> dict[str, int]:
    """Everybody runs the same generation, but for some: `worker_1=2`."""
    names = {name.replace("_", "-"): other for name, other in others.items()}
    return {**dict.fromkeys(EVERYBODY, generation), **names}


@pytest.fixture
def play() -> Play:
    """A run in mode parameter-server whose first generation runs."""
    play = Play()
    play.settle()
    assert play.running() == all_run(1)
    return play


@pytest.fixture
def ring() -> Play:
    """A run in mode all-reduce whose first generation runs."""
    play = Play(job(mode="all-reduce", replicas={"worker": 3}))
    play.settle()
    assert play.running() == dict.fromkeys(RING, 1)
    return play


@pytest.fixture
def coordinated() -> Play:
    """A run in mode coordinator whose first generation runs."""
    play = Play(job(mode="coordinator", replicas={"chief": 1, "ps": 2, "worker": 2}))
    play.settle()
    assert set(play.running().values()) == {1}
    return play


# Forming.


def test_nothing_starts_before_everybody_is_there() -> None:
    play = Play()
    play.settle("worker-1")
    assert play.running() == {}
    play.settle()
    assert play.running() == all_run(1)
    assert play.said == [
        "run 0123456789ab: 1 ps, 2 worker",
        "generation 1 forms",
        "generation 1: all tasks start",
    ]


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
    play.tick(decide.SAY_SECONDS)
    everybody = "waiting for ps-0 (not heard from), worker-0 (not heard from), "
    assert play.said[1:] == [everybody + "worker-1 (not heard from)"]
    play.pod("worker-0").ready = False
    play.settle("worker-1")
    play.tick(decide.SAY_SECONDS - 0.1)
    assert len(play.said) == 2
    play.tick(0.1)
    assert play.said[2:] == ["waiting for worker-1 (not heard from)"]
    play.settle()
    play.tick(decide.SAY_SECONDS)
    assert play.said[3:] == ["generation 1 forms", "waiting for worker-0 (pulls the code)"]


def test_of_many_who_are_missing_ten_are_named() -> None:
    play = Play(job(replicas={"ps": 1, "worker": 50}))
    play.tick(decide.SAY_SECONDS)
    assert play.said[-1].count("worker-") == 9
    assert play.said[-1].endswith(" and 41 more")


def test_a_pod_that_starts_again_before_the_first_generation_is_no_failure() -> None:
    play = Play()
    play.settle("worker-1")
    play.lose("worker-0")
    play.settle()
    assert play.running() == all_run(1)
    assert play.charged == 0


# Success.


def test_success_needs_every_worker(play: Play) -> None:
    play.exit("worker-0", 0, "auc 0.99")
    play.settle()
    assert play.end is None
    assert play.running() == {"ps-0": 1, "worker-1": 1}
    assert play.serving() == ["worker-0"], "its address stays answered while others train"
    play.exit("worker-1", 0)
    play.settle()
    assert play.end
    assert (play.end.phase, play.end.code) == (Phase.SUCCEEDED, 0)
    assert play.serving() == []
    assert (play.end.task, play.end.last_lines) == ("worker-0", ("auc 0.99",))
    assert play.running() == {}
    assert all(pod.holds and pod.holds.action is Action.END for pod in play.pods.values())


def test_a_finished_worker_whose_pod_is_made_again_does_not_train_again(play: Play) -> None:
    play.exit("worker-0", 0)
    play.settle()
    play.lose("worker-0")
    play.settle()
    assert play.pod("worker-0").started == []
    assert play.running() == {"ps-0": 1, "worker-1": 1}
    assert play.serving() == ["worker-0"]
    assert play.charged == 0
    play.exit("worker-1", 0)
    play.settle()
    assert play.end
    assert play.end.phase is Phase.SUCCEEDED
    assert play.pod("worker-0").started == []


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


def test_a_failure_leads_to_a_new_generation_and_is_charged(play: Play) -> None:
    play.exit("worker-1", 1)
    play.settle()
    assert play.running() == all_run(1, worker_1=2)
    assert play.charged == 1
    assert play.said[3:] == [
        "generation 1: lost worker-1: exit code 1; worker-1 stop",
        "the cause: worker-1: exit code 1; restart 1 of 2",
        "generation 2: worker-1 start",
    ]


def test_where_all_must_start_again_they_do(ring: Play) -> None:
    ring.exit("worker-1", 1)
    ring.settle()
    assert ring.running() == dict.fromkeys(RING, 2)
    assert ring.charged == 1
    assert ring.said[3:] == [
        "generation 1: lost worker-1: exit code 1; all tasks stop",
        "the cause: worker-1: exit code 1; restart 1 of 2",
        "generation 2: all tasks start",
    ]


@pytest.mark.parametrize(
    ("lost", "again"),
    [
        ("chief-0", {"chief-0"}),
        ("worker-1", {"worker-1"}),
        ("ps-1", {"chief-0", "ps-1"}),
    ],
)
@pytest.mark.parametrize("how", ["pod", "child"])
def test_with_a_coordinator_the_others_go_on(
    coordinated: Play, lost: str, again: set[str], how: str
) -> None:
    if how == "pod":
        coordinated.lose(lost)
    else:
        coordinated.exit(lost, 1)
    coordinated.settle()
    running = coordinated.running()
    assert {name for name in running if running[name] == 2} == again
    assert len(running) == 5
    assert coordinated.charged == (how == "child")


def test_a_failure_settles_for_a_moment(play: Play) -> None:
    """What fails together is judged together, in whatever order it is heard."""
    play.exit("worker-1", 1)
    play.tell("worker-1")
    play.tick(decide.SETTLE_SECONDS - 0.1)
    play.tell(*EVERYBODY)
    assert play.running() == {"ps-0": 1, "worker-0": 1}
    play.exit("worker-0", 1)
    play.tell("worker-0")
    play.tick(0.1)
    play.tell(*EVERYBODY, *EVERYBODY)
    assert play.running() == all_run(2, ps_0=1)
    assert play.charged == 1


def test_who_fails_again_soon_waits_longer_each_time() -> None:
    play = Play(job(restarts__limit=5, restarts__refill=100))
    play.settle()
    waits = []
    for generation in range(2, 6):
        play.tick(1)
        play.exit("worker-1", 1)
        at = play.now
        play.settle()
        assert play.running() == all_run(1, worker_1=generation)
        waits.append(play.now - at - decide.SETTLE_SECONDS)
    assert waits == pytest.approx([0, 1, 2, 4])
    assert "the cause: worker-1: exit code 1; restart 4 of 5; next try in 4 s" in play.said
    play.tick(100)
    play.exit("worker-1", 1)
    at = play.now
    play.settle()
    assert play.now - at == pytest.approx(decide.SETTLE_SECONDS)
    assert play.charged == 1, "the budget has filled again"


def test_a_failure_counts_for_ever_where_nothing_refills() -> None:
    play = Play(job(restarts__limit=1, restarts__refill=0))
    play.settle()
    play.exit("worker-1", 1)
    play.settle()
    play.tick(1e8)
    play.exit("worker-1", 7)
    play.settle()
    assert play.end
    assert play.end.code == 7


def test_servers_stop_only_once_every_program_has() -> None:
    """Programs that are stopped may save what the servers keep."""
    play = Play(job(replicas={"ps": 2, "worker": 2}))
    play.settle()
    play.lose("ps-0")
    for _ in range(5):
        play.tell("ps-0", "ps-1", "worker-0")
    assert play.running() == {"ps-1": 1, "worker-1": 1}
    play.tell("worker-1")
    play.tell("ps-1")
    assert play.running() == {"ps-1": 1}
    play.tell("worker-1")  # it has stopped
    play.tell("ps-1")
    assert play.running() == {}
    play.settle()
    assert set(play.running().values()) == {2}


def test_no_generation_starts_before_the_last_one_has_stopped(play: Play) -> None:
    play.exit("ps-0", 1)
    play.settle("worker-0")
    assert play.running() == {"worker-0": 1}
    play.tick(decide.SAY_SECONDS)
    assert play.said[-1] == "waiting for ps-0 (has not answered), " + (
        "worker-0 (its child has not stopped)"
    )
    play.settle()
    assert play.running() == all_run(2)


def test_the_budget_ends_the_run_with_the_programs_code(play: Play) -> None:
    for generation in (1, 2, 3):
        assert play.end is None
        assert play.running() == all_run(1, worker_1=generation)
        play.exit("worker-1", 42, "Traceback", "ValueError")
        play.settle()
    assert play.end
    assert (play.end.phase, play.end.code, play.end.task) == (Phase.FAILED, 42, "worker-1")
    assert play.end.last_lines == ("Traceback", "ValueError")
    assert play.end.reason == (
        "worker-1 failed: exit code 42, and the restart budget of 2 is spent"
    )
    assert play.running() == {}


@pytest.mark.parametrize("code", [2, 127, Code.CODE_MISSING, Code.CONFIGURATION, Code.USAGE])
def test_a_permanent_code_is_not_tried_again(play: Play, code: int) -> None:
    play.exit("worker-0", code)
    play.settle()
    assert play.end
    assert play.end.code == code
    assert play.end.reason.endswith("which another try cannot mend")
    assert [pod.started for pod in play.pods.values()] == [[1], [1], [1]]


def test_a_budget_of_none_allows_no_restart() -> None:
    play = Play(job(restarts__limit=0))
    play.settle()
    play.exit("worker-0", 1)
    play.settle()
    assert play.end
    assert play.end.code == 1


def ended_before(play: Play, name: str, seconds: float) -> None:
    pod = play.pod(name)
    assert pod.child
    pod.child = replace(pod.child, ago=seconds)


@pytest.mark.parametrize("order", [("worker-0", "worker-1"), ("worker-1", "worker-0")])
@pytest.mark.parametrize(("cause", "other"), [("worker-0", "worker-1"), ("worker-1", "worker-0")])
def test_the_earliest_failure_is_the_cause_in_whatever_order_it_is_heard(
    play: Play, order: tuple[str, str], cause: str, other: str
) -> None:
    play.exit(cause, 3)
    ended_before(play, cause, 5.0)
    play.exit(other, 4)
    ended_before(play, other, 1.0)
    play.tell(*order)
    play.settle()
    assert play.charged == 1
    told = f"the cause: {cause}: exit code 3; restart 1 of 2; followed by {other} (exit code 4)"
    assert told in play.said


def test_a_failure_whose_pod_goes_as_well_is_the_pods(play: Play) -> None:
    play.exit("worker-1", 1)
    play.tell("worker-1")
    play.lose("worker-1")
    play.settle()
    assert play.charged == 0
    assert play.running() == all_run(1, worker_1=2)


def test_a_charge_is_taken_back_when_a_loss_explains_it_later(play: Play) -> None:
    play.tick(1)
    play.exit("worker-1", 1)
    play.settle("ps-0")
    assert play.running() == all_run(1, worker_1=2)
    assert play.charged == 1
    play.lose("ps-0")
    play.settle()
    assert play.running() == all_run(3)
    assert play.charged == 0


@pytest.mark.parametrize("how", ["lost", "drained", "terminated"])
@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_a_peer_that_is_gone_explains_a_failure(play: Play, how: str, first: bool) -> None:
    def be_gone() -> None:
        if how == "lost":
            play.lose("ps-0")
        elif how == "drained":
            play.drain("ps-0")
            play.tell("ps-0")
            play.lose("ps-0")
        else:
            play.exit("ps-0", 143)

    if first:
        be_gone()
    for name in ("worker-0", "worker-1"):
        play.exit(name, 1)
        ended_before(play, name, 5.0)
        play.tell(name)
    if not first:
        be_gone()
    play.settle()
    assert play.running() == all_run(2)
    assert play.charged == 0
    assert play.said[-2].startswith("the cause: ps-0: ")
    assert "not charged to the restart budget" in play.said[-2]


def test_losses_are_never_charged_however_many(play: Play) -> None:
    for generation in range(2, 12):
        play.lose("worker-1")
        play.settle()
        assert play.running() == all_run(1, worker_1=generation)
    assert play.charged == 0


def test_a_run_is_not_ended_before_all_have_been_heard_from() -> None:
    play = Play(job(restarts__limit=0))
    play.settle()
    for generation in (1, 3, 5):
        assert set(play.running().values()) == {generation}
        play.exit("worker-1", 1)
        play.settle("ps-0")
        assert play.end is None
        assert play.running() == {"ps-0": generation}
        assert "worker-1: and the restart budget of 0 is spent; all tasks stop" in play.said
        play.lose("ps-0")
        play.settle()
        play.lose("ps-0")  # so that each time it is a generation of all
        play.settle()
    assert play.charged == 0


def test_a_failure_is_charged_once_however_often_it_is_told(play: Play) -> None:
    play.exit("worker-1", 1)
    for _ in range(5):
        play.tell("worker-1")
    play.settle()
    for _ in range(5):
        play.settle()
    assert play.charged == 1
    assert play.running() == all_run(1, worker_1=2)


def test_a_worker_that_finished_before_a_failure_keeps_its_seat(play: Play) -> None:
    play.exit("worker-0", 0)
    play.tell("worker-0")
    play.exit("worker-1", 1)
    play.settle()
    assert play.running() == {"ps-0": 1, "worker-1": 2}
    assert play.serving() == ["worker-0"]
    play.exit("worker-1", 0)
    play.settle()
    assert play.end
    assert play.end.code == 0


def test_a_worker_that_finished_trains_again_where_the_variables_are_lost(play: Play) -> None:
    play.exit("worker-0", 0)
    play.settle()
    play.lose("ps-0")
    play.settle()
    assert play.running() == all_run(2)
    assert play.serving() == []
    play.exit("worker-0", 0)
    play.exit("worker-1", 0)
    play.settle()
    assert play.end
    assert play.end.code == 0


def test_a_worker_that_finished_trains_again_where_all_must(ring: Play) -> None:
    ring.exit("worker-0", 0)
    ring.settle()
    assert ring.running() == {"worker-1": 1, "worker-2": 1}
    assert ring.serving() == []
    ring.exit("worker-1", 1)
    ring.settle()
    assert ring.running() == dict.fromkeys(RING, 2)
    for name in RING:
        ring.exit(name, 0)
    ring.settle()
    assert ring.end
    assert ring.end.reason == "all 3 workers ended with exit code 0"


def test_a_run_may_end_with_its_chief() -> None:
    play = Play(job(success="Chief"))
    play.settle()
    play.exit("worker-1", 0)
    play.settle()
    assert play.end is None
    play.exit("worker-0", 0)
    play.settle()
    assert play.end
    assert (play.end.code, play.end.reason) == (0, "worker-0 ended with exit code 0")


def test_a_coordinators_end_is_the_runs(coordinated: Play) -> None:
    coordinated.exit("chief-0", 0, "auc 0.99")
    coordinated.settle()
    assert coordinated.end
    assert (coordinated.end.task, coordinated.end.last_lines) == ("chief-0", ("auc 0.99",))
    assert coordinated.running() == {}


# The evaluator looks on.


def test_an_evaluator_never_ends_a_run_and_is_never_charged() -> None:
    play = Play(job(replicas={"ps": 1, "worker": 2, "evaluator": 1}, restarts__limit=0))
    play.settle()
    for generation in range(2, 5):
        play.exit("evaluator-0", 2)
        at = play.now
        play.settle()
        assert play.running() == all_run(1, evaluator_0=generation)
        assert play.now - at == pytest.approx(decide.EVALUATOR_BACKOFF + decide.SETTLE_SECONDS)
    assert play.charged == 0
    play.lose("ps-0")
    play.settle()
    assert play.running() == all_run(5, evaluator_0=4), "it is in no ClusterSpec"
    play.exit("worker-0", 0)
    play.exit("worker-1", 0)
    play.settle()
    assert play.end
    assert play.end.code == 0
    assert play.running() == {}


# The chief comes first.


@pytest.fixture
def chief_first() -> Play:
    play = Play(job(chiefFirst=True))
    play.settle()
    assert play.running() == {"ps-0": 1, "worker-0": 1}
    assert play.said[-1] == "generation 1: all tasks start, worker-0 first"
    return play


def test_the_others_start_once_the_chiefs_session_is_up(chief_first: Play) -> None:
    play = chief_first
    play.tick(decide.CHIEF_SECONDS - 0.1)
    play.settle()
    assert play.running() == {"ps-0": 1, "worker-0": 1}
    play.pod("worker-0").tell(up=True)
    play.settle()
    assert play.running() == all_run(1)


def test_a_chief_that_says_nothing_holds_nobody_up_for_ever(chief_first: Play) -> None:
    play = chief_first
    play.tick(decide.CHIEF_SECONDS)
    play.settle()
    assert play.running() == all_run(1)
    assert play.said[-1] == "the chief's session is not up after 30 s; the others start"


def test_a_chief_that_is_done_holds_nobody_up(chief_first: Play) -> None:
    chief_first.exit("worker-0", 0)
    chief_first.settle()
    assert chief_first.running() == {"ps-0": 1, "worker-1": 1}


def test_a_chief_that_fails_first_comes_first_again(chief_first: Play) -> None:
    play = chief_first
    play.exit("worker-0", 1)
    play.settle()
    assert play.running() == {"ps-0": 1, "worker-0": 2}
    play.pod("worker-0").tell(up=True)
    play.settle()
    assert play.running() == all_run(1, worker_0=2)


def test_no_chief_comes_first_where_sessions_are_made_together() -> None:
    play = Play(job(mode="all-reduce", replicas={"worker": 2}, chiefFirst=True))
    play.settle()
    assert play.running() == {"worker-0": 1, "worker-1": 1}


# Time.


def test_a_program_that_hangs_makes_all_start_again(play: Play) -> None:
    """Which of them makes the others hang, nobody can tell."""
    play.pod("worker-1").tell(hung=True, last_lines=("step 5",))
    play.settle()
    assert play.running() == all_run(2)
    assert play.charged == 1
    assert "the cause: worker-1: no progress for 0 s; restart 1 of 2" in play.said


def test_a_program_that_hangs_once_too_often_fails_the_run() -> None:
    play = Play(job(restarts__limit=0, hangTimeout=60))
    play.settle()
    play.pod("worker-1").tell(hung=True, last_lines=("step 5",))
    play.settle()
    assert play.end
    assert (play.end.code, play.end.task) == (Code.DEADLINE, "worker-1")
    assert play.end.reason.startswith("worker-1 failed: no progress for 60 s")
    assert play.end.last_lines == ("step 5",)


@pytest.mark.parametrize("age", [0.0, 30.0])
def test_a_run_that_takes_too_long_fails(age: float) -> None:
    play = Play(job(deadline=100))
    play.lead(play.job, age=age)
    play.settle()
    play.tick(99.9 - age)
    assert play.end is None
    play.tick(0.1)
    play.settle()
    assert play.end
    assert (play.end.phase, play.end.code) == (Phase.FAILED, Code.DEADLINE)
    assert play.end.reason == "the run has not ended within its deadline of 100 s"
    assert play.running() == {}


# What tasks cannot prepare for.


def fail_to_prepare(play: Play, name: str, code: int) -> None:
    """What `launcher.task` reports of code or peers that it could not get."""
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


def test_a_passing_failure_to_prepare_is_tried_again_within_the_budget() -> None:
    play = Play()
    pod = play.pod("worker-1")
    pod.ready = False
    for charged in (1, 2):
        play.settle()
        fail_to_prepare(play, "worker-1", Code.IO)
        play.settle()
        assert play.end is None
        assert play.charged == charged
    pod.ready = True
    play.settle()
    assert play.running() == all_run(3)
    assert pod.started == [3]


def test_no_code_ends_a_run_of_which_nobody_is_there() -> None:
    play = Play()
    play.step(decide.NoCode("there is no app in /exports"))
    assert play.end
    assert (play.end.code, play.end.reason) == (66, "there is no app in /exports")


def test_no_code_is_not_believed_where_somebody_has_started() -> None:
    play = Play()
    play.tell("worker-0")
    play.step(decide.NoCode("there is no app in /exports"))
    assert play.end is None


# What arrives twice, late, or from strangers.


def test_a_report_that_was_overtaken_is_ignored(play: Play) -> None:
    old = play.pod("worker-1").report()
    play.exit("worker-1", 1)
    play.settle()
    before = play.state
    play.step(decide.Heard(old))
    assert play.state == before


def test_a_report_that_is_heard_twice_changes_nothing(play: Play) -> None:
    report = play.pod("worker-1").report()
    play.step(decide.Heard(report))
    before = play.state
    play.step(decide.Heard(report))
    assert play.state == before


def test_strangers_change_nothing(play: Play) -> None:
    stranger = Pod(Task("worker", 7), "stranger")
    before = play.state
    report = stranger.report()
    play.step(decide.Heard(report))
    assert play.state == before
    directive = decide.directive(play.state, report)
    assert directive
    assert directive.action is Action.WAIT


def test_a_stranger_that_trains_is_told_to_stop(play: Play) -> None:
    play.pods[Task("worker", 7)] = Pod(Task("worker", 7), "stranger")
    stranger = play.pod("worker-7")
    stranger.holds = play.pod("worker-0").holds
    stranger.start()
    play.settle()
    assert play.running() == all_run(1)


def test_the_same_events_give_the_same_decisions() -> None:
    def history() -> tuple[decide.State, list[str]]:
        play = Play()
        play.settle()
        play.exit("worker-1", 1)
        play.settle("worker-0")
        play.lose("worker-0")
        play.settle()
        return play.state, play.said

    assert history() == history()


# A new controller.


def test_nothing_is_decided_before_the_record_of_the_end_is_read(play: Play) -> None:
    play.state = decide.State(play.job, Leader(0, "new"))
    play.exit("worker-0", 0)
    play.exit("worker-1", 1)
    before = play.running()
    play.lose("worker-0")
    for _ in range(5):
        play.tell(*EVERYBODY)
        play.tick(100)
    assert play.running() == before
    assert play.state.phase is RunPhase.STARTING
    assert all(decide.directive(play.state, pod.report()) is None for pod in play.pods.values())


def test_a_new_controller_takes_over_what_runs(play: Play) -> None:
    play.exit("worker-1", 1)
    play.settle()
    play.lead(play.job)
    play.settle("worker-1")
    assert play.state.phase is RunPhase.ADOPTING
    assert decide.directive(play.state, play.pod("ps-0").report()) is None
    play.settle()
    assert play.running() == all_run(1, worker_1=2)
    assert [pod.started for pod in play.pods.values()] == [[1], [1], [1, 2]]
    assert play.charged == 1, "the budget that was spent stays spent"
    assert play.said[1:] == ["generation 2: found running, and taken over"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_reports_count_whether_they_come_before_the_beginning_or_after(
    play: Play, when: str
) -> None:
    play.state = decide.State(play.job, Leader(0, "new"))
    if when == "before":
        play.tell(*EVERYBODY)
    play.step(decide.Begin({"ps": 1, "worker": 2}, {}))
    if when == "after":
        play.tell(*EVERYBODY)
    assert play.state.phase is RunPhase.LEADING
    assert play.running() == all_run(1)


def test_what_failed_while_nobody_led_is_charged(play: Play) -> None:
    play.exit("worker-1", 1)
    play.lead(play.job)
    play.settle()
    assert play.running() == all_run(1, worker_1=2)
    assert play.charged == 1


def test_what_finished_while_nobody_led_has_finished(play: Play) -> None:
    play.exit("worker-0", 0)
    play.exit("worker-1", 0)
    play.lead(play.job)
    play.settle()
    assert play.end
    assert play.end.phase is Phase.SUCCEEDED
    assert play.pod("worker-0").started == [1]


def test_what_was_lost_while_nobody_led_makes_a_new_generation(play: Play) -> None:
    play.lose("ps-0")
    play.exit("worker-0", 1)
    play.lead(play.job)
    play.settle()
    assert play.running() == all_run(2)
    assert play.charged == 0


def test_a_new_controller_in_the_middle_of_stopping_uses_no_generation_twice(ring: Play) -> None:
    ring.exit("worker-2", 1)
    ring.tell("worker-2", "worker-1")  # they wait for generation 2, worker-0 still trains in 1
    ring.lead(ring.job)
    ring.settle()
    assert ring.running() == dict.fromkeys(RING, 3)
    assert [pod.started for pod in ring.pods.values()] == [[1, 3]] * 3


def test_a_worker_that_was_starting_again_does_under_a_new_controller(play: Play) -> None:
    play.exit("worker-1", 1)
    play.tell("worker-1")
    play.lead(play.job)
    play.settle()
    assert play.running() == all_run(1, worker_1=3)


def test_another_policy_restarts_nothing(play: Play) -> None:
    play.exit("worker-0", 0)
    play.settle()
    play.lead(job(restarts__limit=9, grace=5, success="Chief", hangTimeout=60, logs="/logs"))
    play.settle()
    assert play.end
    assert play.end.reason == "worker-0 ended with exit code 0"
    assert [pod.started for pod in play.pods.values()] == [[1], [1], [1]]


def test_an_evaluator_comes_and_goes_while_others_train(play: Play) -> None:
    beside = {"ps": 1, "worker": 2, "evaluator": 1}
    play.lead(job(replicas=beside), {"ps": 1, "worker": 2, "evaluator": 0})
    assert play.scaled == [("evaluator", 1)]
    grow(play, "evaluator", 1)
    play.settle()
    assert play.running() == all_run(1, evaluator_0=2)


def test_pods_of_an_older_template_are_waited_for(play: Play) -> None:
    """They are replaced one by one, and a generation of some of each would start twice."""
    play.pods[Task("worker", 0)].revision = play.pods[Task("worker", 1)].revision = "old"
    play.lead(play.job, {"ps": 1, "worker": 2}, {"ps": "", "worker": "new"})
    play.settle()
    assert play.running() == {"ps-0": 1}
    play.tick(decide.SAY_SECONDS)
    assert play.said[-1] == "waiting for worker-0 (its pod is being replaced), " + (
        "worker-1 (its pod is being replaced)"
    )
    for name in ("worker-0", "worker-1"):
        play.pod(name).revision = "new"
        play.lose(name)
    play.settle()
    assert play.running() == all_run(2, ps_0=1)
    assert play.charged == 0


def test_of_two_controllers_the_older_yields(play: Play) -> None:
    older, pods = play.state, play.pods.values()
    play.lead(play.job)
    play.settle()
    play.state = older
    play.exit("worker-1", 1)
    play.settle()
    assert play.state.phase is RunPhase.YIELDED
    assert play.said[-1] == "a younger controller leads this run now; this one yields"
    assert [pod.started for pod in pods] == [[1], [1], [1]]
    assert all(decide.directive(play.state, pod.report()) is None for pod in pods)
    play.tick(1000)
    assert play.end is None


def test_other_arguments_are_a_new_generation_with_a_new_budget(play: Play) -> None:
    play.exit("worker-1", 1)
    play.settle()
    play.lead(job(program__args=["--steps", "6"]))
    play.settle()
    assert play.running() == all_run(3)
    assert play.said[1] == "all tasks stop: generation 3 forms"
    assert play.charged == 0
    holds = play.pod("worker-0").holds
    assert holds
    assert holds.job == play.job.digest


def test_a_controller_that_was_overtaken_uses_no_generation_twice(play: Play) -> None:
    pod = play.pod("worker-1")
    assert pod.holds
    pod.holds = replace(
        pod.holds, leader=Leader(0, "older"), action=Action.WAIT, generation=5
    )
    pod.end(143, stopped=True)
    play.settle()
    assert play.running() == all_run(1, worker_1=6)
    assert play.charged == 0


@pytest.mark.parametrize(
    ("ends", "code", "task"),
    [
        ({"worker-0": 0, "worker-1": 0}, 0, ""),
        ({"worker-1": 2}, 2, "worker-1"),
    ],
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


def test_shrinking_stops_everybody_before_pods_go() -> None:
    play = Play(job(replicas={"ps": 1, "worker": 3}))
    play.settle()
    play.lead(job(), {"ps": 1, "worker": 3})
    play.settle("worker-2")
    assert play.scaled == []
    assert play.running() == {**all_run(1), "worker-2": 1}, "worker-2 has not been heard from"
    play.settle()
    assert play.running() == all_run(2)
    assert play.scaled == [("worker", 2)]
    assert play.pod("worker-2").started == [1]


def test_a_pod_that_never_came_does_not_hold_up_a_smaller_size() -> None:
    play = Play(job(replicas={"ps": 1, "worker": 3}))
    play.settle("worker-2")  # no node has room for it
    play.lead(job(), {"ps": 1, "worker": 3})
    play.settle("worker-2")
    assert play.running() == {}
    play.tick(decide.LEAVING_SECONDS - 0.1)
    assert play.state.phase is RunPhase.ADOPTING
    play.tick(0.1)
    play.settle("worker-2")
    assert play.running() == all_run(1)
    assert play.scaled == [("worker", 2)]


def test_a_scale_down_that_was_interrupted_is_done() -> None:
    play = Play(job(replicas={"ps": 1, "worker": 3}))
    play.settle()
    play.lead(job(), {"ps": 1, "worker": 3})
    play.settle()
    play.lead(job(), {"ps": 1, "worker": 3})  # the patch never arrived
    play.settle()
    assert play.said[1:] == ["generation 2: found running, and taken over"]
    assert play.running() == all_run(2)
    assert play.scaled == [("worker", 2)]


def test_with_a_coordinator_servers_train_on_when_workers_come(coordinated: Play) -> None:
    """The chief alone says what the cluster is."""
    wanted = {"chief": 1, "ps": 2, "worker": 3}
    coordinated.lead(job(mode="coordinator", replicas=wanted), {**wanted, "worker": 2})
    grow(coordinated, "worker", 3)
    coordinated.settle()
    ones = dict.fromkeys(("ps-0", "ps-1", "worker-0", "worker-1"), 1)
    assert coordinated.running() == {**ones, "chief-0": 2, "worker-2": 2}
