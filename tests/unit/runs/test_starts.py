"""When the tasks of a run start: with the same code, and the chief first."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest

from tests.unit.processes import message
from tests.unit.runs.run import Run, child, programs


def test_tasks_wait_until_all_have_the_same_code(run: Run, tmp_path: Path) -> None:
    """Each task has a mount of its own here, because NFS caches may show tasks different files."""
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


@pytest.mark.parametrize(
    "sign", ["echo step 1", "touch $TFRUN_READY", "touch $CHECKPOINTS/model-1.index"]
)
def test_the_other_workers_start_when_the_chief_is_up(run: Run, sign: str) -> None:
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


CHIEF_THAT_CALLS = """
import os, socket, sys, time
from pathlib import Path
if os.environ["TASK_INDEX"] == "1":
    while not Path(sys.argv[1], "go").exists(): time.sleep(0.02)
    sys.exit()
host, _, port = os.environ["WORKER_HOSTS"].split(",")[1].rpartition(":")
server = None
while not Path(sys.argv[1], "call").exists(): time.sleep(0.02)
try:
    socket.create_connection((host, int(port))).recv(1)
except ConnectionError as error:
    print("called:", error, flush=True)
while not Path(sys.argv[1], "go").exists(): time.sleep(0.02)
"""


def test_the_other_workers_start_when_the_chief_connects_to_one_of_them(run: Run) -> None:
    """And then together with it, whenever all tasks restart."""
    (run.code / "call.py").write_text(CHIEF_THAT_CALLS)
    tasks = run.tasks()
    controller = run.controller(
        chiefFirst=True,
        program__command=[sys.executable, "call.py"],
        program__args=[str(run.folder)],
    )
    controller.wait_for("generation 1: all tasks start, worker-0 first")
    child(tasks[1], 1)
    assert not any(": started" in line for line in tasks[2].lines)
    (run.folder / "call").touch()
    controller.wait_for("the chief's session connects to the other workers, so they start now")
    child(tasks[2], 1)
    tasks[1].wait_for("^called: ")
    os.kill(child(tasks[0], 1), signal.SIGKILL)
    controller.wait_for("generation 2: all tasks start$")
    child(tasks[2], 2)
    (run.folder / "go").touch()
    assert controller.wait() == 0


@pytest.mark.parametrize("working_dir", ["", "src"])
def test_a_venv_in_the_code_runs_the_programs_and_the_parameter_servers(
    run: Run, working_dir: str
) -> None:
    folder = run.code / working_dir
    folder.mkdir(exist_ok=True)
    venv.create(folder / "venv", symlinks=True)
    (folder / "train.py").write_text(
        "import os, sys, time\n"
        f"while not os.path.exists({str(run.folder / 'go')!r}): time.sleep(0.02)\n"
        "print('in', sys.prefix)\n"
    )
    tasks = run.tasks()
    controller = run.controller(
        program__command=["venv/bin/python", "train.py"], program__workingDir=working_dir
    )
    tasks[0].wait_for(r"^serving grpc://")
    (run.folder / "go").touch()
    assert controller.wait() == 0
    tasks[1].wait_for(f"^in {run.folder / 'worker-0' / 'code' / working_dir / 'venv'}$")
    python = run.folder / "ps-0" / "code" / working_dir / "venv/bin/python"
    tasks[0].wait_for(rf": started {python} \S*/tensorflow_server.py")
