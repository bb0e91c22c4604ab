"""What a task reads from its environment, with a controller and without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.shared.exits import ExitCode, LauncherError
from launcher.task.environment import task_settings

ALL_MODES = "parameter-server, coordinator, all-reduce"
POD = {"TFRUN_ROLE": "worker", "TFRUN_POD_NAME": "mnist-worker-1", "TFRUN_TERMINATION_LOG": ""}
ALONE = {**POD, "PS_REPLICAS": "1", "WORKER_REPLICAS": "2"}


def environment_refusal(environ: dict[str, str], *program: str, flags: bool = False) -> list[str]:
    with pytest.raises(LauncherError) as error:
        task_settings(environ, program, flags)
    assert error.value.exit_code is ExitCode.CONFIGURATION
    count, *mistakes = error.value.reason.splitlines()
    assert count.split()[0] == str(len(mistakes))
    return [mistake.strip() for mistake in mistakes]


def test_a_task_with_a_controller_reads_no_job() -> None:
    settings = task_settings(
        {
            **POD,
            "TFRUN_CONTROLLER": "mnist-controller:2220",
            "TFRUN_SOURCE": "/tfrun/source",
            "TFRUN_SECRET": "/tfrun/secret",
        }
    )
    assert settings.controller == ("mnist-controller", 2220)
    assert settings.job is None
    assert settings.source == Path("/tfrun/source")
    assert settings.secret == Path("/tfrun/secret")
    assert settings.work.is_absolute()
    assert not settings.leave


def test_a_task_without_a_controller_makes_its_job_from_the_environment() -> None:
    settings = task_settings({**ALONE, "TFRUN_SERVICE": "mnist"}, ["python", "train.py"], True)
    assert settings.controller is None
    assert settings.job
    assert settings.job.addresses.host == "mnist-{role}-{index}.mnist"
    assert settings.job.addresses.port == 2222
    assert settings.job.program.command == ("python", "train.py")
    assert settings.job.program.flags


def test_a_task_without_a_controller_may_be_of_any_mode() -> None:
    variables = {**POD, "TFRUN_MODE": "all-reduce", "WORKER_REPLICAS": "2"}
    settings = task_settings({**variables, "EVALUATOR_REPLICAS": "1"}, ["a"])
    assert settings.job
    assert settings.job.mode.name == "all-reduce"
    assert settings.job.replicas == {"worker": 2, "evaluator": 1}


@pytest.mark.parametrize(
    ("changes", "host"),
    [
        ({}, "mnist-{role}-{index}"),
        ({"TFRUN_POD_NAME": "worker-1"}, "{role}-{index}"),
        ({"TFRUN_POD_NAME": "node-1", "TFRUN_SERVICE": "train"}, "{role}-{index}.train"),
        ({"TFRUN_HOST": "10.0.0.{index}"}, "10.0.0.{index}"),
    ],
)
def test_a_task_without_a_controller_guesses_the_names_of_the_others(
    changes: dict[str, str], host: str
) -> None:
    settings = task_settings({**ALONE, **changes}, ["a"])
    assert settings.job
    assert settings.job.addresses.host == host


@pytest.mark.parametrize(
    ("changes", "mistake"),
    [
        (
            {"TFRUN_ROLE": "boss"},
            "TFRUN_ROLE must be one of chief, ps, worker, evaluator; got 'boss'",
        ),
        ({"TFRUN_POD_NAME": "mnist"}, "the pod's name must end in -<ordinal>"),
        ({"PS_REPLICAS": ""}, "PS_REPLICAS must be a whole number from 1 to 100000; got ''"),
        ({"PS_REPLICAS": "0"}, "PS_REPLICAS must be a whole number from 1 to 100000; got '0'"),
        ({"WORKER_REPLICAS": "two"}, "WORKER_REPLICAS must be a whole number"),
        ({"WORKER_REPLICAS": "1"}, "WORKER_REPLICAS must be more than this task's ordinal"),
        ({"TFRUN_PORT": "65536"}, "TFRUN_PORT must be a whole number from 1 to 65535"),
        ({"TFRUN_MODE": "ring"}, f"TFRUN_MODE must be one of {ALL_MODES}; got 'ring'"),
        ({"TFRUN_MODE": "coordinator"}, "CHIEF_REPLICAS must be a whole number from 1"),
        ({"EVALUATOR_REPLICAS": "2"}, "EVALUATOR_REPLICAS must be a whole number from 0 to 1"),
        ({"TFRUN_ROLE": "chief"}, "CHIEF_REPLICAS must be more than this task's ordinal: this is"),
        ({"TFRUN_GRACE": "-1"}, "TFRUN_GRACE must be a whole number from 0"),
        ({"TFRUN_PEERS_TIMEOUT": "0"}, "TFRUN_PEERS_TIMEOUT must be a whole number from 1"),
        ({"TFRUN_LEAVE": "yes"}, "TFRUN_LEAVE must be true or false; got 'yes'"),
        ({"TFRUN_CONTROLLER": "host"}, "TFRUN_CONTROLLER must be host:port; got 'host'"),
        ({"TFRUN_CONTROLLER": ":1"}, "TFRUN_CONTROLLER must be host:port; got ':1'"),
    ],
)
def test_a_wrong_variable_is_named(changes: dict[str, str], mistake: str) -> None:
    assert any(mistake in told for told in environment_refusal({**ALONE, **changes}, "a"))


def test_all_wrong_variables_are_reported_together() -> None:
    wrong = {"WORKER_REPLICAS": "0", "TFRUN_PORT": "x", "TFRUN_LEAVE": "no"}
    nobody = {"TFRUN_ROLE": "boss", "TFRUN_POD_NAME": "mnist"}
    told = environment_refusal({**ALONE, **nobody, **wrong})
    assert [mistake.split()[0] for mistake in told] == [
        "TFRUN_ROLE", "the", "WORKER_REPLICAS", "a", "TFRUN_PORT", "TFRUN_LEAVE",
    ]  # fmt: skip
    assert "a program must follow --" in told[3]


def test_a_program_and_a_controller_exclude_each_other() -> None:
    (told,) = environment_refusal({**POD, "TFRUN_CONTROLLER": "c:1"}, "python")
    assert told.startswith("a program on the command line must be left out")
