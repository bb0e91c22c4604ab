"""Children, launchers and pods that are lost in the middle of a run, and what restarts."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys

import pytest

from tests.unit.processes import lives
from tests.unit.runs.run import LOOP, Run, child, programs


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


def test_a_killed_ps_restarts_all_tasks(run: Run) -> None:
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


def test_a_coordinator_restarts_only_after_its_ps_answers(run: Run) -> None:
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


def test_a_task_that_fails_again_waits_before_it_restarts(run: Run) -> None:
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
        ("the same", 1, "ps-0 failed: killed together with its launcher, perhaps out of memory"),
        ("another", 0, "its pod or its launcher was restarted; not charged"),
        ("after a reboot", 0, "its pod or its launcher was restarted; not charged"),
    ],
)
def test_a_launcher_killed_with_its_child_is_charged_only_in_the_same_pod(
    run: Run, pod: str, code: int, told: str
) -> None:
    """Only if the pod stays can it be the program's fault."""
    tasks = run.tasks()
    controller = run.controller("[ $TFRUN_GENERATION = 2 ] || sleep 1000", restarts__limit=0)
    left = child(tasks[0], 1)
    tasks[0].signal(signal.SIGKILL)
    tasks[0].wait()
    os.kill(left, signal.SIGKILL)  # as the kernel does when a container ends
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
    """When its node is drained, and when `helm uninstall` ends all pods and the controller."""
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
        controller.wait_for("lost ps-0: its pod is terminating; all tasks stop")
        (run.folder / "go").touch()
        run.task("ps-0", TFRUN_POD_IP="127.0.0.1", TFRUN_WORK=str(run.folder / "another"))
        assert controller.wait() == 0


def test_a_stopped_ps_does_not_wait_for_its_chief_for_ever(run: Run) -> None:
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


def test_the_next_generation_waits_until_a_program_that_ignores_sigterm_is_killed(run: Run) -> None:
    tasks = run.tasks()
    script = f"[ $TFRUN_GENERATION = 2 ] || {{ trap '' TERM; echo ready; {LOOP}; }}"
    controller = run.controller(script, grace=1)
    deaf = child(tasks[1], 1)
    tasks[1].wait_for("^ready")
    os.kill(child(tasks[0], 1), signal.SIGKILL)
    controller.wait_for("generation 2: all tasks start")
    assert not lives(deaf)
    assert controller.wait() == 0


def test_a_program_that_hangs_is_restarted(run: Run) -> None:
    tasks = run.tasks()
    steps = "i=0; while [ $TASK_INDEX = 0 ]; do i=$((i + 1)); echo step $i; sleep 0.1; done"
    script = f"[ $TFRUN_GENERATION = 2 ] && exit; {steps}; echo silent; {LOOP}"
    controller = run.controller(script, hangTimeout=2)
    tasks[2].wait_for(r"no progress for \d+ s")
    controller.wait_for("lost worker-1: no progress for 2 s; all tasks stop")
    assert controller.wait() == 0
    controller.wait_for("the cause: worker-1: no progress for 2 s; restart 1 of 2")
    assert tasks[1].wait() == 0
    assert programs(tasks[1]) == 2, "a hang restarts all tasks"


def test_a_program_that_draws_a_bar_does_not_hang(run: Run) -> None:
    """The bar is one line without an end, and the step that was printed first never moves."""
    run.tasks("ps-0", "worker-0")
    bar = "for i in 1 2 3 4 5 6 7 8; do printf '\\r%s/8' $i; sleep 0.5; done"
    one = {"ps": 1, "worker": 1}
    controller = run.controller(f"echo restored step 1; {bar}; echo", hangTimeout=2, replicas=one)
    assert controller.wait() == 0
    assert not any("no progress" in line for line in controller.lines)


def test_a_finished_worker_in_a_new_pod_does_not_train_again(run: Run) -> None:
    tasks = run.tasks()
    script = "[ $TASK_INDEX = 0 ] || " + run.until_go()
    controller = run.controller(script)
    tasks[1].wait_for("the child ended: exit code 0")
    child(tasks[2], 1)
    tasks[1].signal(signal.SIGTERM)  # then it sends a last report before it ends
    assert tasks[1].wait() == 143
    again = run.task("worker-0")
    again.wait_for("^serving grpc://")
    (run.folder / "go").touch()
    assert controller.wait() == 0
    assert again.wait() == 0
    assert programs(again) == 0


def test_a_finished_workers_address_answers_while_others_train(run: Run) -> None:
    tasks = run.tasks()
    controller = run.controller("[ $TASK_INDEX = 0 ] || " + run.until_go())
    tasks[1].wait_for("the child ended: exit code 0")
    tasks[1].wait_for(r"generation 1: started \S*python\S* \S*/tensorflow_server.py")
    port = int(tasks[1].wait_for(r"^serving grpc://127\.0\.0\.1:(\d+)")[1])
    socket.create_connection(("127.0.0.1", port)).close()
    os.kill(child(tasks[2], 1), signal.SIGKILL)  # does not concern worker-0
    child(tasks[2], 2)
    socket.create_connection(("127.0.0.1", port)).close()
    (run.folder / "go").touch()
    assert controller.wait() == 0
    assert [task.wait() for task in tasks] == [0, 0, 0]
    assert programs(tasks[1]) == 1
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
