"""The arguments and variables that a task's child is started with."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from launcher.code.pull import Pulled
from launcher.shared.identity import Task
from launcher.shared.protocol import Action, Directive, Leader
from launcher.task import invocation
from launcher.task.invocation import SERVER, Invocation
from tests.unit.jobs import job

CODE = Path("/work/code")
PULLED = Pulled(CODE, "0a" * 16)
READY = Path("/work/ready-7")
WORKER = Task("worker", 1)
WORKERS = "mnist-worker-0.mnist:2222,mnist-worker-1.mnist:2222"


def directive(hosts: Mapping[Task, str] | None = None, **changes: Any) -> Directive:
    return Directive(Leader(1, "me"), Action.RUN, 7, 0, job(**changes), 0, "", hosts or {})


def program(
    task: Task = WORKER, environ: dict[str, str] | None = None, **changes: Any
) -> Invocation:
    return invocation.program(directive(**changes), task, PULLED, READY, environ or {})


def test_the_cluster_reaches_the_program_by_tf_config_variables_and_flags() -> None:
    told = program(program__flags=True)
    assert told.argv == (
        "python",
        "train.py",
        "--steps",
        "5",
        "--ps_hosts=mnist-ps-0.mnist:2222",
        f"--worker_hosts={WORKERS}",
        "--job_name=worker",
        "--task_index=1",
    )
    assert json.loads(told.env["TF_CONFIG"]) == {
        "cluster": {"ps": ["mnist-ps-0.mnist:2222"], "worker": WORKERS.split(",")},
        "task": {"type": "worker", "index": 1},
    }
    assert {name: told.env[name] for name in told.env if name != "TF_CONFIG"} == {
        "LEVEL": "1",
        "PS_HOSTS": "mnist-ps-0.mnist:2222",
        "WORKER_HOSTS": WORKERS,
        "JOB_NAME": "worker",
        "TASK_INDEX": "1",
        "TFRUN_RUN": "0123456789ab",
        "TFRUN_GENERATION": "7",
        "TFRUN_READY": str(READY),
        "TFRUN_CODE_DIGEST": "0a" * 16,
        "PYTHONPATH": str(CODE),
        "PYTHONUNBUFFERED": "1",
    }


def test_flags_are_given_only_if_the_values_ask_for_them() -> None:
    assert program().argv == ("python", "train.py", "--steps", "5")


def test_flags_name_the_roles_of_the_mode() -> None:
    told = program(mode="all-reduce", replicas={"worker": 2}, program__flags=True)
    assert [word.partition("=")[0] for word in told.argv if "=" in word] == [
        *("--worker_hosts", "--job_name", "--task_index")
    ]


def test_an_evaluator_knows_the_cluster_that_it_is_not_in() -> None:
    told = program(Task("evaluator", 0), mode="all-reduce", replicas={"worker": 1, "evaluator": 1})
    assert json.loads(told.env["TF_CONFIG"]) == {
        "cluster": {"worker": ["mnist-worker-0.mnist:2222"]},
        "task": {"type": "evaluator", "index": 0},
    }
    assert "EVALUATOR_HOSTS" not in told.env


@pytest.mark.parametrize(
    "name", ["TF_CONFIG", "PS_HOSTS", "TASK_INDEX", "TFRUN_GENERATION", "TFRUN_READY"]
)
def test_a_programs_own_variables_never_hide_the_cluster(name: str) -> None:
    assert program(program__env={name: "mine"}).env[name] != "mine"


def test_the_launchers_own_variables_do_not_reach_the_program() -> None:
    told = program(environ={"TFRUN_CONTROLLER": "c:1", "TFRUN_ROLE": "worker", "HOME": "/root"})
    assert told.env["HOME"] == "/root"
    assert {name for name in told.env if name.startswith("TFRUN_")} == {
        *("TFRUN_RUN", "TFRUN_GENERATION", "TFRUN_READY", "TFRUN_CODE_DIGEST")
    }


@pytest.mark.parametrize(
    ("inherited", "path"), [({}, "/work/code"), ({"PYTHONPATH": "/a:/b"}, "/work/code:/a:/b")]
)
def test_the_code_folder_comes_first_in_pythonpath(inherited: dict[str, str], path: str) -> None:
    assert program(environ=inherited).env["PYTHONPATH"] == path


def test_installed_requirements_come_second_in_pythonpath() -> None:
    pulled = Pulled(CODE, "0a" * 16, Path("/work/requirements"))
    told = invocation.program(directive(), WORKER, pulled, READY, {"PYTHONPATH": "/a"})
    assert told.env["PYTHONPATH"] == "/work/code:/work/requirements/packages:/a"


def test_variables_of_the_values_replace_inherited_ones() -> None:
    told = program(environ={"LEVEL": "0", "PYTHONUNBUFFERED": ""})
    assert (told.env["LEVEL"], told.env["PYTHONUNBUFFERED"]) == ("1", "")


def test_a_program_starts_in_its_folder_of_the_code() -> None:
    assert program().cwd == CODE
    assert program(program__workingDir="src/a").cwd == CODE / "src/a"


# The built-in server.


@pytest.mark.parametrize(
    ("task", "given", "seen"),
    [
        (Task("ps", 0), {}, "-1"),
        (Task("ps", 0), {"CUDA_VISIBLE_DEVICES": "1"}, "1"),
        (Task("worker", 0), {}, None),
        (Task("worker", 0), {"CUDA_VISIBLE_DEVICES": "1"}, "1"),
    ],
)
def test_gpus_are_hidden_only_from_parameter_servers(
    task: Task, given: dict[str, str], seen: str | None
) -> None:
    assert invocation.server(directive(), task, None, given).env.get("CUDA_VISIBLE_DEVICES") == seen
    assert "CUDA_VISIBLE_DEVICES" not in program(task).env


def test_the_tensorflow_server_is_told_its_task_and_cluster() -> None:
    told = invocation.server(
        directive(), Task("ps", 0), None, {"TFRUN_CONTROLLER": "c:1", "A": "b"}
    )
    assert json.loads(told.env["TF_CONFIG"])["task"] == {"type": "ps", "index": 0}
    assert (told.env["A"], told.env["LEVEL"]) == ("b", "1")
    assert "TFRUN_CONTROLLER" not in told.env
    assert SERVER.exists()


@pytest.mark.parametrize(
    ("command", "working_dir", "python"),
    [
        ("python", "", "python"),
        ("python", "src", "python"),
        ("python3.12", "", "python3.12"),
        ("/opt/venv/bin/python3.12", "src", "/opt/venv/bin/python3.12"),
        ("venv/bin/python", "", "/work/code/venv/bin/python"),
        ("./python", "", "/work/code/python"),
        ("../venv/bin/python3", "src", "/work/code/src/../venv/bin/python3"),
        ("sh", "", sys.executable),
        ("./train", "", sys.executable),
        ("./python-train.sh", "", sys.executable),
        ("venv/bin/torchrun", "", sys.executable),
    ],
)
def test_the_tensorflow_server_runs_with_the_programs_python(
    command: str, working_dir: str, python: str
) -> None:
    runs = directive(program__command=[command], program__workingDir=working_dir)
    told = invocation.server(runs, Task("ps", 0), PULLED, {})
    assert told.argv == (python, str(SERVER))
    assert "PYTHONPATH" not in told.env


def test_the_tensorflow_server_finds_the_installed_requirements() -> None:
    pulled = Pulled(CODE, "0a" * 16, Path("/work/requirements"))
    told = invocation.server(directive(), Task("ps", 0), pulled, {"PYTHONPATH": "/a"})
    assert told.env["PYTHONPATH"] == "/work/requirements/packages:/a"


def test_a_stand_in_without_the_code_runs_with_the_launchers_python() -> None:
    runs = directive(program__command=["venv/bin/python"])
    assert invocation.server(runs, WORKER, None, {}).argv[0] == sys.executable
