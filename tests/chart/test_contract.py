"""The launcher reads what the chart writes."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.controller.environment import controller_settings
from launcher.shared import modes
from launcher.shared.exits import LauncherError
from launcher.shared.identity import Task
from launcher.shared.job import CLEANUPS, SUCCESSES, job_of, read_job
from launcher.task.environment import task_settings
from tests.chart.render import (
    CHART,
    MODES,
    NAMESPACE,
    environment,
    kube_version,
    launcher_files,
    refusal,
    render,
    run_helm,
)

NFS = {"server": "nfs.example.com", "path": "/exports/app"}
DATA = {"name": "data", "mountPath": "/data", "emptyDir": {}}


def test_job_json_is_the_whole_run(helm: str) -> None:
    rendered = render(
        {
            "program": {
                "command": ["python", "-m", "app"],
                "args": ["--steps", 5],
                "env": {"LEVEL": 1},
                "flags": True,
                "workingDir": "src",
            },
            "ps": {"replicas": 2},
            "worker": {"replicas": 3, "maxReplicas": 8},
            "port": 3333,
            "restarts": {"limit": 7, "permanentCodes": [9], "refill": 60},
            "success": "Chief",
            "chiefFirst": False,
            "checkpoints": "/data/checkpoints",
            "hangTimeout": 300,
            "deadline": 1000000,
            "logs": "/data/logs",
            "volumes": [DATA],
            "grace": 60,
            "cleanup": "Keep",
        },
        helm=helm,
    )
    job = rendered.job()
    assert job.pop("run") == hashed_run(rendered.job())
    assert re.fullmatch("[0-9a-f]{8}", job.pop("pods"))
    assert job == {
        "version": 1,
        "release": "mnist",
        "mode": "parameter-server",
        "replicas": {"ps": 2, "worker": 3},
        "maxReplicas": {"worker": 8},
        "addresses": {"host": "mnist-{role}-{index}.mnist", "port": 3333},
        "program": {
            "command": ["python", "-m", "app"],
            "args": ["--steps", "5"],
            "env": {"LEVEL": "1"},
            "flags": True,
            "workingDir": "src",
        },
        "code": {"image": {"path": "/app"}, "timeout": 120, "refresh": "OnRequest"},
        "restarts": {"limit": 7, "permanentCodes": [9], "refill": 60},
        "success": "Chief",
        "chiefFirst": False,
        "checkpoints": "/data/checkpoints",
        "hangTimeout": 300,
        "deadline": 1000000,
        "logs": "/data/logs",
        "grace": 60,
        "cleanup": "Keep",
    }


def hashed_run(job: dict[str, Any]) -> str:
    """The run id, computed independently: the hash of what trains, as JSON in Go's form."""
    trains: dict[str, Any] = {key: job[key] for key in ("mode", "program")}
    trains["code"] = {k: v for k, v in job["code"].items() if k not in ("timeout", "refresh")}
    trains |= {"attempt": 1, "image": "tensorflow/tensorflow:2.21.0"}
    text = json.dumps(trains, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def test_the_launcher_reads_job_json() -> None:
    job = read_job(render({"ps": {"replicas": 2}}).job_json())
    assert job.release == "mnist"
    assert job.replicas == {"ps": 2, "worker": 2}
    assert job.program.command == ("python", "train.py")
    assert job.restarts.permanent_codes == (2, 126, 127)
    assert job.restarts.refill == 3600
    assert (job.success, job.chief_first, job.checkpoints) == ("AllWorkers", True, "")
    assert (job.hang_timeout, job.deadline, job.logs) == (0, 0, "")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("evaluators", [0, 1])
def test_the_launcher_and_the_chart_agree_about_roles(mode: str, evaluators: int) -> None:
    rendered = render({"mode": mode, "evaluator": {"replicas": evaluators}})
    job = read_job(rendered.job_json())
    least = modes.MODES[mode].least
    assert set(job.replicas) == {*least, *(["evaluator"] if evaluators else [])}
    assert sorted(job.replicas) == rendered.roles()
    assert job.document["replicas"] == job.replicas
    for role in job.replicas:
        variables = environment(rendered.task_pod(role), TFRUN_POD_NAME=f"mnist-{role}-0")
        assert task_settings(variables).task == Task(role, 0)


@pytest.mark.parametrize("mode", MODES)
def test_the_chart_and_the_launcher_require_the_same_minimum_of_tasks(mode: str) -> None:
    least = modes.MODES[mode].least
    fewest: dict[str, Any] = {
        role: {"replicas": count} for role, count in least.items() if role != "chief"
    }
    assert read_job(render({"mode": mode, **fewest}).job_json()).replicas == least
    for role in fewest:
        (said,) = refusal({"mode": mode, **fewest, role: {"replicas": least[role] - 1}})
        assert said.startswith(f"{role}.replicas must be {least[role]} or more")


def test_the_schema_knows_the_launchers_choices() -> None:
    assert set(MODES) == set(modes.MODES)
    properties = json.loads((CHART / "values.schema.json").read_text())["properties"]
    assert set(properties["mode"]["enum"]) == set(modes.MODES)
    assert properties["success"]["enum"] == list(SUCCESSES)
    assert properties["cleanup"]["enum"] == list(CLEANUPS)


@pytest.mark.parametrize(
    "code",
    [
        {"image": {"path": "/app"}},
        {"nfs": NFS},
        {"claim": {"name": "code"}},
        {"claim": {"name": "code", "subPath": "a/b"}, "requirements": True},
        {"archive": {"url": "https://e.com/a?x=<&>", "sha256": "0a" * 32}, "digest": "0b" * 16},
        {"git": {"url": "ssh://git@e.com/a.git", "ref": "0c" * 20}},
        {"inline": {"train.py": "print('<größe>')\n", "lib/x.py": ""}},
    ],
    ids=lambda code: "-".join(code),
)
def test_job_json_holds_only_the_source_in_use(code: dict[str, Any], helm: str) -> None:
    rendered = render({"code": code}, base={}, helm=helm)
    assert rendered.job()["code"] == {**code, "timeout": 120, "refresh": "OnRequest"}
    delivery = read_job(rendered.job_json()).delivery
    assert delivery.source.kind == next(iter(code))
    assert delivery.requirements is code.get("requirements", False)
    assert delivery.digest == code.get("digest", "")


def test_the_launcher_and_the_chart_count_the_bytes_of_code_inline_alike(helm: str) -> None:
    text = 'größe € <a & b>\u2028\n\t\x01\x7f"\\/' * 20_000
    (told,) = refusal({"code": {"inline": {"ö.py": text}}}, helm=helm, base={})
    found = re.search(r"code\.inline must be at most .* got (\d+) bytes", told)
    assert found, told
    document = render({"code": {"inline": {"a.py": "x"}}}, base={}, helm=helm).job()
    document["code"]["inline"] = {"ö.py": text}
    with pytest.raises(LauncherError, match=f"holds no more; got {found[1]}$"):
        job_of(document)


def test_changed_timeouts_and_secrets_of_the_code_do_not_start_a_new_run() -> None:
    code: dict[str, Any] = {"archive": {"url": "https://e.com/a", "sha256": "0a" * 32}}
    before = render({"code": code}, base={}).job()
    after = render(
        {"code": {**code, "timeout": 7, "refresh": "OnGeneration", "secret": "login"}}, base={}
    ).job()
    assert after["run"] == before["run"]
    assert read_job(json.dumps(after)).program_digest == read_job(json.dumps(before)).program_digest
    other = render({"code": {**code, "requirements": True}}, base={}).job()
    assert other["run"] != before["run"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("--epochs", "--epochs"),
        (20, "20"),
        (1000000, "1000000"),
        (123456789012, "123456789012"),
        (0.001, "0.001"),
        (-1.5, "-1.5"),
        (True, "true"),
        ("1e+06", "1e+06"),
        ("a b", "a b"),
        ("", ""),
        ("<&>", "<&>"),
        ('{{ .Values }} "$HOME" \\', '{{ .Values }} "$HOME" \\'),
        ("two\nlines", "two\nlines"),
        ("größe", "größe"),
    ],
)
def test_arguments_reach_the_program_as_they_are_written(
    given: object, told: str, helm: str
) -> None:
    program = {"command": ["python", given], "args": [given], "env": {"GIVEN": given}}
    got = render({"program": program}, helm=helm).job()["program"]
    assert (got["command"], got["args"], got["env"]) == (["python", told], [told], {"GIVEN": told})


def test_numbers_given_by_set_equal_those_of_a_values_file(helm: str) -> None:
    by_set = "code.image.path=/app,grace=60,program.args={--steps,1000000}"
    target = ("template", "mnist", CHART, "--kube-version", kube_version(), "-n", NAMESPACE)
    done = run_helm(helm, *target, "--set", by_set)
    assert done.returncode == 0, done.stderr
    from_file = render({"grace": 60, "program": {"args": ["--steps", 1000000]}}, helm=helm)
    assert all(text in done.stdout for text in from_file.texts)


@pytest.mark.parametrize("role", ["ps", "worker"])
def test_the_launcher_reads_a_tasks_environment(role: str) -> None:
    code = {"archive": {"url": "https://e.com/a", "sha256": "0a" * 32}, "secret": "login"}
    secret = task_settings(
        environment(
            render({"code": code}, base={}).task_pod(role), TFRUN_POD_NAME=f"mnist-{role}-1"
        )
    )
    assert (secret.source, secret.secret) == (None, Path("/tfrun/secret"))
    rendered = render({"code": {"nfs": NFS, "image": {"path": ""}}, "controller": {"port": 3330}})
    settings = task_settings(
        environment(
            rendered.task_pod(role),
            TFRUN_POD_NAME=f"mnist-{role}-1",
            TFRUN_POD_IP="10.1.2.3",
            TFRUN_REVISION=f"mnist-{role}-5f6b7c8d9",
        )
    )
    assert settings.task == Task(role, 1)
    assert settings.address == "10.1.2.3"
    assert settings.revision == f"mnist-{role}-5f6b7c8d9"
    assert settings.controller == ("mnist-controller", 3330)
    assert settings.work == Path("/tfrun/work")
    assert (settings.source, settings.secret) == (Path("/tfrun/source"), None)


@pytest.mark.parametrize("rbac", [True, False])
def test_the_launcher_reads_the_controllers_environment(rbac: bool, tmp_path: Path) -> None:
    rendered = render({"controller": {"rbac": rbac}})
    variables = environment(rendered.controller_pod(), TFRUN_NAMESPACE="research")
    assert variables["TFRUN_JOB"] == "/tfrun/job/job.json"
    (tmp_path / "job.json").write_text(rendered.job_json())
    kubelet = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    settings = controller_settings(variables | kubelet | {"TFRUN_JOB": str(tmp_path / "job.json")})
    assert settings.listen == ("0.0.0.0", 2220)
    kubernetes = settings.kubernetes
    assert (kubernetes.namespace if kubernetes else None) == ("research" if rbac else None)
    assert kubernetes is None or f"mnist-{kubernetes.hash}" in rendered.names("Job")
    assert settings.job.release == "mnist"


SIDES = {"task": {"shared", "task", "code"}, "controller": {"shared", "controller", "decisions"}}


@pytest.mark.parametrize("side", SIDES)
def test_each_pod_carries_the_packages_that_it_runs(helm: str, side: str) -> None:
    carried = render(helm=helm).launcher_files(side)
    files = {
        path: text
        for path, text in launcher_files().items()
        if "/" not in path or path.partition("/")[0] in SIDES[side]
    }
    assert carried.keys() == files.keys()
    for path, text in files.items():
        # Line breaks at the end may differ, because a YAML block keeps only one.
        assert carried[path].rstrip("\n") == text.rstrip("\n"), path


@pytest.mark.parametrize("side", SIDES)
def test_the_files_that_a_pod_carries_import_nothing_else(tmp_path: Path, side: str) -> None:
    """Every module can be imported from its files and the standard library alone."""
    modules = []
    for path, text in render().launcher_files(side).items():
        file = tmp_path / "launcher" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        modules.append("launcher." + path[: -len(".py")].replace("/", "."))
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nimport {', '.join(modules)}"
    subprocess.run([sys.executable, "-S", "-I", "-c", program], check=True)


@pytest.mark.parametrize("values", sorted((CHART / "ci").glob("*.yaml")), ids=lambda v: v.stem)
def test_no_object_is_too_large_for_a_client_side_apply(values: Path) -> None:
    """Such an apply keeps a copy of the object in an annotation of at most 262,144 bytes."""
    for found in render(yaml.safe_load(values.read_text()), base={}).objects:
        name = f"{found['kind']} {found['metadata']['name']}"
        assert len(json.dumps(found).encode()) <= 200_000, name
