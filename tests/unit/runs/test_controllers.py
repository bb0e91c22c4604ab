"""A controller that is away, a new one in its place, and one of another release."""

from __future__ import annotations

import json
import os
import signal
import socket

import pytest

from launcher.shared.exits import LauncherError
from launcher.shared.job import job_of
from launcher.shared.protocol import encode_directive
from tests.unit.conftest import Start
from tests.unit.jobs import document
from tests.unit.processes import Launcher, lives, wait_until
from tests.unit.runs.run import LOOP, Run, child, programs


def test_a_task_names_a_controller_that_it_cannot_reach_and_waits_for_it(run: Run) -> None:
    task = run.task("worker-0")
    task.wait_for(rf"no valid answer from the controller 127\.0\.0\.1:{run.port} for \d s; retry")
    run.controller(replicas={"ps": 1, "worker": 1})
    task.wait_for(rf"the controller 127\.0\.0\.1:{run.port} answers")
    task.wait_for("code [0-9a-f]{32} is in ")


def test_a_controller_address_that_is_no_host_name_is_named(run: Run) -> None:
    task = run.task("worker-0", TFRUN_CONTROLLER="a..b:1")
    task.wait_for(r"no valid answer from the controller a\.\.b:1")


def test_a_task_with_a_new_report_waits_for_its_controller_without_spinning(run: Run) -> None:
    tasks = run.tasks()
    controller = run.controller()
    pids = [child(task, 1) for task in tasks]
    controller.signal(signal.SIGKILL)
    controller.wait()
    os.kill(pids[1], signal.SIGKILL)
    tasks[1].wait_for("the child ended: killed by SIGKILL")
    begin = cpu(tasks[1])
    tasks[1].wait_for("no valid answer")
    assert cpu(tasks[1]) - begin < 1.0, "it must not spin"
    again = run.controller()
    again.wait_for("the cause: worker-0: killed by SIGKILL .*; restart 1 of 2")
    child(tasks[1], 2)


def cpu(launcher: Launcher) -> float:
    import psutil

    times = psutil.Process(launcher.pid).cpu_times()
    return float(times.user + times.system)


def test_a_new_controller_takes_over_and_restarts_nothing(run: Run) -> None:
    tasks = run.tasks()
    script = run.until_go()
    controller = run.controller(script)
    pids = [child(task, 1) for task in tasks]
    for _ in range(2):
        controller.signal(signal.SIGKILL)
        controller.wait()
        controller = run.controller(script)
        controller.wait_for("generation 1: found running, and taken over")
        assert all(lives(pid) for pid in pids)
    (run.folder / "go").touch()
    assert controller.wait() == 0
    assert [programs(task) for task in tasks] == [0, 1, 1]


def test_a_changed_policy_reaches_the_tasks_and_restarts_nothing(run: Run) -> None:
    tasks = run.tasks()
    deaf = f"trap '' TERM; echo ready; {LOOP}"
    controller = run.controller(deaf, grace=1000)
    pids = [child(task, 1) for task in tasks]
    tasks[1].wait_for("^ready")
    controller.signal(signal.SIGTERM)
    controller.wait()
    changes = {"restarts__limit": 7, "grace": 0.1, "logs": str(run.folder / "logs")}
    controller = run.controller(deaf, **changes, deadline=10_000)
    controller.wait_for("generation 1: found running, and taken over")
    heard: set[str] = set()

    def all_have_heard() -> bool:
        found = run.status()["tasks"]
        heard.update(t["task"] for t in found if t["state"] == "running" and t["ago"] == 0)
        return len(heard) == len(found)

    wait_until(all_have_heard, "all tasks have reported to the new controller")
    assert run.status()["restartLimit"] == 7
    assert all(lives(pid) for pid in pids)
    assert [programs(task) for task in tasks] == [0, 1, 1]
    os.kill(pids[0], signal.SIGKILL)  # all tasks must stop, within the new grace
    controller.wait_for("generation 2: all tasks start")
    assert not any(lives(pid) for pid in pids)
    controller.wait_for("restart 1 of 7")


def test_changed_arguments_restart_the_program_in_the_same_pods(run: Run) -> None:
    tasks = run.tasks()
    controller = run.controller("echo old; sleep 1000")
    pids = [child(task, 1) for task in tasks]
    controller.signal(signal.SIGTERM)
    controller.wait()
    controller = run.controller("echo new; sleep 1000")
    controller.wait_for("all tasks stop: generation 2 forms")
    assert [child(task, 2) for task in tasks] != pids
    assert not any(lives(pid) for pid in pids)
    tasks[1].wait_for("^new")
    assert [task.process.poll() for task in tasks] == [None] * 3


def test_another_run_reaches_the_tasks_through_a_new_controller(run: Run) -> None:
    tasks = run.tasks()
    controller = run.controller("echo old; sleep 1000")
    tasks[1].wait_for("^old")
    controller.signal(signal.SIGTERM)
    controller.wait()
    controller = run.controller("echo new", run="another")
    assert controller.wait() == 0
    tasks[1].wait_for("^new")


def test_a_directive_of_another_version_is_named_and_not_followed(start: Start) -> None:
    """The controller is a fake, which answers as one of another release would."""
    answer = json.loads(encode_directive(None))
    answer["directive"] = {
        "leader": {"number": 1, "id": "another"},
        "action": "run",
        "generation": 1,
        "charged": 0,
        "job": document(version=2),
    }
    with pytest.raises(LauncherError):
        job_of(answer["directive"]["job"])
    body = json.dumps(answer).encode()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        task = start(
            "task",
            env={
                "TFRUN_POD_NAME": "worker-0",
                "TFRUN_CONTROLLER": f"127.0.0.1:{server.getsockname()[1]}",
                "TFRUN_TERMINATION_LOG": "",
            },
        )
        while not any("job.json has version 2" in line for line in task.lines):
            assert task.process.poll() is None
            try:
                client, _ = server.accept()
            except TimeoutError:
                continue
            with client:
                client.recv(65536)
                client.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode())
                client.sendall(body)
    assert "started" not in str(task)
    task.signal(signal.SIGTERM)
    assert task.wait() == 143
