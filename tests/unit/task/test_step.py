"""A task's pure `step`: which effects each event has, without processes or time."""

from __future__ import annotations

import signal
from dataclasses import replace
from typing import Any

import pytest

from launcher.shared.exits import ExitCode, Phase
from launcher.shared.identity import Task
from launcher.shared.protocol import Action, ChildReport, Directive, Leader
from launcher.task.state import (
    Activity,
    Cancel,
    ChiefCalled,
    ChiefLeft,
    ChildEnded,
    CodePulled,
    Effect,
    Event,
    Failed,
    Leave,
    PeersReached,
    Pull,
    ReachPeers,
    Say,
    Seen,
    Send,
    Signalled,
    StartProgram,
    StartServer,
    State,
    Stop,
    Tell,
    Told,
    awaits_call,
    awaits_chief,
    report,
)
from launcher.task.step import step
from tests.unit.jobs import job

CHIEF, WORKER, PS = Task("worker", 0), Task("worker", 1), Task("ps", 0)
PULLED = CodePulled("0" * 32, "")
HOSTS = {CHIEF: "10.0.0.1"}


def told(action: Action, generation: int = 1, **changes: Any) -> Told:
    known = {"leader": Leader(1, "me"), "charged": 0, "job": job(), "hosts": HOSTS}
    return Told(Directive(action=action, generation=generation, **{**known, **changes}))


def after(*events: Event, task: Task = WORKER, **about: Any) -> tuple[State, list[Effect]]:
    """The state after some events, and the effects of the last one."""
    state = State(task, "a launcher", **about)
    effects: tuple[Effect, ...] = ()
    for event in events:
        state, effects = step(state, event)
    return state, [effect for effect in effects if not isinstance(effect, Say)]


RUNS: tuple[Event, ...] = (told(Action.RUN), PULLED, PeersReached())


def doing(state: State) -> Activity | None:
    return state.doing.activity if state.doing else None


# The chief's call.


@pytest.mark.parametrize(
    ("changes", "task", "awaits"),
    [
        ({"chiefFirst": True}, WORKER, True),
        ({"chiefFirst": True}, PS, False),
        ({"chiefFirst": True}, CHIEF, False),
        ({"chiefFirst": True}, Task("evaluator", 0), False),
        ({"chiefFirst": False}, WORKER, False),
        ({"chiefFirst": True, "mode": "all-reduce"}, WORKER, False),
    ],
)
def test_only_a_program_that_can_wait_for_the_chief_awaits_its_call(
    changes: dict[str, Any], task: Task, awaits: bool
) -> None:
    wait = told(Action.WAIT, job=job(**changes))
    events = [wait] if task == PS else [wait, PULLED]
    assert awaits_call(after(*events, task=task)[0]) == awaits
    state, effects = after(*events, ChiefCalled("10.0.0.1"), task=task)
    assert report(state, 1, 0.0).called == awaits
    assert effects == ([Tell()] if awaits else [])


def test_a_call_is_awaited_only_while_the_port_is_free_and_remembered_for_its_run() -> None:
    first = job(chiefFirst=True)
    wait, run = (told(action, job=first) for action in (Action.WAIT, Action.RUN))
    called = ChiefCalled("10.0.0.1")
    assert not awaits_call(after(wait)[0]), "it pulls the code"
    assert not awaits_call(after(wait, PULLED, run)[0])
    assert not awaits_call(after(wait, PULLED, Signalled(signal.SIGTERM, 0.0))[0])
    assert not awaits_call(after(wait, PULLED, called)[0]), "once is enough"
    for state in (after(wait, PULLED, ChiefCalled("10.0.0.2")), after(run, PULLED, called)):
        assert not report(state[0], 1, 0.0).called
    again = told(Action.WAIT, 2, job=first)
    assert report(after(wait, PULLED, called, run, again)[0], 1, 0.0).called
    other = told(Action.WAIT, 2, job=job(chiefFirst=True, run="another"))
    assert not report(after(wait, PULLED, called, run, other)[0], 1, 0.0).called


# The way to a child.


def test_a_program_gets_its_code_then_its_peers_then_starts() -> None:
    wanted = told(Action.RUN).directive
    for count, effects in enumerate([Pull(wanted), ReachPeers(wanted), StartProgram(wanted)], 1):
        assert after(*RUNS[:count])[1] == [effects, Tell()]
    assert doing(after(*RUNS)[0]) is Activity.RUNNING


def test_a_task_that_waits_pulls_the_code_and_starts_nothing() -> None:
    state, effects = after(told(Action.WAIT), PULLED)
    assert effects == [Tell()]
    assert report(state, 1, 0.0).can_start
    assert state.doing is None


def test_a_server_needs_neither_code_nor_peers() -> None:
    _, effects = after(told(Action.RUN), task=PS)
    assert effects == [StartServer(told(Action.RUN).directive), Tell()]


@pytest.mark.parametrize(
    "changes",
    [
        {"program__command": ["venv/bin/python", "train.py"]},
        {"code": {"folder": {"path": "/code"}, "requirements": True}},
    ],
)
def test_a_server_pulls_the_code_before_it_starts_if_its_python_or_tensorflow_may_be_there(
    changes: dict[str, Any],
) -> None:
    venv = job(**changes)
    wait, run = (told(action, job=venv) for action in (Action.WAIT, Action.RUN))
    # It counts as ready, because a server that is not is taken for one whose pod terminates.
    state, effects = after(wait, task=PS)
    assert effects == [Tell()]
    assert report(state, 1, 0.0).can_start
    assert after(wait, run, task=PS)[1] == [Pull(run.directive), Tell()]
    assert after(wait, run, PULLED, task=PS)[1] == [StartServer(run.directive), Tell()]
    # The same code serves the next generation.
    again = told(Action.RUN, 2, job=venv)
    ended = (ChildEnded(1, (), 1.0), again)
    assert after(wait, run, PULLED, *ended, task=PS)[1] == [StartServer(again.directive), Tell()]


def test_a_branch_is_pulled_by_the_chief_first_and_by_others_once_its_commit_is_known() -> None:
    branch = job(code={"git": {"url": "https://e.com/a", "ref": "main"}})
    wait = told(Action.WAIT, job=branch)
    assert after(wait, task=WORKER)[1] == [Tell()]
    assert after(wait, task=CHIEF)[1] == [Pull(wait.directive), Tell()]
    known = told(Action.WAIT, job=branch, commit="c" * 40)
    assert after(wait, known)[1] == [Pull(known.directive), Tell()]


def test_an_older_controller_is_not_obeyed_but_gets_a_report() -> None:
    state, effects = after(*RUNS, told(Action.WAIT, 9, leader=Leader(0, "older")))
    assert effects == [Tell()]
    assert state.directive == RUNS[0].directive  # type: ignore[union-attr]


def test_another_directive_cancels_a_preparation_and_the_next_begins_when_it_has_ended() -> None:
    state, effects = after(told(Action.RUN), told(Action.RUN, 2))
    assert effects == [Cancel(), Tell()]
    state, _ = step(state, Failed(ExitCode.TRY_AGAIN, "nobody wants it", (), 1.0))
    assert doing(state) is Activity.PULLING
    assert state.child is None, "a cancelled pull is no failure"


def test_code_that_arrives_after_its_pull_was_cancelled_is_kept() -> None:
    _, effects = after(told(Action.RUN), told(Action.RUN, 2), PULLED)
    assert effects == [ReachPeers(told(Action.RUN, 2).directive), Tell()]


def test_a_preparation_that_failed_is_reported_and_retried_only_on_request() -> None:
    failed = Failed(ExitCode.IO, "no answer", ("last",), 5.0)
    state, effects = after(told(Action.WAIT), failed)
    assert effects == [Tell()]
    child = report(state, 1, 7.0).child
    assert child == ChildReport(1, ExitCode.IO, ago=2.0, reason="no answer", last_lines=("last",))
    assert step(state, told(Action.RUN))[1] == (Tell(),)
    again = told(Action.WAIT, pull=1)
    assert step(state, again)[1] == (Pull(again.directive), Tell())


def test_a_pull_keeps_what_is_known_of_an_earlier_child() -> None:
    """A new controller learns the newest generation from it."""
    left = ChildReport(3, exit_code=137)
    state, effects = after(told(Action.WAIT, 0), child=left)
    assert isinstance(effects[0], Pull)
    assert report(state, 1, 0.0).child == replace(left, ago=0.0)


# The child and its end.


def test_an_end_is_reported_and_the_same_generation_starts_nothing_more() -> None:
    state, effects = after(*RUNS, ChildEnded(3, ("bye",), at=10.0, global_step=5, total_steps=9))
    assert effects == [Tell()]
    child = report(state, 1, 12.0).child
    assert child
    assert (child.exit_code, child.ago, child.last_lines) == (3, 2.0, ("bye",))
    assert (child.global_step, child.total_steps) == (5, 9)
    assert not child.stopped
    assert step(state, told(Action.RUN))[1] == (Tell(),)


def test_another_generation_stops_the_child_once_and_starts_the_next_when_it_has_ended() -> None:
    state, effects = after(*RUNS, told(Action.RUN, 2))
    assert effects == [Stop(signal.SIGTERM), Tell()]
    state, more = step(state, told(Action.RUN, 3))
    assert more == (Tell(),)
    state, _ = step(state, ChildEnded(143, (), 1.0))
    assert state.child
    assert state.child.stopped
    assert doing(state) is Activity.REACHING


def test_a_server_stands_in_for_a_program_that_has_ended_once_in_a_generation() -> None:
    ended = (*RUNS, ChildEnded(0, (), 1.0))
    serve = told(Action.STAND_IN)
    state, effects = after(*ended, serve)
    assert effects == [StartServer(serve.directive), Tell()]
    assert report(state, 1, 1.0).stands_in
    state, effects_of_end = step(state, ChildEnded(143, (), 2.0))
    assert effects_of_end == (Tell(),)
    assert state.child
    assert state.child.exit_code == 0, "the program's end is reported, not the stand-in's"
    assert step(state, serve)[1] == (Tell(),)


def test_a_running_program_is_not_replaced_by_a_stand_in() -> None:
    state, effects = after(*RUNS, told(Action.STAND_IN))
    assert effects == [Tell()]
    assert doing(state) is Activity.RUNNING


def test_a_child_that_cannot_start_is_a_failure_and_a_stand_in_that_cannot_is_none() -> None:
    failed = Failed(127, "it is not found", (), 1.0)
    state, _ = after(*RUNS, failed)
    assert state.child
    assert state.child.exit_code == 127
    state, _ = after(*RUNS, ChildEnded(0, (), 1.0), told(Action.STAND_IN), failed)
    assert state.child
    assert state.child.exit_code == 0


# What the output tells.


def test_only_the_chief_reports_that_its_session_is_up_and_its_step() -> None:
    seen = Seen(100.0, up=True, quiet=0.0, global_step=5)
    assert after(*RUNS, seen, task=WORKER)[1] == []
    state, effects = after(*RUNS, seen, task=CHIEF)
    assert effects == [Tell()]
    assert state.child
    assert (state.child.up, state.child.global_step) == (True, 5)
    assert step(state, replace(seen, at=101.0, global_step=6))[1] == (), (
        "the last report is only 1 s old"
    )
    assert step(state, replace(seen, at=105.0, global_step=6))[1] == (Tell(),)
    assert step(state, replace(seen, at=105.0))[1] == (), "it is the same step"
    assert step(state, replace(seen, at=105.0, epoch="2 of 3"))[1] == (Tell(),)


def test_a_hang_is_reported_once_with_the_last_lines() -> None:
    hangs = told(Action.RUN, job=job(hangTimeout=60))
    quiet = Seen(100.0, up=False, quiet=61.0, last_lines=("stuck",))
    state, effects = after(hangs, PULLED, PeersReached(), quiet)
    assert effects == [Tell()]
    assert state.child
    assert (state.child.hung, state.child.last_lines) == (True, ("stuck",))
    assert step(state, quiet)[1] == ()


# Leaving.


def test_a_program_that_makes_no_progress_for_long_is_reported_until_it_does() -> None:
    state, effects = after(*RUNS, Seen(100.0, up=False, quiet=59.0))
    assert effects == []
    for at in (101.0, 150.0):  # reported once; the report counts on
        state, told = step(state, Seen(at, up=False, quiet=at - 41.0, last_lines=("I wait",)))
        assert told == ((Tell(),) if at == 101.0 else ())
        child = report(state, 1, 151.0).child
        assert child
        assert (child.quiet, child.hung, child.last_lines) == (110.0, False, ("I wait",))
    state, told = step(state, Seen(160.0, up=False, quiet=0.0))
    child = report(state, 1, 161.0).child
    assert told == (Tell(),)
    assert child
    assert child.quiet == 0


def test_the_silence_of_one_child_is_not_that_of_the_next() -> None:
    quiet = Seen(100.0, up=False, quiet=60.0)
    state, _ = after(*RUNS, quiet, ChildEnded(1, (), 101.0), told(Action.RUN, 2), PeersReached())
    child = report(state, 1, 102.0).child
    assert child
    assert (child.generation, child.quiet) == (2, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_child_and_then_the_launcher(number: int) -> None:
    state, effects = after(*RUNS, Signalled(number, 10.0))
    assert effects == [Stop(number), Tell()]
    assert not report(state, 1, 10.0).can_start
    _, (*_, leave) = step(state, ChildEnded(0, (), 11.0))
    assert isinstance(leave, Leave)
    assert (leave.end.phase, leave.end.exit_code) == (Phase.STOPPED, 128 + number)


def test_a_second_signal_kills_the_child() -> None:
    twice = [Signalled(signal.SIGTERM, at) for at in (10.0, 11.0)]
    assert Send(signal.SIGKILL) in after(*RUNS, *twice)[1]


def test_other_signals_are_passed_on_to_a_running_child() -> None:
    assert after(*RUNS, Signalled(signal.SIGHUP, 1.0))[1] == [Send(signal.SIGHUP)]
    assert after(Signalled(signal.SIGHUP, 1.0))[1] == []


def test_a_task_that_prepares_leaves_at_once() -> None:
    (leave,) = after(told(Action.RUN), Signalled(signal.SIGTERM, 1.0))[1]
    assert isinstance(leave, Leave)


def test_a_server_stops_after_the_chief_that_it_serves() -> None:
    state, effects = after(told(Action.RUN), Signalled(signal.SIGTERM, 10.0), task=PS)
    assert effects == [Tell()]
    assert awaits_chief(state)
    assert state.leave_by == 10.0 + job().grace
    assert step(state, ChiefLeft())[1] == (Stop(signal.SIGTERM), Tell())


@pytest.mark.parametrize(
    ("changes", "task"),
    [
        ({"hosts": {}}, PS),  # the chief's address is unknown
        ({"job": job(mode="coordinator"), "hosts": {Task("chief", 0): "10.0.0.1"}}, WORKER),
    ],
)
def test_a_server_that_serves_no_chief_stops_at_once(changes: Any, task: Task) -> None:
    stopped = after(told(Action.RUN, **changes), Signalled(signal.SIGTERM, 1.0), task=task)
    assert stopped[1] == [Stop(signal.SIGTERM), Tell()]


def test_the_end_of_the_run_stops_a_server_that_awaits_the_chief() -> None:
    leaving = (told(Action.RUN), Signalled(signal.SIGTERM, 1.0), told(Action.END))
    assert after(*leaving, task=PS)[1] == [Stop(signal.SIGTERM), Tell()]


def test_a_launcher_ends_with_the_run_only_if_its_settings_say_so() -> None:
    (leave,) = after(told(Action.END), leaves=True)[1]
    assert isinstance(leave, Leave)
    assert leave.end.exit_code == 0
    assert after(told(Action.END))[1] == [Tell()]


@pytest.mark.parametrize(("code", "phase"), [(0, Phase.SUCCEEDED), (3, Phase.FAILED)])
def test_a_task_without_controller_ends_with_its_program(code: int, phase: Phase) -> None:
    *_, leave = after(*RUNS, ChildEnded(code, ("bye",), 1.0), alone=True)[1]
    assert isinstance(leave, Leave)
    assert (leave.end.phase, leave.end.exit_code) == (phase, code)
    assert leave.end.last_lines == ("bye",)


# Rules for rare orders of events.


def test_a_directive_that_comes_twice_cancels_nothing() -> None:
    again = Told(replace(told(Action.RUN).directive))
    assert after(told(Action.RUN), again)[1] == [Tell()]


def test_a_preparation_is_cancelled_once() -> None:
    assert after(told(Action.RUN), told(Action.RUN, 2), told(Action.RUN, 3))[1] == [Tell()]


def test_peers_that_were_reached_for_a_cancelled_start_are_reached_again() -> None:
    state, _ = after(told(Action.RUN), PULLED, told(Action.RUN, 2), PeersReached())
    assert doing(state) is Activity.REACHING
    state, _ = after(told(Action.RUN, 1), PULLED, told(Action.WAIT, 1), PeersReached())
    assert step(state, told(Action.RUN, 1))[1][0] == ReachPeers(told(Action.RUN, 1).directive)


def test_a_pull_that_succeeds_after_a_failure_lets_the_child_start() -> None:
    failed = Failed(ExitCode.IO, "no answer", (), 1.0)
    again = told(Action.RUN, pull=1)
    state, effects = after(told(Action.RUN), failed, again, PULLED)
    assert effects == [ReachPeers(again.directive), Tell()]
    assert state.failed is None


def test_a_start_that_failed_is_not_retried_for_another_pull() -> None:
    failed = Failed(127, "it is not found", (), 1.0)
    assert after(*RUNS, failed, told(Action.RUN, pull=1))[1] == [Tell()]


def test_a_failed_pull_is_retried_only_in_its_own_generation() -> None:
    state, _ = after(told(Action.WAIT), Failed(ExitCode.IO, "no answer", (), 1.0))
    state = replace(state, child=ChildReport(2, 0))
    assert step(state, told(Action.WAIT, 2, pull=1))[1] == (Tell(),)


def test_code_is_not_ready_while_it_is_pulled_again() -> None:
    state, _ = after(told(Action.WAIT), PULLED, told(Action.WAIT, pull=1))
    assert state.code is None
    assert not report(state, 1, 0.0).can_start


def test_a_pull_forgets_a_child_of_an_earlier_generation() -> None:
    """The child may be of another run, and a controller would take its end for one of this run."""
    ended = (*RUNS, ChildEnded(0, (), 1.0))
    state, _ = after(*ended, told(Action.WAIT, 2, job=job(run="another")))
    assert state.child is None


def test_a_stand_in_that_is_stopped_leaves_the_programs_end_as_it_was() -> None:
    served = (*RUNS, ChildEnded(0, (), 1.0), told(Action.STAND_IN))
    state, effects = after(*served, told(Action.WAIT, 2))
    assert effects == [Stop(signal.SIGTERM), Tell()]
    assert state.child
    assert not state.child.stopped


def test_up_and_hung_stay_reported() -> None:
    runs = (told(Action.RUN, job=job(hangTimeout=60)), PULLED, PeersReached())
    seen = Seen(100.0, up=True, quiet=61.0)
    state, _ = after(*runs, seen, Seen(200.0, up=False, quiet=0.0, global_step=3), task=CHIEF)
    assert state.child
    assert (state.child.up, state.child.hung, state.child.global_step) == (True, True, 3)


def test_an_older_generation_of_the_same_controller_is_not_obeyed() -> None:
    assert after(told(Action.RUN, 2), told(Action.RUN, 1))[1] == [Tell()]
    state, _ = after(told(Action.RUN, 2), told(Action.RUN, 1))
    assert state.directive == told(Action.RUN, 2).directive
