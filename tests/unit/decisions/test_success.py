"""When a run succeeds, and that nothing trains after the end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from launcher.decisions.state import RunPhase
from launcher.shared.exits import Phase
from launcher.shared.protocol import Action
from tests.unit.play import (
    Play,
    all_run,
    started,
)


def test_success_needs_every_worker(play: Play) -> None:
    play.exit("worker-0", 0, "auc 0.99")
    play.settle()
    assert play.end is None
    assert play.running() == {"ps-0": 1, "worker-1": 1}
    assert play.pod("worker-0").stands_in, "a server stands in for it"
    play.exit("worker-1", 0)
    play.settle()
    assert play.end
    assert (play.end.phase, play.end.exit_code) == (Phase.SUCCEEDED, 0)
    assert (play.end.task, play.end.last_lines) == ("worker-0", ("auc 0.99",))
    assert play.running() == {}
    assert all(pod.holds and pod.holds.action is Action.END for pod in play.pods.values())


def test_success_needs_only_the_chief_if_the_values_say_so() -> None:
    play = started(success="Chief")
    play.exit("worker-1", 0)
    play.settle()
    assert play.end is None
    play.exit("worker-0", 0)
    play.settle()
    assert play.end
    assert play.end.phase is Phase.SUCCEEDED
    assert play.running() == {}


@pytest.mark.parametrize("mode", ["parameter-server", "all-reduce"])
def test_a_finished_worker_whose_pod_is_replaced_does_not_train_again(mode: str) -> None:
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


def test_a_finished_worker_does_not_train_again_under_a_new_controller(play: Play) -> None:
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


def test_a_parameter_server_that_ends_counts_as_lost_whatever_its_code(play: Play) -> None:
    play.exit("ps-0", 0)
    play.settle()
    assert play.end is None
    assert play.running() == all_run(2)


@pytest.mark.parametrize(
    ("event", "starts"),
    [
        ("lost", []),  # of the new pod
        ("failed", [1]),
        ("ticked", [1]),
    ],
)
def test_nothing_starts_after_the_end(play: Play, event: str, starts: list[int]) -> None:
    play.exit("worker-0", 0)
    play.exit("worker-1", 0)
    play.settle()
    if event == "lost":
        play.lose("worker-1")
    elif event == "failed":
        pod = play.pod("worker-1")
        assert pod.child
        pod.state = replace(pod.state, child=replace(pod.child, exit_code=1))
    play.tick(1000)
    play.settle()
    assert play.running() == {}
    assert play.state.phase is RunPhase.ENDED
    assert play.pod("worker-1").started == starts
