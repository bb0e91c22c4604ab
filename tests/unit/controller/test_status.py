"""The status document that the controller answers with."""

from __future__ import annotations

import json

import pytest

from launcher.controller.status import document
from launcher.decisions.state import Orders, RunPhase, State
from launcher.shared.protocol import ChildReport
from tests.unit.controller.states import RUNNING, state


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (state(RUNNING), "running"),
        (state(RUNNING, orders=Orders(forming=True)), "stopping"),
        (state(None, orders=Orders(forming=True)), "waiting to start"),
        (state(None, orders=Orders(forming=True), can_start=False), "pulling the code"),
        (state(None, orders=Orders(waits_for_chief=True)), "waiting for the chief"),
        (state(ChildReport(3, 0), orders=Orders(done=True)), "done"),
        (state(ChildReport(3, 1)), "failed"),
        (state(ChildReport(3, 143, stopped=True)), "starting"),
        (state(ChildReport(3, 143, stopped=True), phase=RunPhase.ENDED), "ended"),
        (state(seats={}), "not heard from"),
    ],
)
def test_the_state_of_a_task_says_what_it_does(found: State, said: str) -> None:
    (_, _, task) = document(found, 100.0)["tasks"]
    assert (task["task"], task["state"]) == ("worker-1", said)


def test_the_status_document_holds_every_field() -> None:
    found = document(
        state(RUNNING, generation=3, charges=(50.0,), cause="ps-0: exit code 1", moved_at=98.0),
        100.0,
    )
    assert {key: found[key] for key in found if key != "tasks"} == {
        "release": "mnist",
        "run": "0123456789ab",
        "mode": "parameter-server",
        "phase": "leading",
        "generation": 3,
        "restarts": 1,
        "restartLimit": 2,
        "cause": "ps-0: exit code 1",
        "codeDigest": "",
        "seconds": 60,
        "progressAgo": 2,
    }
    assert found["tasks"][2] == {
        "task": "worker-1",
        "state": "running",
        "generation": 3,
        "globalStep": 5,
        "totalSteps": 9,
        "epoch": "2 of 3",
        "exitCode": None,
        "ago": 5,
    }
    assert json.loads(json.dumps(found)) == found
