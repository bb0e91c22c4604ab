"""`launcher local`: how it runs, stops and fails as processes of this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from launcher.shared.cluster_spec import PORTS_PER_ROLE
from tests.unit.code.wheels import wheel
from tests.unit.conftest import Start
from tests.unit.processes import ROOT, Launcher, lives, wait_until

LOOP = "while :; do sleep 0.02; done"
# In the folder that holds the work folders of all tasks.
GO = "../../go"
UNTIL_GENERATION_2 = (
    f"[ $TFRUN_GENERATION = 2 ] && touch {GO}; while [ ! -e {GO} ]; do sleep 0.02; done"
)


class Local:
    """Starts `launcher local` with values, given as mappings or texts."""

    def __init__(self, start: Start, folder: Path) -> None:
        self.start = start
        self.folder = folder
        self.code = folder / "code"
        self.code.mkdir()
        (self.code / "program").write_text("x")

    def __call__(self, *values: Mapping[str, Any] | str, flags: tuple[str, ...] = ()) -> Launcher:
        arguments = []
        for i, each in enumerate(values):
            file = self.folder / f"values-{i}.yaml"
            file.write_text(each if isinstance(each, str) else yaml.safe_dump(dict(each)))
            arguments += ["-f", str(file)]
        if "--code" not in flags:
            arguments += ["--code", str(self.code)]
        return self.start("local", *arguments, *flags, env={})


# Values of a short run.
TINY = {"chiefFirst": False, "grace": 1, "worker": {"replicas": 1}}


@pytest.fixture
def local(start: Start, tmp_path: Path) -> Local:
    return Local(start, tmp_path)


def sh(script: str, **values: Any) -> dict[str, Any]:
    """Values of a shell script. It prints no step, so the workers do not wait for the chief."""
    program = {"command": ["sh", "-c", script]}
    return {"program": program, "grace": 1, "chiefFirst": False, **values}


def gone(launcher: Launcher, *pids: int) -> None:
    """Waits until these processes are gone. Nothing is left of the run: no folder, no process."""
    wait_until(lambda: not any(lives(pid) for pid in pids), "all processes are gone")
    folder = launcher.wait_for(r"code \w+ is in (\S+)/worker-\d/code$")[1]
    assert not Path(folder).exists()
    for process in psutil.process_iter(["environ"]):
        environ = process.info["environ"] or {}
        assert not any(folder in value for value in environ.values()), process


def test_a_run_succeeds_with_prefixed_lines(local: Local) -> None:
    launcher = local(sh('echo "task $TASK_INDEX of $JOB_NAME"'))
    assert launcher.wait() == 0
    for line in ("worker-0   | task 0 of worker", "worker-1   | task 1 of worker"):
        assert line in launcher.lines
    launcher.wait_for(r"^controller \| .* the run has succeeded: all 2 workers ended")
    gone(launcher)


def test_bars_of_several_tasks_are_shown_while_they_are_drawn(local: Local, tmp_path: Path) -> None:
    go = tmp_path / "go"
    launcher = local(
        sh(f"printf '\\r10%%'; while [ ! -e {go} ]; do sleep 0.02; done; printf '\\r20%%\\n'")
    )
    for task in ("worker-0", "worker-1"):
        launcher.wait_for(rf"^{task}   \| 10%$")
    go.touch()
    assert launcher.wait() == 0
    for task in ("worker-0", "worker-1"):
        assert f"{task}   | 20%" in launcher.lines


def test_env_reaches_the_program_and_the_rest_is_named_once(local: Local) -> None:
    secret = {"secretKeyRef": {"name": "s", "key": "k"}}
    launcher = local(
        sh(
            'echo "A is $A"',
            env=[{"name": "A", "value": "a b"}, {"name": "KEY", "valueFrom": secret}],
            volumes=[{"name": "d", "mountPath": "/d", "emptyDir": {}}],
            image={"tag": "x"},
            worker={"replicas": 1},
        )
    )
    assert launcher.wait() == 0
    assert "worker-0   | A is a b" in launcher.lines
    for words in (
        "these values have no effect in a local run: image, volumes",
        "env KEY has a valueFrom, which only a cluster can read: tasks get KEY from your shell",
    ):
        assert len([line for line in launcher.lines if words in line]) == 1, words


def test_a_failing_program_gives_its_code_and_last_lines(local: Local) -> None:
    launcher = local(sh("echo bad data; exit 42", restarts={"limit": 0}, worker={"replicas": 1}))
    assert launcher.wait() == 42
    launcher.wait_for(r"^controller \| .*the run has failed: worker-0 failed: exit code 42")
    launcher.wait_for(r"^controller \|\s+bad data")


def started_by(launcher: Launcher) -> list[int]:
    return [process.pid for process in psutil.Process(launcher.pid).children(recursive=True)]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
def test_a_run_that_is_stopped_leaves_nothing(local: Local, number: int, code: int) -> None:
    deaf = "trap '' TERM INT; (setsid sleep 1000 &); echo $$; " + LOOP
    launcher = local(sh(deaf))
    for worker in (0, 1):
        launcher.wait_for(rf"^worker-{worker} +\| \d+$")
    # The controller and three tasks, their children, and what two of these have started.
    wait_until(lambda: len(started_by(launcher)) >= 9, "all of them run")
    mine = started_by(launcher)
    os.killpg(launcher.pid, number)  # as a terminal does
    assert launcher.wait() == code
    launcher.wait_for("^worker-1 .*the child ended, as it was told to: killed by SIGKILL")
    gone(launcher, *mine)


def test_a_second_signal_ends_a_local_run_without_its_grace(local: Local) -> None:
    launcher = local(sh(f"trap 'echo asked' TERM; echo ready; {LOOP}", grace=1000))
    launcher.wait_for("ready$")
    mine = started_by(launcher)
    launcher.signal(signal.SIGINT)
    launcher.wait_for("asked$")
    launcher.signal(signal.SIGINT)
    assert launcher.wait() == 130
    gone(launcher, *mine)


@pytest.mark.parametrize("role", ["worker-1", "ps-0"])
def test_a_killed_program_is_restarted(local: Local, role: str) -> None:
    launcher = local(sh(UNTIL_GENERATION_2))
    pid = int(launcher.wait_for(rf"^{role} .*generation 1: started .*process (\d+)")[1])
    os.kill(pid, signal.SIGKILL)
    assert launcher.wait() == 0
    launcher.wait_for(f"the cause: {role}: killed by SIGKILL")


def test_the_program_of_a_killed_launcher_is_killed_and_both_restart(local: Local) -> None:
    launcher = local(sh(UNTIL_GENERATION_2))
    pid = int(launcher.wait_for(r"^worker-1 .*generation 1: started .*process (\d+)")[1])
    parent = psutil.Process(pid).ppid()
    os.kill(parent, signal.SIGKILL)
    launcher.wait_for("worker-1: its launcher was killed by SIGKILL .*; restarting it")
    launcher.wait_for("generation 2: worker-1 start")
    assert not lives(pid)
    assert launcher.wait() == 0


def test_a_killed_controller_ends_the_run(local: Local) -> None:
    launcher = local(sh(LOOP))
    launcher.wait_for("generation 1: started sh")
    (controller,) = (
        p for p in psutil.Process(launcher.pid).children() if p.cmdline()[-1] == "controller"
    )
    mine = started_by(launcher)
    controller.kill()
    assert launcher.wait() == 70
    gone(launcher, *mine)


def test_a_program_that_does_not_exist_ends_the_run_with_127(local: Local) -> None:
    launcher = local({"program": {"command": ["no-such-program"]}})
    assert launcher.wait() == 127
    launcher.wait_for("'no-such-program' is not found")


def test_all_mistakes_in_the_values_are_reported_together(local: Local) -> None:
    launcher = local(
        {
            "wroker": {"replicas": 2},
            "worker": {"replicas": 0, "size": 1},
            "ps": {"replicas": "two"},
            "program": {"command": [], "args": "x", "env": {"A B": 1}},
            "restarts": 5,
            "mode": "ring",
            "success": "Both",
            "grace": -1,
        },
        flags=("--code", "/no/such/folder"),
    )
    assert launcher.wait() == 78
    for mistake in (
        "wroker must be left out: it is not a known key in .*values-0.yaml",
        "worker.size must be left out: it is not a known key",
        "restarts must be a mapping; got 5",
        "--code must name a folder; got '/no/such/folder'",
        "worker.replicas must be a whole number from 1 to 100000; got 0",
        'ps.replicas must be a whole number from 1 to 100000; got "two"',
        "program.command must be a list of at least one string",
        'program.args must be a list of strings; got "x"',
        "program.env must be a mapping of variable names to strings",
        'mode must be one of parameter-server, coordinator, all-reduce; got "ring"',
        "success must be one of AllWorkers, Chief",
        "grace must be seconds, 0 or more; got -1",
    ):
        launcher.wait_for(mistake)
    assert "Traceback" not in str(launcher)
    assert "started" not in str(launcher)


def test_missing_packages_are_named_with_the_command_that_installs_them() -> None:
    bare = [sys.executable, "-S", "-m", "launcher", "local", "-f", "values.yaml"]  # no packages
    done = subprocess.run(bare, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 78
    assert done.stderr.endswith("-m pip install PyYAML psutil\n")
    assert len(done.stderr.splitlines()) == 1


def test_a_values_file_that_does_not_exist_is_named(start: Start) -> None:
    launcher = start("local", "-f", "/no/such.yaml", env={})
    assert launcher.wait() == 78
    launcher.wait_for("/no/such.yaml must be a readable YAML file")


def test_code_that_only_a_cluster_can_mount_is_refused(start: Start, tmp_path: Path) -> None:
    (tmp_path / "v.yaml").write_text("code: {nfs: {server: s, path: /p}}")
    launcher = start("local", "-f", str(tmp_path / "v.yaml"), env={})
    assert launcher.wait() == 78
    launcher.wait_for("--code must name the folder of the program: only a cluster mounts code.nfs")


def test_code_inline_runs_without_a_cluster(start: Start, tmp_path: Path) -> None:
    program = {"command": ["python", "train.py"]}
    values = {"code": {"inline": {"train.py": "import lib.it", "lib/it.py": "print('here')"}}}
    (tmp_path / "v.yaml").write_text(yaml.safe_dump({**values, "program": program, **TINY}))
    launcher = start("local", "-f", str(tmp_path / "v.yaml"), env={})
    assert launcher.wait() == 0, str(launcher)
    assert "worker-0   | here" in launcher.lines


def test_requirements_and_the_digest_reach_the_program(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(local.code))
    wheel(local.code, "tiny")
    (local.code / "requirements.txt").write_text("tiny==1.0\n")
    script = "import os, tiny; os.system('tiny'); print(os.environ['TFRUN_CODE_DIGEST'])"
    program = {"command": ["python", "-c", script]}
    values = {"program": program, "code": {"requirements": True}, **TINY}
    launcher = local(values)
    assert launcher.wait() == 0, str(launcher)
    digest = launcher.wait_for(r"code (\w{32}) is in")[1]
    told = ["worker-0   | tiny 1.0", f"worker-0   | {digest}"]  # other tasks may print in between
    assert [line for line in launcher.lines if line in told] == told

    (local.code / "requirements.txt").write_text("no-such-thing\n")
    launcher = local({**values, "restarts": {"limit": 0}})
    assert launcher.wait() == 66
    launcher.wait_for("the run has failed: .*pip can never install requirements.txt")
    launcher.wait_for(r"^controller \|\s+ERROR: No matching distribution found for no-such-thing")

    pinned = {"requirements": False, "digest": digest}
    launcher = local({**values, "code": pinned})
    assert launcher.wait() == 66
    launcher.wait_for(f"must have the digest that code.digest says, {digest}; it has")


def test_the_code_example_runs_as_it_is(start: Start) -> None:
    values = ROOT / "examples" / "code" / "values.yaml"
    launcher = start("local", "-f", str(values), env={})
    assert launcher.wait() == 0, str(launcher)
    digest = launcher.wait_for(r"code (\w{32}) is in")[1]
    assert f"worker-1   | worker 1 has code {digest}" in launcher.lines


def test_ports_that_are_taken_are_named(local: Local) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        launcher = local(sh("true"), flags=("--port", str(port - PORTS_PER_ROLE)))
        assert launcher.wait() == 78
    # Other processes may have taken some of the other ports.
    launcher.wait_for(rf"ports (\d+, )*{port}\b.* are in use: give another --port")


def test_the_later_values_file_wins(local: Local) -> None:
    launcher = local(
        sh("echo $A $B", worker={"replicas": 1}), {"program": {"env": {"A": 1, "B": "x"}}},
        {"program": {"env": {"B": True, "A": None}}},
    )  # fmt: skip
    assert launcher.wait() == 0
    assert "worker-0   | true" in launcher.lines
