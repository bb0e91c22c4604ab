"""The reader of job.json and of the environment: every mistake at once, by its key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.controller.environment import controller_settings
from launcher.shared.exits import Code, LauncherError
from launcher.shared.identity import Task
from launcher.shared.job import job_of, read_job
from launcher.task.environment import task_settings
from tests.unit.jobs import document, job

MISSING: Any = object()
ALL_MODES = "parameter-server, coordinator, all-reduce"


def refusal(changed: Any) -> str:
    with pytest.raises(LauncherError) as error:
        job_of(changed)
    assert error.value.code is Code.CONFIGURATION
    return error.value.reason


def test_a_job_is_read_whole() -> None:
    read = read_job(json.dumps(document()))
    assert read.release == "mnist"
    assert read.tasks == (Task("ps", 0), Task("worker", 0), Task("worker", 1))
    assert read.program.command == ("python", "train.py")
    assert read.program.env == {"LEVEL": "1"}
    assert str(read.source) == "code.image /app"
    assert read.restarts.permanent_codes == (2, 127)
    assert read.document == document()


def test_the_digest_names_the_text_and_not_the_order_of_its_keys() -> None:
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
def test_a_digest_names_what_a_change_must_restart(
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


def test_a_role_of_another_mode_is_no_key() -> None:
    reason = refusal(document(mode="all-reduce", replicas={"ps": 1, "worker": 2}))
    assert "replicas.ps is not a known key; known are ['evaluator', 'worker']" in reason


def test_a_chief_is_one() -> None:
    reason = refusal(document(mode="coordinator", replicas={"chief": 2, "ps": 1, "worker": 1}))
    assert "replicas.chief must be a whole number from 1 to 1; got 2" in reason


@pytest.mark.parametrize("mode", ["coordinator", "all-reduce"])
def test_workers_join_alone_in_one_mode_only(mode: str) -> None:
    reason = refusal(document(mode=mode, maxReplicas={"worker": 4}))
    assert f"maxReplicas.worker must be 0 in mode {mode}: its tasks start again" in reason


def test_an_nfs_source_says_where_it_is() -> None:
    read = job(code={"nfs": {"server": "nfs.example.com", "path": "/exports/app"}})
    assert str(read.source) == "code.nfs nfs.example.com:/exports/app"


SHA256, COMMIT = "0a" * 32, "0b" * 20


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ({"claim": {"name": "code", "subPath": "a/b"}}, "code.claim code:/a/b"),
        ({"claim": {"name": "code"}}, "code.claim code:/"),
        (
            {"archive": {"url": "https://e.com/a.tgz?x=1", "sha256": SHA256}},
            "code.archive https://e.com/a.tgz?x=1",
        ),
        ({"archive": {"url": "file:///a.zip", "sha256": SHA256}}, "code.archive file:///a.zip"),
        (
            {"git": {"url": "ssh://git@e.com/a.git", "ref": COMMIT}},
            "code.git ssh://git@e.com/a.git at 0b0b0b0b0b0b",
        ),
        ({"inline": {"train.py": "pass", "lib/x.py": ""}}, "code.inline"),
    ],
)
def test_a_source_is_read_and_says_what_it_is(code: dict[str, Any], told: str) -> None:
    read = job(code={**code, "requirements": True, "digest": "c" * 32, "timeout": 5})
    assert str(read.source) == told
    delivery = read.delivery
    assert (delivery.requirements, delivery.digest, delivery.timeout) == (True, "c" * 32, 5)


def archive(**changes: str) -> dict[str, Any]:
    return {"archive": {"url": "https://e.com/a", "sha256": SHA256, **changes}}


def git(**changes: str) -> dict[str, Any]:
    return {"git": {"url": "https://e.com/a", "ref": COMMIT, **changes}}


@pytest.mark.parametrize(
    ("key", "value", "mistake"),
    [
        ("code", {"claim": {"name": ""}}, "code.claim.name must be the claim's name"),
        *(
            ("code", {"claim": {"name": "a", "subPath": path}}, "code.claim.subPath must be a fold")
            for path in ("/a", "a/../b", "..", "a//b", "a/", 3)
        ),
        *(
            ("code", archive(url=url), "code.archive.url must be an http, https or file address")
            for url in (
                "",
                "ftp://e.com/a",
                "https://",
                "https://a:b@e.com/a",
                "https://e.com/a b",
                "https://e.com:x/a",
                "https://e.com:99999/a",
                "https://[::1/a",
                "https://[::z]/a",
                "https://größe.de/a",
                "https://e.com/größe",
                "file:///a%00b",
                "file:///a\0",
                "file:///\ud800",
            )
        ),
        *(
            ("code", archive(sha256=text), "code.archive.sha256 must be the archive's SHA-256")
            for text in ("", SHA256[1:], SHA256.upper(), SHA256 + "0")
        ),
        *(
            ("code", git(url=url), "code.git.url must be an https, http, ssh or file address")
            for url in (
                "git@e.com:a",
                "ext::sh",
                "--upload-pack=x",
                "https://a@e.com/a",
                "ssh://e.com:x/a",
                "ssh://e.com:99999/a",
                "https://[::1/a",
                "https://größe.de/a",
                "ssh://-x/a",
            )
        ),
        *(
            ("code", git(ref=ref), "code.git.ref must be a branch, a tag, or a whole commit id")
            for ref in ("a b", "a..b", "", "--output=x")
        ),
        *(
            ("code", {"inline": files}, "code.inline must be texts by file names inside a folder")
            for files in ({}, {"/a": "x"}, {"../a": "x"}, {"a/": "x"}, {"": "x"}, {"a": 1}, "x")
        ),
        *(
            (
                "code",
                {"inline": {"a": "", "x/y": "", name: ""}},
                f'code.inline must be files alone, none of them a folder of others; got "{name}"',
            )
            for name in ("a/b", "a/b/c", "x/y/z")
        ),
        ("code", {"inline": {"a": "x" * 600_000}}, "code.inline must be at most 524288 bytes"),
        ("code__digest", "abc", "code.digest must be the digest that the launcher told"),
        ("code__digest", "a" * 32, "code.digest must be left out with code.image"),
        ("code__requirements", "yes", "code.requirements must be true or false"),
        ("code__timeout", -1, "code.timeout must be seconds"),
        ("mode", "ring", f'mode must be one of {ALL_MODES}; got "ring"'),
        ("mode", ["x"], f'mode must be one of {ALL_MODES}; got ["x"]'),
        ("run", "", 'run must be a text; got ""'),
        ("run", MISSING, "run must be a text; got null"),
        ("replicas__ps", 0, "replicas.ps must be a whole number from 1 to 100000; got 0"),
        ("replicas__worker", True, "replicas.worker must be a whole number from 1 to 100000"),
        ("replicas__worker", "2", 'got "2"'),
        ("replicas__worker", 2.0, "replicas.worker must be a whole number"),
        ("replicas__chief", 1, "replicas.chief is not a known key; known are ['evaluator', 'ps'"),
        ("replicas__evaluator", 2, "replicas.evaluator must be a whole number from 0 to 1; got 2"),
        (
            "code",
            {"image": {"path": "/a"}, "refresh": "Always"},
            "code.refresh must be one of OnRe",
        ),
        ("maxReplicas__worker", 1, "maxReplicas.worker must be 0, or no less than the 2 workers"),
        ("maxReplicas__ps", 1, "maxReplicas.ps is not a known key"),
        ("addresses__port", 65536, "addresses.port must be a whole number from 1 to 65535"),
        ("addresses__portsPerTask", "yes", "addresses.portsPerTask must be true or false"),
        ("program__command", [], "program.command must be a list of at least one text"),
        ("program__command", "python", "program.command must be a list of at least one text"),
        ("program__args", ["a", 1], 'program.args must be a list of texts; got ["a", 1]'),
        ("program__args", ["a\0b"], "program.args must be without NUL characters"),
        ("program__env", {"A": 1}, "program.env must be a mapping of variables' names to texts"),
        ("program__env", {"A=B": "1"}, "program.env must be a mapping of variables' names"),
        ("program__env", {"1A": "1"}, "program.env must be a mapping of variables' names"),
        ("program__env", {"A": "\0"}, "program.env must be without NUL characters"),
        ("program__flags", "true", 'program.flags must be true or false; got "true"'),
        ("program__workingDir", "/src", "program.workingDir must be a folder inside the code"),
        ("program__workingDir", "a/../..", "program.workingDir must be a folder inside the code"),
        ("program__extra", 1, "program.extra is not a known key"),
        ("code", {}, "code must be exactly one source: nfs, claim, archive, git, inline, image,"),
        ("code__nfs", {"server": "s", "path": "/p"}, 'got ["nfs", "image"]'),
        ("code__svn", {"url": "u"}, "code.svn is not a known key"),
        ("code__image__path", "app", 'code.image.path must be an absolute path; got "app"'),
        ("code", {"nfs": {"server": "", "path": "/p"}}, "code.nfs.server must be the NFS server"),
        ("restarts__limit", -1, "restarts.limit must be a whole number from 0 to 1000000; got -1"),
        ("restarts__permanentCodes", [0], "restarts.permanentCodes must be a list of exit codes"),
        ("restarts__permanentCodes", [256], "restarts.permanentCodes must be a list of exit codes"),
        ("restarts__refill", -1, "restarts.refill must be seconds, 0 or more; got -1"),
        ("success", "All", 'success must be one of AllWorkers, Chief; got "All"'),
        ("chiefFirst", "yes", 'chiefFirst must be true or false; got "yes"'),
        ("checkpoints", None, "checkpoints must be a text; got null"),
        ("hangTimeout", "10m", 'hangTimeout must be seconds, 0 or more; got "10m"'),
        ("deadline", -1, "deadline must be seconds, 0 or more; got -1"),
        ("deadline", MISSING, "deadline must be seconds, 0 or more; got null"),
        ("logs", 3, "logs must be a text; got 3"),
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


def test_every_mistake_is_told_at_once() -> None:
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
def test_what_is_no_job_is_refused(text: str | bytes) -> None:
    with pytest.raises(LauncherError, match=r"job\.json"):
        read_job(text)


# The environment of a task.

POD = {"TFRUN_ROLE": "worker", "TFRUN_POD_NAME": "mnist-worker-1", "TFRUN_TERMINATION_LOG": ""}
ALONE = {**POD, "PS_REPLICAS": "1", "WORKER_REPLICAS": "2"}


def environment_refusal(environ: dict[str, str], *program: str, flags: bool = False) -> list[str]:
    with pytest.raises(LauncherError) as error:
        task_settings(environ, program, flags)
    assert error.value.code is Code.CONFIGURATION
    count, *mistakes = error.value.reason.splitlines()
    assert count.split()[0] == str(len(mistakes))
    return [mistake.strip() for mistake in mistakes]


def test_a_task_with_a_controller_knows_no_job() -> None:
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


def test_a_task_alone_is_described_by_its_environment() -> None:
    settings = task_settings({**ALONE, "TFRUN_SERVICE": "mnist"}, ["python", "train.py"], True)
    assert settings.controller is None
    assert settings.job
    assert settings.job.addresses.host == "mnist-{role}-{index}.mnist"
    assert settings.job.addresses.port == 2222
    assert settings.job.program.command == ("python", "train.py")
    assert settings.job.program.flags


def test_a_task_alone_may_be_of_any_mode() -> None:
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
def test_a_task_alone_guesses_the_others_names(changes: dict[str, str], host: str) -> None:
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
        ({"TFRUN_MODE": "ring"}, f"TFRUN_MODE must be one of {ALL_MODES}"),
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


def test_every_wrong_variable_is_told_at_once() -> None:
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


# The environment of a controller.


def test_a_controller_reads_its_job(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(json.dumps(document()))
    settings = controller_settings(
        {
            "TFRUN_JOB": str(tmp_path / "job.json"),
            "TFRUN_LISTEN": "0.0.0.0:2220",
            "TFRUN_KUBERNETES": "true",
            "TFRUN_NAMESPACE": "research",
            "KUBERNETES_SERVICE_HOST": "fd00::1",
            "KUBERNETES_SERVICE_PORT": "443",
        }
    )
    assert settings.job == job()
    assert settings.listen == ("0.0.0.0", 2220)
    assert settings.kubernetes
    assert (settings.kubernetes.host, settings.kubernetes.port) == ("fd00::1", 443)


def test_a_controllers_mistakes_are_told_at_once() -> None:
    with pytest.raises(LauncherError) as error:
        controller_settings({"TFRUN_JOB": "/no/such", "TFRUN_KUBERNETES": "true"})
    told = error.value.reason
    assert told.startswith("5 mistakes in the environment:")
    for name in ("LISTEN", "JOB must name a readable job.json; got '/no/such'", "NAMESPACE"):
        assert f"TFRUN_{name}" in told
    assert "KUBERNETES_SERVICE_HOST must be set" in told
