"""A real controller with real tasks on the loopback; only TensorFlow is a stand-in."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.shared.exits import LauncherError
from launcher.shared.identity import Task
from launcher.shared.job import job_of
from launcher.shared.protocol import (
    PATH,
    Action,
    Report,
    decode_directive,
    encode_directive,
    encode_report,
)
from tests.unit.conftest import Start
from tests.unit.jobs import document
from tests.unit.processes import Launcher, free_ports, lives, message, wait_until

LOOP = "while :; do sleep 0.02; done"


class Run:
    """The processes of one run, and how to start and find each."""

    def __init__(self, start: Start, folder: Path) -> None:
        self.start = start
        self.folder = folder
        self.code = folder / "source"
        self.code.mkdir()
        (self.code / "program").write_text("a program")
        self.port, self.tasks_port = free_ports(2)

    def controller(self, script: str = LOOP, **changes: Any) -> Launcher:
        changes = {
            "program__command": ["sh", "-c", script],
            "program__args": [],
            "addresses": {"host": "127.0.0.1", "port": self.tasks_port, "portsPerTask": True},
            "code": {"folder": {"path": str(self.code)}},
            **changes,
        }
        (self.folder / "job.json").write_text(json.dumps(document(**changes)))
        return self.start(
            "controller",
            env={
                "TFRUN_JOB": str(self.folder / "job.json"),
                "TFRUN_LISTEN": f"127.0.0.1:{self.port}",
                "TFRUN_TERMINATION_LOG": str(self.folder / "end.json"),
            },
        )

    def task(self, name: str, **variables: str) -> Launcher:
        return self.start(
            "task",
            env={
                "TFRUN_POD_NAME": name,
                "TFRUN_CONTROLLER": f"127.0.0.1:{self.port}",
                "TFRUN_WORK": str(self.folder / name),
                "TFRUN_TERMINATION_LOG": str(self.folder / f"{name}.json"),
                "TFRUN_LEAVE": "true",
                **variables,
            },
        )

    def until_go(self) -> str:
        """A program that trains until a test says so."""
        return f"while [ ! -e {self.folder}/go ]; do sleep 0.02; done"

    def status(self) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v1/status") as answer:
            return json.load(answer)

    def tasks(self, *names: str) -> list[Launcher]:
        return [self.task(name) for name in names or ("ps-0", "worker-0", "worker-1")]


@pytest.fixture
def run(start: Start, tmp_path: Path) -> Run:
    return Run(start, tmp_path)


def child(launcher: Launcher, generation: int) -> int:
    return int(launcher.wait_for(rf"generation {generation}: started .*\(process (\d+)\)")[1])


# Ends.


def test_a_run_succeeds(run: Run) -> None:
    tasks = run.tasks()
    controller = run.controller(run.until_go() + '; echo "hello of $TASK_INDEX"')
    child(tasks[0], 1)
    (run.folder / "go").touch()
    assert controller.wait() == 0
    assert message(run.folder / "end.json") == {
        "phase": "Succeeded",
        "task": "worker-0",
        "code": 0,
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
    assert (end["code"], end["task"], end["lastLines"]) == (42, "worker-1", ["bad data"])
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
def test_what_another_try_cannot_mend(
    run: Run, changes: dict[str, Any], code: int, words: str
) -> None:
    run.tasks("ps-0", "worker-0")
    controller = run.controller(**changes, replicas={"ps": 1, "worker": 1})
    assert controller.wait() == code
    assert words in message(run.folder / "end.json")["reason"]


@pytest.mark.parametrize("code", [70, 137, 143])
def test_a_runs_code_is_never_taken_for_the_controllers_own_trouble(run: Run, code: int) -> None:
    run.tasks("ps-0", "worker-0")
    controller = run.controller(f"exit {code}", restarts__limit=0, replicas={"ps": 1, "worker": 1})
    assert controller.wait() == 1
    assert message(run.folder / "end.json")["code"] == code


def test_a_stopped_controller_says_so_and_leaves_the_tasks_alone(run: Run) -> None:
    (task, *_) = run.tasks()
    controller = run.controller()
    pid = child(task, 1)
    controller.signal(signal.SIGTERM)
    assert controller.wait() == 143
    assert message(run.folder / "end.json")["phase"] == "Stopped"
    assert lives(pid)


# Losses.


def test_a_killed_child_leads_to_a_new_generation(run: Run) -> None:
    tasks = run.tasks()
    controller = run.controller(run.until_go())
    others = [child(task, 1) for task in tasks[:2]]
    os.kill(child(tasks[2], 1), signal.SIGKILL)
    child(tasks[2], 2)
    assert all(lives(pid) for pid in others)
    (run.folder / "go").touch()
    assert controller.wait() == 0
    controller.wait_for("the cause: worker-1: killed by SIGKILL .*; restart 1 of 2")
    controller.wait_for("generation 2: worker-1 start")


def test_with_a_killed_server_all_start_again(run: Run) -> None:
    tasks = run.tasks()
    controller = run.controller("[ $TFRUN_GENERATION = 2 ] || sleep 1000")
    os.kill(child(tasks[0], 1), signal.SIGKILL)
    assert controller.wait() == 0
    controller.wait_for("generation 2: all tasks start")


TRIES_ONCE = """
import json, os, socket
host, _, port = json.loads(os.environ["TF_CONFIG"])["cluster"]["ps"][0].rpartition(":")
socket.create_connection((host, int(port)))
"""


def test_a_coordinator_starts_again_once_its_servers_answer(run: Run) -> None:
    ps = run.task("ps-0", STUB_SECONDS="1")
    run.tasks("worker-0", "chief-0")
    (run.folder / "try.py").write_text(TRIES_ONCE)
    controller = run.controller(
        f"[ $TFRUN_GENERATION != 1 ] || {LOOP}; exec {sys.executable} {run.folder}/try.py",
        mode="coordinator",
        replicas={"chief": 1, "ps": 1, "worker": 1},
    )
    os.kill(child(ps, 1), signal.SIGKILL)
    assert controller.wait() == 0
    controller.wait_for("generation 2: chief-0, ps-0 start")
    assert "generation 3" not in str(controller)


def test_who_fails_again_waits(run: Run) -> None:
    run.tasks("ps-0", "worker-0")
    one = {"ps": 1, "worker": 1}
    script = f"touch {run.folder}/$TFRUN_GENERATION; [ $TFRUN_GENERATION = 3 ] || exit 1"
    controller = run.controller(script, replicas=one)
    controller.wait_for("restart 1 of 2$")
    controller.wait_for("restart 2 of 2; next try in 1 s")
    controller.wait_for("generation 3: worker-0 start")
    assert controller.wait() == 0
    failed, again = ((run.folder / name).stat().st_mtime for name in "23")
    assert again - failed > 0.9


@pytest.mark.parametrize(
    ("pod", "code", "told"),
    [
        ("the same", 1, "ps-0 failed: killed together with its launcher, as for want of memory"),
        ("another", 0, "its pod or its launcher was started again; not charged"),
        ("after a reboot", 0, "its pod or its launcher was started again; not charged"),
    ],
)
def test_a_launcher_that_is_killed_with_its_child(run: Run, pod: str, code: int, told: str) -> None:
    """Only where the pod stays it may be the program's fault."""
    tasks = run.tasks()
    controller = run.controller("[ $TFRUN_GENERATION = 2 ] || sleep 1000", restarts__limit=0)
    left = child(tasks[0], 1)
    tasks[0].signal(signal.SIGKILL)
    tasks[0].wait()
    os.kill(left, signal.SIGKILL)  # as a container's end does
    noted = run.folder / "ps-0" / "child.json"
    if pod == "after a reboot":
        noted.write_text(json.dumps({**json.loads(noted.read_text()), "boot": "another"}))
    work = run.folder / ("ps-0 again" if pod == "another" else "ps-0")
    run.task("ps-0", TFRUN_WORK=str(work))
    assert controller.wait() == code
    controller.wait_for(told)


def test_a_drained_task_is_not_charged(run: Run) -> None:
    tasks = run.tasks()
    controller = run.controller(
        "trap 'exit 0' TERM; echo ready; " + run.until_go(),
        restarts__limit=0,
    )
    tasks[2].wait_for("^ready")
    tasks[2].signal(signal.SIGTERM)
    assert tasks[2].wait() == 143
    controller.wait_for("lost worker-1: it was stopped from outside")
    child(run.task("worker-1"), 2)
    (run.folder / "go").touch()
    assert controller.wait() == 0


SAVES_ON_THE_PS = """
import os, signal, socket, sys, time
host, port = os.environ["PS_HOSTS"].split(":")
while True:
    try:
        ps = socket.create_connection((host, int(port)))
        break
    except ConnectionRefusedError:
        time.sleep(0.02)
def save(*_):
    time.sleep(0.5)  # for a ps that does not wait
    socket.create_connection((host, int(port))).close()
    print("saved", flush=True)
    os._exit(143)
signal.signal(signal.SIGTERM, save)
print("connected", flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.02)
"""


@pytest.mark.parametrize("who", ["the ps alone", "all at once"])
def test_a_ps_that_is_told_to_end_serves_until_the_chief_has_saved(run: Run, who: str) -> None:
    """As with a drained node; and as `helm uninstall` does, which ends the controller too."""
    ps, chief = (run.task(name, TFRUN_POD_IP="127.0.0.1") for name in ("ps-0", "worker-0"))
    controller = run.controller(
        program__command=[sys.executable, "-c", SAVES_ON_THE_PS, str(run.folder / "go")],
        replicas={"ps": 1, "worker": 1},
        restarts__limit=0,
        grace=20,
    )
    chief.wait_for("^connected")
    if who != "the ps alone":
        controller.signal(signal.SIGTERM)
        controller.wait()
        chief.signal(signal.SIGTERM)
    ps.signal(signal.SIGTERM)
    chief.wait_for("^saved")
    assert ps.wait() == 143
    if who == "the ps alone":
        controller.wait_for("lost ps-0: its pod was told to end; all tasks stop")
        (run.folder / "go").touch()
        run.task("ps-0", TFRUN_POD_IP="127.0.0.1", TFRUN_WORK=str(run.folder / "another"))
        assert controller.wait() == 0


def test_a_ps_does_not_wait_for_a_chief_for_ever(run: Run) -> None:
    ps, chief = (run.task(name, TFRUN_POD_IP="127.0.0.1") for name in ("ps-0", "worker-0"))
    controller = run.controller(
        program__command=[sys.executable, "-c", SAVES_ON_THE_PS, "/no/such"],
        replicas={"ps": 1, "worker": 1},
        grace=1,
    )
    chief.wait_for("^connected")
    controller.signal(signal.SIGTERM)
    controller.wait()
    ps.signal(signal.SIGTERM)
    assert ps.wait() == 143


def test_a_deaf_program_holds_up_the_next_generation_until_it_is_killed(run: Run) -> None:
    tasks = run.tasks()
    script = f"[ $TFRUN_GENERATION = 2 ] || {{ trap '' TERM; echo ready; {LOOP}; }}"
    controller = run.controller(script, grace=1)
    deaf = child(tasks[1], 1)
    tasks[1].wait_for("^ready")
    os.kill(child(tasks[0], 1), signal.SIGKILL)
    controller.wait_for("generation 2: all tasks start")
    assert not lives(deaf)
    assert controller.wait() == 0


# The line between a task and its controller.


def test_a_controller_that_cannot_be_reached_is_named_and_waited_for(run: Run) -> None:
    task = run.task("worker-0")
    task.wait_for(rf"the controller 127\.0\.0\.1:{run.port} cannot be reached for \d s, and is")
    run.controller(replicas={"ps": 1, "worker": 1})
    task.wait_for(rf"the controller 127\.0\.0\.1:{run.port} answers")
    task.wait_for("code [0-9a-f]{32} is in ")


def test_a_controller_whose_name_is_none_is_named(run: Run) -> None:
    task = run.task("worker-0", TFRUN_CONTROLLER="a..b:1")
    task.wait_for(r"the controller a\.\.b:1 cannot be reached")


def test_a_task_with_news_waits_quietly_for_its_controller(run: Run) -> None:
    tasks = run.tasks()
    controller = run.controller()
    pids = [child(task, 1) for task in tasks]
    controller.signal(signal.SIGKILL)
    controller.wait()
    os.kill(pids[1], signal.SIGKILL)
    tasks[1].wait_for("the child ended: killed by SIGKILL")
    begin = cpu(tasks[1])
    tasks[1].wait_for("cannot be reached")
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


def programs(task: Launcher) -> int:
    """How many times a task has started its program."""
    return sum(": started sh -c" in line for line in task.lines)


def test_another_policy_reaches_the_tasks_and_restarts_nothing(run: Run) -> None:
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

    wait_until(all_have_heard, "all have heard of it")
    assert run.status()["restartLimit"] == 7
    assert all(lives(pid) for pid in pids)
    assert [programs(task) for task in tasks] == [0, 1, 1]
    os.kill(pids[0], signal.SIGKILL)  # so that all must stop: within the new grace
    controller.wait_for("generation 2: all tasks start")
    assert not any(lives(pid) for pid in pids)
    controller.wait_for("restart 1 of 7")


def test_changed_arguments_start_the_program_again_in_the_pods_that_are_there(run: Run) -> None:
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


def test_new_arguments_reach_the_tasks_through_a_new_controller(run: Run) -> None:
    tasks = run.tasks()
    controller = run.controller("echo old; sleep 1000")
    tasks[1].wait_for("^old")
    controller.signal(signal.SIGTERM)
    controller.wait()
    controller = run.controller("echo new", run="another")
    assert controller.wait() == 0
    tasks[1].wait_for("^new")


def test_a_finished_worker_that_starts_again_does_not_train_again(run: Run) -> None:
    tasks = run.tasks()
    script = "[ $TASK_INDEX = 0 ] || " + run.until_go()
    controller = run.controller(script)
    tasks[1].wait_for("the child ended: exit code 0")
    child(tasks[2], 1)
    tasks[1].signal(signal.SIGTERM)  # so that its last report is heard before it goes
    assert tasks[1].wait() == 143
    again = run.task("worker-0")
    again.wait_for("^serving grpc://")
    (run.folder / "go").touch()
    assert controller.wait() == 0
    assert again.wait() == 0
    assert programs(again) == 0


def test_a_finished_workers_address_stays_answered_while_others_train(run: Run) -> None:
    tasks = run.tasks()
    controller = run.controller("[ $TASK_INDEX = 0 ] || " + run.until_go())
    tasks[1].wait_for("the child ended: exit code 0")
    tasks[1].wait_for(r"generation 1: started \S*python\S* -m launcher.task.tensorflow_server")
    port = int(tasks[1].wait_for(r"^serving grpc://127\.0\.0\.1:(\d+)")[1])
    socket.create_connection(("127.0.0.1", port)).close()
    os.kill(child(tasks[2], 1), signal.SIGKILL)  # which is no affair of worker-0's
    child(tasks[2], 2)
    socket.create_connection(("127.0.0.1", port)).close()
    (run.folder / "go").touch()
    assert controller.wait() == 0
    assert [task.wait() for task in tasks] == [0, 0, 0]
    assert programs(tasks[1]) == 1
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


# The code.


def test_tasks_wait_until_all_have_the_same_code(run: Run, tmp_path: Path) -> None:
    """Each task has a mount of its own here, as with caches of NFS that tell different tales."""
    mounts = [tmp_path / "one", tmp_path / "two"]
    for number, mount in enumerate(mounts):
        mount.mkdir()
        (mount / "program").write_text(str(number))
    run.task("ps-0")
    for number, mount in enumerate(mounts):
        run.task(f"worker-{number}", TFRUN_SOURCE=str(mount))
    controller = run.controller(
        "cat program; echo $TFRUN_CODE_DIGEST", code={"nfs": {"server": "localhost", "path": "/x"}}
    )
    controller.wait_for("the code of all tasks must be the same: worker-1 has .* pull it again")
    (mounts[1] / "program").write_text("0")
    assert controller.wait() == 0
    (digest,) = re.findall(r"all tasks start, with code ([0-9a-f]{32})", str(controller))
    assert message(run.folder / "end.json")["lastLines"] == [f"0{digest}"]


def test_all_tasks_run_the_commit_that_a_branch_meant_when_the_run_began(run: Run) -> None:
    repository = run.folder / "repository"
    repository.mkdir()
    git = ["git", "-C", str(repository), "-c", "user.name=a", "-c", "user.email=a@example.com"]

    def commit(text: str) -> None:
        (repository / "program").write_text(text)
        for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", text]):
            subprocess.run([*git, *words], check=True)

    commit("first")
    tasks = run.tasks()
    code = {"git": {"url": repository.as_uri(), "ref": "main"}}
    controller = run.controller(f"cat program; echo; {run.until_go()}", code=code)
    tasks[2].wait_for("^first")
    commit("second")
    tasks[2].signal(signal.SIGTERM)
    tasks[2].wait()
    again = run.task("worker-1", TFRUN_WORK=str(run.folder / "another"))
    again.wait_for("^first")
    (run.folder / "go").touch()
    assert controller.wait() == 0


# The chief first, and time.


@pytest.mark.parametrize(
    "sign", ["echo step 1", "touch $TFRUN_READY", "touch $CHECKPOINTS/model-1.index"]
)
def test_the_others_start_when_the_chief_is_up(run: Run, sign: str) -> None:
    tasks = run.tasks()
    folder = run.folder / "checkpoints"
    folder.mkdir()
    (folder / "model-0.index").touch()
    wait = f"while [ ! -e {run.folder}/up ]; do sleep 0.02; done"
    script = f"[ $TASK_INDEX = 1 ] && exit; {wait}; {sign}; {run.until_go()}"
    controller = run.controller(
        script,
        chiefFirst=True,
        checkpoints=str(folder),
        program__env={"CHECKPOINTS": str(folder)},
    )
    controller.wait_for("generation 1: all tasks start, worker-0 first")
    child(tasks[1], 1)
    time.sleep(0.5)
    assert programs(tasks[2]) == 0
    (run.folder / "up").touch()
    child(tasks[2], 1)
    (run.folder / "go").touch()
    assert controller.wait() == 0


def test_a_program_that_hangs_is_started_again(run: Run) -> None:
    tasks = run.tasks()
    steps = "i=0; while [ $TASK_INDEX = 0 ]; do i=$((i + 1)); echo step $i; sleep 0.1; done"
    script = f"[ $TFRUN_GENERATION = 2 ] && exit; {steps}; echo silent; {LOOP}"
    controller = run.controller(script, hangTimeout=2)
    tasks[2].wait_for(r"no progress for \d+ s")
    controller.wait_for("lost worker-1: no progress for 2 s; all tasks stop")
    assert controller.wait() == 0
    controller.wait_for("the cause: worker-1: no progress for 2 s; restart 1 of 2")
    assert tasks[1].wait() == 0
    assert programs(tasks[1]) == 2, "a loss of progress is everybody's"


def test_a_hang_that_is_once_too_often_fails_the_run(run: Run) -> None:
    run.tasks("ps-0", "worker-0")
    one = {"ps": 1, "worker": 1}
    controller = run.controller(
        f"echo last words; {LOOP}", hangTimeout=1, restarts__limit=0, replicas=one
    )
    assert controller.wait() == 124
    end = message(run.folder / "end.json")
    assert (end["code"], end["lastLines"]) == (124, ["last words"])


def test_a_run_that_takes_too_long_fails(run: Run) -> None:
    tasks = run.tasks()
    controller = run.controller(deadline=1)
    assert controller.wait() == 124
    reason = "the run has not ended within its deadline of 1 s"
    assert message(run.folder / "end.json")["reason"] == reason
    assert [task.wait() for task in tasks] == [0, 0, 0]


# What it tells while it trains.


def test_status_and_progress_are_told(run: Run) -> None:
    tasks = run.tasks()
    script = f"[ $TASK_INDEX = 1 ] || echo step 7 of 9; {run.until_go()}"
    controller = run.controller(script)
    controller.wait_for("step 7 of 9$")
    child(tasks[2], 1)
    status = run.status()
    assert (status["phase"], status["mode"], status["restarts"]) == (
        *("leading", "parameter-server"),
        0,
    )
    ps, chief, worker = status["tasks"]
    assert (chief["task"], chief["state"]) == ("worker-0", "running")
    assert (chief["step"], chief["lastStep"]) == (7, 9)
    assert (ps["step"], worker["step"]) == (None, None)
    asked = run.start("status", "--address", f"127.0.0.1:{run.port}", env={})
    assert asked.wait() == 0
    asked.wait_for(
        r"^mnist: leading, generation 1, restarts 0 of 2, run \w+ for \d+ s, progress \d+ s ago$"
    )
    asked.wait_for("^  worker-0  running, step 7 of 9$")
    (run.folder / "go").touch()
    assert controller.wait() == 0
    gone = run.start("status", "--address", f"127.0.0.1:{run.port}", env={})
    assert gone.wait() == 75
    gone.wait_for("no controller answers at 127")


def test_a_copy_of_each_childs_output_outlives_it(run: Run) -> None:
    run.tasks("ps-0", "worker-0")
    one = {"ps": 1, "worker": 1}
    logs = run.folder / "logs"
    served = f"until [ -s {logs}/0123456789ab/1-ps-0.log ]; do sleep 0.02; done"
    script = f"{served}; printf 'one\\n\\n\\377two'; [ $TFRUN_GENERATION = 2 ]"
    controller = run.controller(script, logs=str(logs), replicas=one)
    assert controller.wait() == 0
    for generation in (1, 2):
        copy = logs / "0123456789ab" / f"{generation}-worker-0.log"
        assert copy.read_bytes() == b"one\n\n\xfftwo"
    assert (logs / "0123456789ab" / "1-ps-0.log").read_text().startswith("serving grpc://")


def test_logs_that_cannot_be_written_stop_nothing(run: Run) -> None:
    tasks = run.tasks()
    controller = run.controller("echo hello", logs="/proc/no/such")
    assert controller.wait() == 0
    tasks[1].wait_for("logs must name a folder that tasks can write to: ")
    tasks[1].wait_for("^hello")


def test_after_the_end_its_tasks_know_that_it_has_ended(run: Run) -> None:
    tasks = [run.task(name, TFRUN_LEAVE="") for name in ("ps-0", "worker-0", "worker-1")]
    assert run.controller("exit 0").wait() == 0
    again = run.controller("exit 0")
    assert again.wait() == 0
    assert message(run.folder / "end.json")["reason"].startswith("ended already")
    for task in tasks:
        task.signal(signal.SIGTERM)
        assert task.wait() == 143
    assert [programs(task) for task in tasks] == [0, 1, 1]


# A controller's mistakes.


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


# Whoever else speaks to it.


def ask(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(data)
        answer = b""
        while chunk := client.recv(65536):
            answer += chunk
        return answer


def post(body: bytes, head: str = "") -> bytes:
    return f"POST {PATH} HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


REPORT = encode_report(Report(Task("worker", 0), "me", 1, "", "", None, None, False))


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400, b"the request line is wrong"),
        (b"GET / HTTP/1.1\r\n\r\n", 404, b"there are /v1/report and /v1/status"),
        (b"GET /v1/report HTTP/1.1\r\n\r\n", 405, b"takes POST"),
        (b"POST /v1/report HTTP/1.1\r\nX: " + b"x" * 20_000, 431, b"the header is too long"),
        (b"POST /v1/report HTTP/1.1\r\nContent-Length: 99999999999999\r\n\r\n", 413, b"65536"),
        (b"POST /v1/report HTTP/1.1\r\nContent-Length: 65537\r\n\r\n", 413, b"longer than"),
        (b"POST /v1/report HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 411, b"Content-Length"),
        (b"POST /v1/report HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411, b"Content-Le"),
        (post(b"{"), 400, b"the message is not JSON"),
        (post(b"[" * 60_000), 400, b"the message is not JSON"),
        (post(b"{}"), 400, b"version must be 1"),
        (post(REPORT.replace(b"worker-0", b"boss-0")), 400, b"task must be a role"),
        (post(b'{"version": 1, "task": "\\ud800"}'), 400, b"task must be a role"),
    ],
)
def test_what_no_task_sends_is_refused_and_harms_nothing(
    serving: Callable[[], int], data: bytes, status: int, words: bytes
) -> None:
    answer = ask(serving(), data)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert words in body


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The port of a controller that everybody abuses; it lives on."""
    folder = tmp_path_factory.mktemp("serving")
    launchers: list[Launcher] = []

    def start(*arguments: str, **options: Any) -> Launcher:
        launchers.append(Launcher(*arguments, **options))
        return launchers[-1]

    run = Run(start, folder)
    controller = run.controller()
    controller.wait_for("^.*run 0123456789ab: ")

    def port() -> int:
        assert controller.process.poll() is None
        return run.port

    yield port
    assert directive_of(port()) is Action.WAIT
    controller.signal(signal.SIGTERM)
    assert controller.wait() == 143
    assert "Traceback" not in str(controller)
    controller.kill()


def directive_of(port: int) -> Action:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(post(REPORT))
        answer = b""
        while b"\r\n\r\n" not in answer or b'"cleanup"' not in answer:
            answer += client.recv(65536)
    directive = decode_directive(answer.partition(b"\r\n\r\n")[2])
    assert directive
    return directive.action


def test_slow_and_silent_clients_hold_up_nobody(serving: Callable[[], int]) -> None:
    clients = [socket.create_connection(("127.0.0.1", serving())) for _ in range(200)]
    for i, client in enumerate(clients):
        client.sendall(post(REPORT)[: i % 40])
    begin = time.monotonic()
    assert directive_of(serving()) is Action.WAIT
    assert time.monotonic() - begin < 30
    for client in clients:
        client.close()


def test_clients_that_go_away_leave_no_descriptor(serving: Callable[[], int]) -> None:
    import psutil

    serving()
    (controller,) = (
        p
        for p in psutil.Process().children()
        if "controller" in p.cmdline() and str(serving()) in p.environ().get("TFRUN_LISTEN", "")
    )
    assert directive_of(serving()) is Action.WAIT
    before = controller.num_fds()
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", serving())) as client:
            client.sendall(post(REPORT.replace(b'"wait": false', b'"wait": true')))
    wait_until(lambda: controller.num_fds() <= before + 5, "the controller closes its sockets")


def test_a_directive_from_another_version_is_said_and_not_followed(start: Start) -> None:
    """The other end is a fake: it answers as a controller of another release would."""
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
