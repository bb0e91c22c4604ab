"""How a run ends: its exit code, its message, and how its tasks end."""

from __future__ import annotations

import signal
import socket
from typing import Any

import pytest

from tests.unit.processes import lives, message
from tests.unit.runs.run import LOOP, Run, child, programs


def test_a_run_in_which_all_workers_end_with_0_succeeds(run: Run) -> None:
    tasks = run.tasks()
    controller = run.controller(run.until_go() + '; echo "hello of $TASK_INDEX"')
    child(tasks[0], 1)
    (run.folder / "go").touch()
    assert controller.wait() == 0
    assert message(run.folder / "end.json") == {
        "phase": "Succeeded",
        "task": "worker-0",
        "exitCode": 0,
        "reason": "all 2 workers ended with exit code 0",
        "lastLines": ["hello of 0"],
    }
    assert [task.wait() for task in tasks] == [0, 0, 0]
    tasks[0].wait_for("the child ended, as it was told to: killed by SIGTERM")


def test_a_run_fails_with_its_programs_code_and_last_lines(run: Run) -> None:
    tasks = run.tasks()
    script = "if [ $TASK_INDEX = 1 ]; then echo bad data; exit 42; fi; " + LOOP
    controller = run.controller(script, restarts__limit=1)
    assert controller.wait() == 42
    controller.wait_for("restart 1 of 1")
    controller.wait_for(
        r"the run has failed: worker-1 failed: exit code 42, and the restart budget"
    )
    controller.wait_for("bad data")
    end = message(run.folder / "end.json")
    assert (end["exitCode"], end["task"], end["lastLines"]) == (42, "worker-1", ["bad data"])
    assert [task.wait() for task in tasks] == [0, 0, 0]


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"program__command": ["no-such-program"]}, 127, "'no-such-program' is not found"),
        ({"program__workingDir": "no/such"}, 66, "program.workingDir must be a folder of the"),
        ({"code": {"folder": {"path": "/no/such"}}}, 66, "code.folder /no/such must be a folder"),
        ({"code": {"nfs": {"server": "localhost", "path": "/x"}}}, 78, "TFRUN_SOURCE must say"),
    ],
)
def test_a_failure_that_a_restart_cannot_mend_ends_the_run_at_once(
    run: Run, changes: dict[str, Any], code: int, words: str
) -> None:
    run.tasks("ps-0", "worker-0")
    controller = run.controller(**changes, replicas={"ps": 1, "worker": 1})
    assert controller.wait() == code
    assert words in message(run.folder / "end.json")["reason"]


@pytest.mark.parametrize("code", [70, 137, 143])
def test_a_controller_exits_with_1_if_the_job_would_retry_the_runs_code(
    run: Run, code: int
) -> None:
    run.tasks("ps-0", "worker-0")
    controller = run.controller(f"exit {code}", restarts__limit=0, replicas={"ps": 1, "worker": 1})
    assert controller.wait() == 1
    assert message(run.folder / "end.json")["exitCode"] == code


def test_a_stopped_controller_reports_it_and_leaves_the_tasks_running(run: Run) -> None:
    (task, *_) = run.tasks()
    controller = run.controller()
    pid = child(task, 1)
    controller.signal(signal.SIGTERM)
    assert controller.wait() == 143
    assert message(run.folder / "end.json")["phase"] == "Stopped"
    assert lives(pid)


def test_a_hang_after_the_budget_is_spent_fails_the_run(run: Run) -> None:
    run.tasks("ps-0", "worker-0")
    one = {"ps": 1, "worker": 1}
    controller = run.controller(
        f"echo last words; {LOOP}", hangTimeout=1, restarts__limit=0, replicas=one
    )
    assert controller.wait() == 124
    end = message(run.folder / "end.json")
    assert (end["exitCode"], end["lastLines"]) == (124, ["last words"])


def test_a_run_that_takes_too_long_fails(run: Run) -> None:
    tasks = run.tasks()
    controller = run.controller(deadline=1)
    assert controller.wait() == 124
    reason = "the run has not ended within its deadline of 1 s"
    assert message(run.folder / "end.json")["reason"] == reason
    assert [task.wait() for task in tasks] == [0, 0, 0]


def test_a_new_controller_learns_the_end_from_the_tasks(run: Run) -> None:
    tasks = [run.task(name, TFRUN_LEAVE="") for name in ("ps-0", "worker-0", "worker-1")]
    assert run.controller("exit 0").wait() == 0
    again = run.controller("exit 0")
    assert again.wait() == 0
    assert message(run.folder / "end.json")["reason"].startswith("ended already")
    for task in tasks:
        task.signal(signal.SIGTERM)
        assert task.wait() == 143
    assert [programs(task) for task in tasks] == [0, 1, 1]


def test_a_job_of_another_version_is_refused(run: Run) -> None:
    controller = run.controller(version=2)
    assert controller.wait() == 78
    reason = message(run.folder / "end.json")["reason"]
    assert reason.startswith("job.json has version 2; this launcher reads version 1")


def test_a_port_that_is_taken_is_named(run: Run) -> None:
    with socket.create_server(("127.0.0.1", run.port)):
        controller = run.controller()
        assert controller.wait() == 78
    controller.wait_for(rf"the controller cannot listen on 127\.0\.0\.1:{run.port}: ")
