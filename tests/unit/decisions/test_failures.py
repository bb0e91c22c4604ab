"""What the ends of children mean: the cause, its consequences, the restart budget."""

from __future__ import annotations

import pytest

from launcher.decisions import failures
from launcher.shared.exits import ExitCode, Phase
from launcher.task.state import ChiefLeft, Seen
from tests.unit.jobs import job
from tests.unit.play import (
    EVERYBODY,
    Play,
    all_run,
    fail_to_prepare,
    kill_container,
    started,
)


def test_a_spent_restart_budget_ends_the_run_with_the_programs_code(play: Play) -> None:
    for generation in (1, 2, 3):
        assert play.end is None
        assert play.pod("worker-1").runs == generation
        play.exit("worker-1", 42, "Traceback", "ValueError")
        play.settle()
    assert play.end
    assert (play.end.phase, play.end.exit_code, play.end.task) == (Phase.FAILED, 42, "worker-1")
    assert play.end.last_lines == ("Traceback", "ValueError")
    assert play.end.reason == "worker-1 failed: exit code 42, and the restart budget of 2 is spent"
    assert play.running() == {}


def test_the_restart_budget_is_refilled_with_time() -> None:
    play = started(restarts__refill=100)
    for _ in range(5):
        play.exit("worker-1", 1)
        play.settle()
        play.tick(101)
        play.settle()
    assert play.end is None
    assert len(play.state.charges) == 1


@pytest.mark.parametrize(
    "code", [2, 127, ExitCode.CODE_MISSING, ExitCode.CONFIGURATION, ExitCode.USAGE]
)
def test_a_permanent_code_is_not_retried(play: Play, code: int) -> None:
    play.exit("worker-0", code)
    play.settle()
    assert play.end
    assert play.end.exit_code == code
    assert play.end.reason.endswith("which is never retried")
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
def test_the_earliest_failure_is_the_cause_in_whatever_order_failures_are_reported(
    order: tuple[str, str],
) -> None:
    play = started(mode="all-reduce")
    play.now = 100.0
    for name, ago in (("worker-1", 5.0), ("worker-0", 1.0)):
        play.exit(name, 3 if name == "worker-1" else 4, ago=ago)
    play.tell(*order)
    play.settle()
    assert len(play.state.charges) == 1
    cause = "the cause: worker-1: exit code 3; restart 1 of 2; followed by worker-0 (exit code 4)"
    assert cause in play.said


def test_a_killed_server_is_the_cause_even_if_programs_fail_a_moment_before(
    play: Play,
) -> None:
    for name, code, ago in (("worker-1", 1, 0.3), ("ps-0", 137, 0.0)):
        play.exit(name, code, ago=ago)
    play.tell("worker-1", "ps-0")
    play.settle()
    cause = "the cause: ps-0: killed by SIGKILL (exit code 137); restart 1 of 2; "
    assert cause + "followed by worker-1 (exit code 1)" in play.said


@pytest.mark.parametrize("how", ["lost", "drained", "terminated"])
@pytest.mark.parametrize("when", ["before", "after", "much later"])
def test_a_failure_is_not_charged_if_a_peer_was_lost(play: Play, how: str, when: str) -> None:
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
        assert len(play.state.charges) == 1, "nothing else is known yet"
    if when != "before":
        be_gone()
    play.settle()
    assert set(play.running()) == set(EVERYBODY)
    assert not play.state.charges


def test_a_task_that_is_stopped_from_outside_explains_failures_reported_before() -> None:
    play = started(mode="all-reduce", restarts__limit=0)
    play.drain("worker-0")
    play.exit("worker-1", 1)
    play.tell("worker-1", "worker-0")
    play.lose("worker-0")
    play.settle()
    assert play.end is None
    assert not play.state.charges
    assert play.running() == {"worker-0": 2, "worker-1": 2}
    cause = "the cause: worker-0: it was stopped from outside; not charged to the restart budget"
    assert f"{cause}; followed by worker-1 (exit code 1)" in play.said


def test_a_run_does_not_end_before_all_tasks_have_reported() -> None:
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
    ps.terminate()
    play.tell("ps-0", chief, "ps-0")
    assert chief not in play.running(), "the chief is told to stop, and saves"
    assert ps.runs == 1
    ps.take(ChiefLeft())
    play.settle()
    assert chief not in play.running(), "the ps's pod is not replaced yet"
    play.lose("ps-0")
    play.settle()
    assert play.running()[chief] == play.running()["ps-0"] == 2
    assert len([text for text in play.said if "lost ps-0" in text]) == 1
    assert "the cause: ps-0: its pod is terminating; not charged to the restart budget" in play.said


def test_a_coordinators_worker_that_is_told_to_end_stops_no_other_task() -> None:
    play = started(mode="coordinator")
    play.pod("worker-0").terminate()
    play.tell("worker-0")
    play.settle()
    assert play.running()["chief-0"] == 1


def test_a_task_killed_with_its_launcher_is_charged_until_the_budget_is_spent(play: Play) -> None:
    for _ in range(3):
        play.now += 1
        kill_container(play, "worker-1")
        play.settle()
    assert "the cause: worker-1: killed with its launcher; restart 1 of 2" in play.said
    assert play.end
    assert (play.end.exit_code, play.end.task) == (137, "worker-1")


def test_a_task_killed_with_its_launcher_is_the_cause_of_failures_reported_before(
    play: Play,
) -> None:
    play.now += 10
    play.exit("worker-0", 1)
    play.settle("ps-0")
    assert len(play.state.charges) == 1
    kill_container(play, "ps-0")
    play.settle()
    assert len(play.state.charges) == 1, "the ps is charged instead"
    assert play.said[-2].startswith("the cause: ps-0: killed with its launcher; restart 1 of 2")


def test_tasks_killed_before_a_takeover_start_again(play: Play) -> None:
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


def test_a_server_that_ends_with_0_fails_the_run_when_the_budget_is_spent() -> None:
    play = started(restarts__limit=0)
    play.exit("ps-0", 0)
    play.settle()
    assert play.end
    assert (play.end.phase, play.end.exit_code) == (Phase.FAILED, 1)


def test_a_coordinators_worker_restarts_while_the_chief_still_stops() -> None:
    """It waits for no digest: a chief that saves has none to report, nor has code of the image."""
    play = started(mode="coordinator")
    play.pod("chief-0").stops_with = None  # it still saves
    play.pod("chief-0").terminate()
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
    assert play.end.exit_code == 143


def test_lost_pods_are_never_charged(play: Play) -> None:
    for generation in range(2, 12):
        play.lose("worker-1")
        play.settle()
        assert play.pod("worker-1").runs == generation
    assert not play.state.charges


def test_a_failure_is_charged_once_however_often_it_is_reported(play: Play) -> None:
    play.exit("worker-1", 1)
    for _ in range(5):
        play.tell("worker-1")
    for _ in range(5):
        play.settle()
    assert len(play.state.charges) == 1
    assert play.pod("worker-1").runs == 2


def test_a_failure_while_all_tasks_stop_for_another_size_is_not_charged() -> None:
    size = {"mode": "all-reduce", "restarts__limit": 0}
    play = started(**size, replicas={"worker": 3})
    play.lead(job(**size, replicas={"worker": 2}), {"worker": 3})
    play.tell("worker-1", "worker-2", "worker-0")  # worker-0 stops first
    play.exit("worker-1", 1)  # worker-1 fails without it
    play.settle()
    assert play.end is None
    assert not play.state.charges
    assert play.running() == {"worker-0": 2, "worker-1": 2}


def test_a_hang_is_charged_and_all_tasks_start_again() -> None:
    play = started(hangTimeout=60)
    play.see("worker-1", quiet=60)
    play.settle()
    assert play.running() == all_run(2)
    assert len(play.state.charges) == 1
    assert any("no progress for 60 s" in line for line in play.said)


def test_code_that_is_missing_ends_the_run_before_it_starts() -> None:
    play = Play()
    play.pod("worker-1").can_pull = False
    play.settle()
    fail_to_prepare(play, "worker-1", ExitCode.CODE_MISSING)
    play.settle()
    assert play.end
    assert (play.end.exit_code, play.end.task) == (66, "worker-1")
    assert play.running() == {}


@pytest.mark.parametrize("made_again", [False, True])
def test_a_temporary_failure_to_prepare_is_retried(made_again: bool) -> None:
    play = Play()
    play.pod("worker-1").can_pull = False
    for charged in (1, 2):
        play.settle()
        fail_to_prepare(play, "worker-1", ExitCode.IO)
        play.settle()
        assert play.end is None
        assert len(play.state.charges) == charged
        if made_again:
            play.lose("worker-1")
            play.pod("worker-1").can_pull = False
    play.pod("worker-1").can_pull = True
    play.settle()
    assert play.running() == all_run(play.generation)


def test_a_pull_that_fails_in_two_pods_of_one_generation_fails_twice() -> None:
    """The simulator found that the second failure was taken for the first."""
    play = started(mode="all-reduce")
    play.lose("worker-1")
    play.pod("worker-1").can_pull = False
    play.tell("worker-1", "worker-0", "worker-1")
    for _ in range(2):
        fail_to_prepare(play, "worker-1", ExitCode.IO)
        play.tell("worker-1")
        play.lose("worker-1")
        play.pod("worker-1").can_pull = False
        play.tell("worker-1")
    fail_to_prepare(play, "worker-1", ExitCode.IO)
    play.settle()
    holds = play.pod("worker-1").holds
    assert holds
    assert holds.generation > 2, "it pulls again only for a new generation"


def test_a_finished_task_that_must_train_again_may_fail_to_prepare() -> None:
    play = started(mode="all-reduce")
    play.exit("worker-1", 0)
    play.settle()
    play.lose("worker-0")
    play.lose("worker-1")
    play.pod("worker-1").can_pull = False
    play.settle()
    fail_to_prepare(play, "worker-1", ExitCode.IO)
    play.settle()
    play.pod("worker-1").can_pull = True
    play.settle()
    assert play.running() == {"worker-0": 3, "worker-1": 3}


def test_the_log_names_a_failure_its_cause_and_the_restart(play: Play) -> None:
    before = len(play.said)
    play.exit("worker-1", 1)
    play.settle()
    assert play.said[before:] == [
        "generation 1: lost worker-1: exit code 1; worker-1 stops",
        "the cause: worker-1: exit code 1; restart 1 of 2",
        "generation 2: worker-1 starts",
    ]


def test_failures_within_a_moment_are_judged_together(play: Play) -> None:
    """They have one cause, and one charge."""
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


def test_a_task_that_fails_again_soon_waits_longer_each_time() -> None:
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


def test_a_restart_limit_of_0_allows_no_restart() -> None:
    play = started(restarts__limit=0)
    play.exit("worker-0", 1)
    play.settle()
    assert play.end
    assert play.end.exit_code == 1


def test_a_failure_whose_pod_is_lost_too_is_not_charged(play: Play) -> None:
    play.exit("worker-1", 1)
    play.tell("worker-1")
    play.lose("worker-1")
    play.settle()
    assert not play.state.charges
    assert play.running() == {"ps-0": 1, "worker-0": 1, "worker-1": 2}


MISTAKE = (
    '  File "train.py", line 9, in <module>',
    "AbortedError: From /job:ps/replica:0/task:0:",
    "The same RunGraph (Worker) request was received twice. step_id: 7",
)
NO_DATA = ('  File "train.py", line 9, in <module>', "ValueError: no data")


def fails(play: Play, name: str, lines: tuple[str, ...], step: int = 0, epoch: str = "") -> str:
    """A program prints how far it is, and then exits with 1. Returns what the log says of it."""
    pod = play.pod(name)
    pod.take(Seen(play.now, up=False, quiet=0.0, global_step=step or None, epoch=epoch))
    play.exit(name, 1, *lines, step=step or None)
    play.settle()
    play.tick(60)
    line = next(line for line in reversed(play.said) if line.startswith("the cause: "))
    return line.partition("; next try in ")[0]


@pytest.mark.parametrize("counts", ["steps", "epochs"])
def test_tensorflows_mistake_is_not_charged_while_the_run_advances(play: Play, counts: str) -> None:
    for number in range(1, 9):
        step, epoch = (number * 100, "") if counts == "steps" else (5, f"{number} of 9")
        name = "worker-0" if number % 2 or counts == "epochs" else "worker-1"
        assert fails(play, name, MISTAKE, step, epoch) == (
            f"the cause: {name}: exit code 1, TensorFlow's RunGraph mistake (see docs/failures.md);"
            " not charged to the restart budget"
        )
    assert play.end is None
    assert not play.state.charges


def test_the_chiefs_steps_show_that_the_run_advances(play: Play) -> None:
    for number in range(1, 9):
        play.now += 10
        chief = play.pod("worker-0")
        chief.take(Seen(play.now, up=True, quiet=0.0, global_step=number))
        fails(play, "worker-1", MISTAKE)
    assert not play.state.charges


@pytest.mark.parametrize(("step", "spared"), [(0, 0), (7, 1)])
def test_tensorflows_mistake_without_progress_spends_the_budget(
    play: Play, step: int, spared: int
) -> None:
    for charged in ([0] * spared) + [1, 2]:
        fails(play, "worker-1", MISTAKE, step)
        assert len(play.state.charges) == charged
    play.exit("worker-1", 1, *MISTAKE, step=step)
    play.settle()
    assert play.end
    assert play.end.reason == (
        "worker-1 failed: exit code 1, TensorFlow's RunGraph mistake (see docs/failures.md), "
        f"{3 + spared} times in a row with the same error and no new step reported, "
        "and the restart budget of 2 is spent"
    )


def test_charges_for_tensorflows_mistakes_are_taken_back_once_the_run_advances(play: Play) -> None:
    """A chief that restarts restores a checkpoint, so the run may be behind the last mistake."""
    fails(play, "worker-1", NO_DATA, 1)
    for step, charged in ((900, 1), (800, 2), (850, 1), (700, 2), (1000, 1)):
        fails(play, "worker-0", MISTAKE, step)
        assert len(play.state.charges) == charged
    assert play.end is None


def test_a_permanent_code_is_permanent_even_if_tensorflow_is_wrong() -> None:
    play = started(restarts__permanentCodes=[1])
    play.exit("worker-1", 1, *MISTAKE, step=5)
    play.settle()
    assert play.end
    assert play.end.reason.endswith("which is never retried")


def test_programs_that_fail_after_tensorflows_mistake_are_not_charged() -> None:
    """Without device filters the sessions of other workers are closed too."""
    play = started(restarts__limit=0)
    play.exit("worker-1", 1, *MISTAKE, step=5)
    play.tell("worker-1")
    play.now += 0.1
    play.exit("worker-0", 1, '  File "train.py", line 9', "UnavailableError: Socket closed")
    play.settle()
    assert play.end is None
    assert not play.state.charges


def test_the_same_error_again_and_again_is_told() -> None:
    play = started(restarts__limit=3)
    for times in (1, 2, 3):
        again = f"{times} times in a row with the same error and no new step reported, " * (
            times > 1
        )
        assert fails(play, f"worker-{times % 2}", NO_DATA) == (
            f"the cause: worker-{times % 2}: exit code 1; {again}restart {times} of 3"
        ), "by any worker"
    play.exit("worker-1", 1, *NO_DATA)
    play.settle()
    assert play.end
    assert play.end.reason == (
        "worker-1 failed: exit code 1, 4 times in a row with the same error and no new step "
        "reported, and the restart budget of 3 is spent"
    )


@pytest.mark.parametrize(
    ("code", "lines", "step"),
    [
        (1, NO_DATA, 8),
        (3, NO_DATA, 7),
        (1, (*NO_DATA[:-1], "ValueError: another"), 7),
        (1, ("no traceback",), 7),
        (1, (), 7),
    ],
)
def test_only_the_same_error_without_a_step_is_told(
    code: int, lines: tuple[str, ...], step: int
) -> None:
    play = started(restarts__limit=9)
    fails(play, "worker-1", NO_DATA, 7)
    for _ in range(1 if lines else 2):  # what says nothing is never the same
        play.exit("worker-1", code, *lines, step=step)
        play.settle()
    assert "times" not in play.said[-2]
