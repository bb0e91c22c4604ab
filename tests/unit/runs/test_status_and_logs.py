"""What a run shows while it trains: its status, and a copy of each child's output."""

from __future__ import annotations

from tests.unit.runs.run import Run, child


def test_the_status_shows_each_tasks_state_and_progress(run: Run) -> None:
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
    assert (chief["globalStep"], chief["totalSteps"]) == (7, 9)
    assert (ps["globalStep"], worker["globalStep"]) == (None, None)
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


def test_the_log_shows_the_epochs_of_a_program_that_prints_no_steps(run: Run) -> None:
    run.tasks("ps-0", "worker-0")
    script = f"echo Epoch 1/3; printf '\\r12/99'; {run.until_go()}"
    controller = run.controller(script, replicas={"ps": 1, "worker": 1})
    controller.wait_for("epoch 1 of 3$")
    (run.folder / "go").touch()
    assert controller.wait() == 0


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
        assert copy.read_bytes() == b"one\n\n\xfftwo\n"
    assert (logs / "0123456789ab" / "1-ps-0.log").read_text().startswith("serving grpc://")


def test_a_logs_folder_that_cannot_be_written_does_not_stop_the_run(run: Run) -> None:
    tasks = run.tasks()
    controller = run.controller("echo hello", logs="/proc/no/such")
    assert controller.wait() == 0
    tasks[1].wait_for("logs must name a folder that tasks can write to: ")
    tasks[1].wait_for("^hello")
