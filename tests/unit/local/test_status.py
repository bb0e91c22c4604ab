"""`launcher status`: how a run is as lines for a person, and how it is asked through kubectl."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.controller.status import document
from launcher.decisions import state as run_state
from launcher.decisions import step
from launcher.local import status
from launcher.shared.exits import Code, LauncherError
from launcher.shared.protocol import ChildReport
from tests.unit.controller.states import RUNNING, state
from tests.unit.jobs import job


def test_the_lines_tell_the_run_its_tasks_and_the_last_cause() -> None:
    found = document(
        state(RUNNING, generation=3, charges=(50.0,), cause="ps-0: exit code 1", moved_at=98.0),
        100.0,
    )
    assert status.show(found) == [
        "mnist: leading, generation 3, restarts 1 of 2, run 0123456789ab for 60 s, "
        "progress 2 s ago",
        "  the last cause of a restart: ps-0: exit code 1",
        "  ps-0      not heard from",
        "  worker-0  not heard from",
        "  worker-1  running, step 5 of 9",
    ]


@pytest.mark.parametrize(
    ("ready", "said"), [(True, "waiting to join"), (False, "pulling the code")]
)
def test_a_task_that_waits_to_join_is_told(ready: bool, said: str) -> None:
    small = job(replicas={"ps": 1, "worker": 1})
    found = document(state(ready=ready, job=small), 100.0)
    assert status.show(found)[3] == f"  worker-1  {said}"


def test_the_lines_tell_of_a_failed_and_silent_task() -> None:
    found = document(state(ChildReport(3, 42)), 200.0)
    assert status.show(found)[3] == "  worker-1  failed, exit code 42, silent for 105 s"


def test_the_end_of_a_run_is_one_line() -> None:
    end = {"phase": "Failed", "reason": "worker-1 failed: exit code 42", "code": 42}
    assert status.show({"end": end}) == ["Failed: worker-1 failed: exit code 42 (code 42)"]


def test_a_run_of_which_no_task_was_heard_is_told() -> None:
    begun, _ = step.step(state(seats={}), run_state.Tick(), 41.0)
    assert status.show(document(begun, 41.0))[0].startswith("mnist: leading")


# A script stands for kubectl.


def kubectl(folder: Path, jobs: list[Any], pods: list[Any], inside: str = "") -> list[str]:
    (folder / "jobs").write_text(json.dumps({"items": jobs}))
    (folder / "pods").write_text(json.dumps({"items": pods}))
    (folder / "inside").write_text(inside)
    script = folder / "kubectl"
    script.write_text(
        f"""#!/bin/sh
        cd {folder}
        echo "$@" >> asked
        case "$1 $2" in
            "get job") cat jobs ;;
            "get pod") cat pods ;;
            "exec job/mnist-controller-2") cat inside; [ -s inside ] ;;
            *) echo "no such thing" >&2; exit 1 ;;
        esac
        """
    )
    script.chmod(0o755)
    return [str(script)]


def controller(number: int, condition: str = "") -> dict[str, Any]:
    command = ["python3", "-m", "launcher", "controller"]
    container = {"command": command, "ports": [{"containerPort": 2220}]}
    return {
        "metadata": {
            "name": f"mnist-controller-{number}",
            "creationTimestamp": f"2026-01-0{number}T00:00:00Z",
        },
        "spec": {"template": {"spec": {"containers": [container]}}},
        "status": {"conditions": [{"type": condition}]} if condition else {},
    }


def pod(day: int, message: str, code: int = 42) -> dict[str, Any]:
    ended = {"terminated": {"message": message, "exitCode": code}}
    return {
        "metadata": {"creationTimestamp": f"2026-01-0{day}T00:00:00Z"},
        "status": {"containerStatuses": [{"state": ended}]},
    }


def test_the_newest_controller_is_asked_in_its_own_pod(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told = json.dumps(document(state(RUNNING), 100.0))
    command = kubectl(tmp_path, [controller(1, "Complete"), controller(2)], [], told + "\n")
    status.run("mnist", command, None, as_json=False, watch=False)
    assert capfd.readouterr().out.splitlines()[-1] == "  worker-1  running, step 5 of 9"
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked[-1] == (
        "exec job/mnist-controller-2 -- python3 -m launcher status --address 127.0.0.1:2220 --json"
    )


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ('{"phase": "Failed", "reason": "why", "code": 42}', "Failed: why (code 42)"),
        ("what Python says", "Ended: what Python says (code 42)"),
    ],
)
def test_the_end_is_read_from_the_termination_message(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], message: str, said: str
) -> None:
    pods = [pod(1, '{"reason": "an older one"}'), pod(2, message)]
    command = kubectl(tmp_path, [controller(2, "Failed")], pods)
    status.run("mnist", command, None, as_json=False, watch=False)
    assert capfd.readouterr().out.splitlines() == [said]


def test_a_controller_that_has_not_started_is_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status.run("mnist", kubectl(tmp_path, [controller(2)], []), None, as_json=False, watch=False)
    assert "Unknown: its controller has not started" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("jobs", "command", "code", "words"),
    [
        ([], None, Code.CONFIGURATION, "there is no release mnist in this namespace"),
        ([], ["no-such-kubectl"], Code.CONFIGURATION, "no-such-kubectl must be installed"),
        ([], ["false"], Code.TRY_AGAIN, "false: "),
    ],
)
def test_a_missing_release_or_kubectl_is_named(
    tmp_path: Path, jobs: list[Any], command: list[str] | None, code: Code, words: str
) -> None:
    with pytest.raises(LauncherError, match=words) as error:
        status.run("mnist", command or kubectl(tmp_path, jobs, []), None, False, False)
    assert error.value.code is code
