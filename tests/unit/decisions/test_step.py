"""Reports that arrive twice, late, or from strangers; deadlines; the order of events."""

from __future__ import annotations

import pytest

from launcher.decisions import state as decisions_state
from launcher.decisions.state import RunPhase
from launcher.shared.exits import ExitCode, Phase
from launcher.shared.identity import Task
from launcher.shared.protocol import Action, Leader
from launcher.task.state import Told
from tests.unit.play import (
    EVERYBODY,
    Play,
    Pod,
    all_run,
    started,
)


@pytest.mark.parametrize("age", [0.0, 60.0])
def test_a_deadline_ends_the_run(age: float) -> None:
    play = started(deadline=100)
    play.lead(play.job, age=age)
    play.settle()
    play.tick(99.0 - age)
    assert play.end is None
    play.tick(1.0)
    assert play.end
    assert (play.end.phase, play.end.exit_code) == (Phase.FAILED, ExitCode.DEADLINE)
    play.settle()
    assert play.running() == {}


def test_a_deadline_ends_the_run_before_all_tasks_are_adopted() -> None:
    play = started(deadline=100)
    play.lead(play.job)
    play.settle("worker-1")
    play.tick(100)
    assert play.end
    play.settle()
    assert play.running() == {}


def test_missing_code_ends_a_run_whose_tasks_never_started() -> None:
    play = Play()
    play.step(decisions_state.NoCode("there is no app in /exports"))
    assert play.end
    assert (play.end.exit_code, play.end.reason) == (66, "there is no app in /exports")


def test_missing_code_does_not_end_a_run_once_a_task_has_reported() -> None:
    play = Play()
    play.tell("worker-0")
    play.step(decisions_state.NoCode("there is no app in /exports"))
    assert play.end is None


def test_an_older_report_that_comes_late_is_ignored(play: Play) -> None:
    old = play.pod("worker-1").report()
    play.exit("worker-1", 1)
    play.settle()
    before = play.state
    play.step(decisions_state.Heard(old))
    assert play.state == before


def test_a_task_that_is_not_of_the_run_changes_nothing(play: Play) -> None:
    stranger = Pod(Task("worker", 7), "stranger")
    before = play.state
    report = stranger.report()
    play.step(decisions_state.Heard(report))
    assert play.state == before
    told = play.directive(report)
    assert told
    assert told.action is Action.WAIT


def test_a_task_that_is_not_of_the_run_is_told_to_stop(play: Play) -> None:
    play.pods[Task("worker", 7)] = Pod(Task("worker", 7), "stranger")
    stranger = play.pod("worker-7")
    held = play.pod("worker-0").state.directive
    assert held
    stranger.take(Told(held))
    assert stranger.runs == 1
    play.settle()
    assert play.running() == all_run(1)


def test_a_report_that_arrives_twice_changes_nothing(play: Play) -> None:
    report = play.pod("worker-1").report()
    play.step(decisions_state.Heard(report))
    before = play.state
    play.step(decisions_state.Heard(report))
    assert play.state == before


def test_the_same_events_give_the_same_decisions() -> None:
    def history() -> tuple[decisions_state.State, list[str]]:
        play = started()
        play.exit("worker-1", 1)
        play.settle("worker-0")
        play.lose("worker-0")
        play.settle()
        return play.state, play.said

    assert history() == history()


@pytest.mark.parametrize("when", ["before", "after"])
def test_reports_from_before_the_controllers_first_read_count(play: Play, when: str) -> None:
    play.state = decisions_state.State(play.job, play.job, Leader(0, "new"))
    if when == "before":
        play.tell(*EVERYBODY)
    play.step(decisions_state.Begin(1, {"ps": 1, "worker": 2}, {}))
    if when == "after":
        play.tell(*EVERYBODY)
    assert play.state.phase is RunPhase.LEADING
    assert play.running() == all_run(1)
