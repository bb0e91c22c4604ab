"""job.json: what is read from it, its digests, and that each mistake is named by its key."""

from __future__ import annotations

import json
from typing import Any

import pytest

from launcher.shared.exits import LauncherError
from launcher.shared.identity import Task
from launcher.shared.job import job_of, read_job
from tests.unit.jobs import document, job
from tests.unit.shared.refusals import refusal

MISSING: Any = object()
ALL_MODES = "parameter-server, coordinator, all-reduce"


def test_a_job_is_read_whole() -> None:
    read = read_job(json.dumps(document()))
    assert read.release == "mnist"
    assert read.tasks == (Task("ps", 0), Task("worker", 0), Task("worker", 1))
    assert read.program.command == ("python", "train.py")
    assert read.program.env == {"LEVEL": "1"}
    assert str(read.source) == "code.image /app"
    assert read.restarts.permanent_codes == (2, 127)
    assert read.document == document()


def test_the_digest_of_a_job_does_not_depend_on_the_order_of_its_keys() -> None:
    turned = dict(reversed(document().items()))
    assert job().digest == job_of(turned).digest
    assert job(grace=2).digest != job().digest
    assert job(program__args=["--steps", "6"]).digest != job().digest


PROGRAM, CLUSTER = "program", "cluster"


@pytest.mark.parametrize(
    ("changes", "changed"),
    [
        ({"run": "another"}, {PROGRAM}),
        ({"program__args": ["--steps", "6"]}, {PROGRAM}),
        ({"code__image__path": "/app2"}, {PROGRAM}),
        ({"replicas__worker": 3}, {CLUSTER}),
        ({"addresses__port": 2223}, {CLUSTER}),
        ({"replicas__evaluator": 1}, set()),
        ({"grace": 2}, set()),
        ({"restarts__limit": 9}, set()),
        ({"success": "Chief"}, set()),
        ({"hangTimeout": 60}, set()),
        ({"pods": "another template"}, set()),
        ({"code__timeout": 7}, set()),
    ],
)
def test_the_program_and_cluster_digests_change_only_where_tasks_must_restart(
    changes: dict[str, Any], changed: set[str]
) -> None:
    before, after = job(), job(**changes)
    assert (before.program_digest != after.program_digest) == (PROGRAM in changed)
    assert (before.cluster_digest != after.cluster_digest) == (CLUSTER in changed)
    assert before.digest != after.digest


@pytest.mark.parametrize(
    ("mode", "replicas", "tasks"),
    [
        ("parameter-server", {"ps": 1, "worker": 1}, "ps-0 worker-0"),
        ("coordinator", {"chief": 1, "ps": 1, "worker": 2}, "chief-0 ps-0 worker-0 worker-1"),
        ("all-reduce", {"worker": 2}, "worker-0 worker-1"),
        ("all-reduce", {"worker": 1, "evaluator": 1}, "worker-0 evaluator-0"),
        ("all-reduce", {"worker": 1, "evaluator": 0}, "worker-0"),
    ],
)
def test_a_mode_has_its_roles(mode: str, replicas: dict[str, int], tasks: str) -> None:
    assert [str(task) for task in job(mode=mode, replicas=replicas).tasks] == tasks.split()


def test_a_role_of_another_mode_is_an_unknown_key() -> None:
    reason = refusal(document(mode="all-reduce", replicas={"ps": 1, "worker": 2}))
    assert "replicas.ps is not a known key; known are ['evaluator', 'worker']" in reason


def test_a_run_has_exactly_one_chief() -> None:
    reason = refusal(document(mode="coordinator", replicas={"chief": 2, "ps": 1, "worker": 1}))
    assert "replicas.chief must be a whole number from 1 to 1; got 2" in reason


@pytest.mark.parametrize("mode", ["coordinator", "all-reduce"])
def test_only_mode_parameter_server_lets_workers_join_alone(mode: str) -> None:
    reason = refusal(document(mode=mode, maxReplicas={"worker": 4}))
    rule = f"must be 0 in mode {mode}: tasks restart there when the size changes; got 4"
    assert f"maxReplicas.worker {rule}" in reason


@pytest.mark.parametrize(
    ("key", "value", "mistake"),
    [
        ("mode", "ring", f'mode must be one of {ALL_MODES}; got "ring"'),
        ("mode", ["x"], f'mode must be one of {ALL_MODES}; got ["x"]'),
        ("run", "", 'run must be a string; got ""'),
        ("run", MISSING, "run must be a string; got null"),
        ("replicas__ps", 0, "replicas.ps must be a whole number from 1 to 100000; got 0"),
        ("replicas__worker", True, "replicas.worker must be a whole number from 1 to 100000"),
        ("replicas__worker", "2", 'got "2"'),
        ("replicas__worker", 2.0, "replicas.worker must be a whole number"),
        ("replicas__chief", 1, "replicas.chief is not a known key; known are ['evaluator', 'ps'"),
        ("replicas__evaluator", 2, "replicas.evaluator must be a whole number from 0 to 1; got 2"),
        (
            "maxReplicas__worker",
            1,
            "maxReplicas.worker must be 0, or at least replicas.worker (2): it is how many workers "
            "the ClusterSpec lists; got 1",
        ),
        ("maxReplicas__ps", 1, "maxReplicas.ps is not a known key"),
        ("addresses__port", 65536, "addresses.port must be a whole number from 1 to 65535"),
        ("addresses__portsPerTask", "yes", "addresses.portsPerTask must be true or false"),
        ("program__command", [], "program.command must be a list of at least one string"),
        ("program__command", "python", "program.command must be a list of at least one string"),
        ("program__args", ["a", 1], 'program.args must be a list of strings; got ["a", 1]'),
        ("program__args", ["a\0b"], "program.args must be without NUL characters"),
        ("program__env", {"A": 1}, "program.env must be a mapping of variable names to strings"),
        ("program__env", {"A=B": "1"}, "program.env must be a mapping of variable names"),
        ("program__env", {"1A": "1"}, "program.env must be a mapping of variable names"),
        ("program__env", {"A": "\0"}, "program.env must be without NUL characters"),
        ("program__flags", "true", 'program.flags must be true or false; got "true"'),
        ("program__workingDir", "/src", "program.workingDir must be a folder inside the code"),
        ("program__workingDir", "a/../..", "program.workingDir must be a folder inside the code"),
        ("program__extra", 1, "program.extra is not a known key"),
        ("restarts__limit", -1, "restarts.limit must be a whole number from 0 to 1000000; got -1"),
        ("restarts__permanentCodes", [0], "restarts.permanentCodes must be a list of exit codes"),
        ("restarts__permanentCodes", [256], "restarts.permanentCodes must be a list of exit codes"),
        ("restarts__refill", -1, "restarts.refill must be seconds, 0 or more; got -1"),
        ("success", "All", 'success must be one of AllWorkers, Chief; got "All"'),
        ("chiefFirst", "yes", 'chiefFirst must be true or false; got "yes"'),
        ("checkpoints", None, "checkpoints must be a string; got null"),
        ("hangTimeout", "10m", 'hangTimeout must be seconds, 0 or more; got "10m"'),
        ("deadline", -1, "deadline must be seconds, 0 or more; got -1"),
        ("deadline", MISSING, "deadline must be seconds, 0 or more; got null"),
        ("logs", 3, "logs must be a string; got 3"),
        ("grace", -0.1, "grace must be seconds, 0 or more; got -0.1"),
        ("grace", float("nan"), "grace must be seconds, 0 or more; got NaN"),
        ("cleanup", "delete", 'cleanup must be one of Delete, Keep; got "delete"'),
        ("surprise", 1, "surprise is not a known key"),
    ],
)
def test_a_wrong_value_is_named(key: str, value: Any, mistake: str) -> None:
    changed = document(**{key: value})
    if value is MISSING:
        del changed[key]
    reason = refusal(changed)
    assert reason.startswith("1 mistake in the values:\n")
    assert mistake in reason


def test_all_mistakes_in_a_job_are_reported_together() -> None:
    reason = refusal(document(replicas__ps=0, program__command=[], grace="x", cleanup=None, a=1))
    lines = reason.splitlines()
    assert lines[0] == "5 mistakes in the values:"
    assert [line.split()[0] for line in lines[1:]] == [
        "replicas.ps", "program.command", "grace", "cleanup", "a",
    ]  # fmt: skip


@pytest.mark.parametrize("version", [None, 0, 2, "1", MISSING])
def test_another_version_is_refused_before_anything_else(version: Any) -> None:
    changed = document(version=version, mode="unheard of")
    if version is MISSING:
        del changed["version"]
    reason = refusal(changed)
    told = "null" if version is MISSING else json.dumps(version)
    assert reason.startswith(f"job.json has version {told}; this launcher reads version 1: ")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '"text"', b"\xff"])
def test_a_text_that_is_no_job_is_refused(text: str | bytes) -> None:
    with pytest.raises(LauncherError, match=r"job\.json"):
        read_job(text)
