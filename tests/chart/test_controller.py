"""The controller: its Job, its rights, and which values replace it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.chart.render import CHART, MODES, Rendered, container, environment, render

Values = dict[str, Any]


def job_hash(rendered: Rendered) -> str:
    name: str = rendered.one("Job")["metadata"]["name"]
    return name.removeprefix("mnist-")


REPLACES: list[Values] = [
    {"program": {"args": ["--steps", 5]}},
    {"program": {"env": {"A": "b"}}},
    {"ps": {"replicas": 2}},
    {"worker": {"replicas": 3}},
    {"code": {"image": {"path": "/other"}}},
    {"image": {"tag": "2.20.0"}},
    {"image": {"pullPolicy": "Always"}},
    {"imagePullSecrets": [{"name": "registry"}]},
    {"podSecurityContext": {"runAsUser": 2000}},
    {"securityContext": {"readOnlyRootFilesystem": True}},
    {"port": 3333},
    {"run": {"attempt": 2}},
    {"restarts": {"limit": 0}},
    {"grace": 60},
    {"cleanup": "Keep"},
    {"mode": "coordinator"},
    {"evaluator": {"replicas": 1}},
    {"success": "Chief"},
    {"chiefFirst": False},
    {"checkpoints": "/data"},
    {"hangTimeout": 300},
    {"deadline": 3600},
    {"restarts": {"refill": 0}},
    # Most of these replace task pods. The new controller knows it, and makes that one generation.
    {"env": [{"name": "A", "value": "b"}]},
    {"volumes": [{"name": "data", "mountPath": "/data", "emptyDir": {}}]},
    {"pod": {"priorityClassName": "high"}},
    {"worker": {"resources": {"limits": {"nvidia.com/gpu": 1}}}},
    {"ps": {"pod": {"priorityClassName": "high"}}},
    {"controller": {"rbac": False}},
    {"controller": {"port": 3330}},
    {"controller": {"resources": {"limits": {"memory": "1Gi"}}}},
    {"controller": {"pod": {"priorityClassName": "high"}}},
    {"launcher": {"inject": False}},
]


@pytest.mark.parametrize("values", REPLACES, ids=str)
def test_a_new_controller_takes_over_when_these_values_change(values: Values) -> None:
    assert job_hash(render(values)) != job_hash(render())


KEEPS: list[Values] = [
    {"networkPolicy": {"enabled": False}},
    # Values of roles that this mode does not have.
    {"chief": {"resources": {"limits": {"nvidia.com/gpu": 1}}}},
    {"evaluator": {"pod": {"priorityClassName": "high"}}},
]


@pytest.mark.parametrize("values", KEEPS, ids=str)
def test_the_controller_stays_when_these_values_change(values: Values) -> None:
    assert render(values).one("Job") == render().one("Job")


@pytest.mark.parametrize(
    ("file", "controller_anew", "pods_anew"),
    [
        ("__init__.py", True, True),
        ("shared/log.py", True, True),
        ("task/loop.py", True, True),  # the controller must know that task pods are replaced
        ("code/pull.py", True, True),
        ("controller/loop.py", True, False),
        ("decisions/step.py", True, False),
        ("local/run.py", False, False),
    ],
)
def test_a_changed_launcher_file_replaces_only_the_pods_that_carry_it(
    tmp_path: Path, file: str, controller_anew: bool, pods_anew: bool
) -> None:
    chart = tmp_path / "tfrun"
    shutil.copytree(CHART, chart, ignore=shutil.ignore_patterns("__pycache__"))
    same = render(chart=chart)
    assert same.objects == render().objects
    other = tmp_path / "other" / "tfrun"
    shutil.copytree(chart, other)
    (other / "launcher" / file).write_text("# another\n")
    after = render(chart=other)
    assert (job_hash(after) != job_hash(same)) is controller_anew
    assert (after.task_pod() != same.task_pod()) is pods_anew


def test_config_maps_are_named_by_content_and_never_change() -> None:
    rendered = render()
    for name in rendered.names("ConfigMap"):
        assert rendered.one("ConfigMap", name)["immutable"] is True
    job = rendered.one("Job")["metadata"]["name"]
    (mounted,) = (
        v["configMap"]["name"]
        for v in rendered.controller_pod()["spec"]["volumes"]
        if v["name"] == "tfrun-job"
    )
    assert mounted == job
    assert rendered.controller_pod()["metadata"]["labels"]["tfrun/job"] == job_hash(rendered)


def run_id(values: Values) -> str:
    name: str = render(values).job()["run"]
    return name


@pytest.mark.parametrize(
    "values",
    [
        {"image": {"tag": "2.20.0"}},
        {"image": {"digest": "sha256:" + "0" * 64}},
        {"program": {"command": ["python", "other.py"]}},
        {"program": {"args": [1]}},
        {"program": {"env": {"A": "b"}}},
        {"program": {"flags": True}},
        {"program": {"workingDir": "src"}},
        {"code": {"image": {"path": "/other"}}},
        {"run": {"attempt": 2}},
        {"mode": "coordinator"},
        {"mode": "all-reduce"},
    ],
    ids=str,
)
def test_these_changed_values_make_a_new_run(values: Values) -> None:
    assert run_id(values) != run_id({})


@pytest.mark.parametrize(
    "values",
    [
        {"ps": {"replicas": 2}, "worker": {"replicas": 9}},
        {"restarts": {"limit": 0, "permanentCodes": []}, "cleanup": "Keep", "grace": 60},
        {"image": {"pullPolicy": "Always"}, "port": 3333, "launcher": {"inject": False}},
        {"controller": {"rbac": False, "port": 3330}, "pod": {"priorityClassName": "high"}},
        {"success": "Chief", "chiefFirst": False, "checkpoints": "/data", "hangTimeout": 300},
        {"deadline": 3600, "restarts": {"refill": 0}, "evaluator": {"replicas": 1}},
        # The defaults, written out.
        {"program": {"command": ["python", "train.py"], "args": []}},
    ],
    ids=str,
)
def test_these_changed_values_leave_the_run_the_same(values: Values) -> None:
    assert run_id(values) == run_id({})


def outcome(policy: dict[str, Any], code: int, *conditions: str) -> str:
    """What Kubernetes does about a controller's exit code: the first matching rule's action."""
    for rule in policy["rules"]:
        wanted = [pattern["type"] for pattern in rule.get("onPodConditions", [])]
        if set(wanted) & set(conditions):
            return str(rule["action"])
        codes = rule.get("onExitCodes")
        if codes and code:
            assert codes["values"] == sorted(set(codes["values"]))
            if (code in codes["values"]) == (codes["operator"] == "In"):
                return str(rule["action"])
    return "Count"


@pytest.mark.parametrize(
    ("code", "action"),
    [
        (1, "FailJob"),
        (2, "FailJob"),
        (64, "FailJob"),
        (69, "FailJob"),
        (70, "Count"),
        (75, "FailJob"),
        (78, "FailJob"),
        (124, "FailJob"),
        (127, "FailJob"),
        (134, "FailJob"),
        (137, "Count"),
        (139, "FailJob"),
        (143, "Ignore"),
    ],
)
def test_which_ends_of_the_controller_fail_the_run(code: int, action: str) -> None:
    spec = render().one("Job")["spec"]
    assert outcome(spec["podFailurePolicy"], code) == action
    assert outcome(spec["podFailurePolicy"], code, "DisruptionTarget") == "Ignore"
    assert spec["backoffLimit"] == 20


def test_the_failure_policy_names_the_controllers_container() -> None:
    # Otherwise a sidecar's exit code would count too.
    job = render().one("Job")["spec"]
    for rule in job["podFailurePolicy"]["rules"]:
        if "onExitCodes" in rule:
            assert rule["onExitCodes"]["containerName"] == container(job["template"])["name"]


def test_the_job_runs_one_pod_at_a_time_and_is_kept() -> None:
    spec = render().one("Job")["spec"]
    assert (spec["completions"], spec["parallelism"]) == (1, 1)
    assert spec["podReplacementPolicy"] == "Failed"
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert "ttlSecondsAfterFinished" not in spec
    assert "activeDeadlineSeconds" not in spec


def test_the_job_is_found_by_labels() -> None:
    labels = render().one("Job")["metadata"]["labels"]
    assert (
        labels.items()
        >= {
            "app.kubernetes.io/instance": "mnist",
            "tfrun/role": "controller",
        }.items()
    )


@pytest.mark.parametrize("evaluators", [0, 1])
@pytest.mark.parametrize("mode", MODES)
def test_the_controller_may_scale_its_statefulsets_and_nothing_else(
    mode: str, evaluators: int
) -> None:
    rendered = render({"mode": mode, "evaluator": {"replicas": evaluators}})
    role = rendered.one("Role")
    rules = {rule["resources"][0]: rule for rule in role["rules"]}
    assert sorted(rules["statefulsets"].pop("resourceNames")) == rendered.names("StatefulSet")
    job = rendered.one("Job")["metadata"]["name"]
    assert rules == {
        "statefulsets": {
            "apiGroups": ["apps"],
            "resources": ["statefulsets"],
            "verbs": ["get", "patch"],
        },
        "services": {
            "apiGroups": [""],
            "resources": ["services"],
            "resourceNames": ["mnist-controller"],
            "verbs": ["get"],
        },
        "jobs": {
            "apiGroups": ["batch"],
            "resources": ["jobs"],
            "resourceNames": [job],
            "verbs": ["delete"],
        },
    }
    # A controller keeps its rights where nothing removes its Job.
    assert role["metadata"]["name"] == job
    binding = rendered.one("RoleBinding")
    spec = rendered.controller_pod()["spec"]
    assert binding["roleRef"]["name"] == rendered.one("Role")["metadata"]["name"]
    assert [subject["name"] for subject in binding["subjects"]] == [spec["serviceAccountName"]]
    assert spec["automountServiceAccountToken"] is True
    assert environment(rendered.controller_pod())["TFRUN_KUBERNETES"] == "true"
    assert not rendered.names("ClusterRole")
    assert not rendered.names("ClusterRoleBinding")


def test_the_chart_sets_no_replicas_where_the_controller_may_scale() -> None:
    rendered = render({"mode": "coordinator", "evaluator": {"replicas": 1}})
    for role in ("chief", "ps", "worker", "evaluator"):
        assert "replicas" not in rendered.statefulset(role)["spec"]


def test_the_chart_sets_the_replicas_where_the_controller_may_not_scale() -> None:
    rendered = render(
        {
            "mode": "coordinator",
            "controller": {"rbac": False},
            "worker": {"replicas": 3},
            "evaluator": {"replicas": 1},
        }
    )
    counts = {role: rendered.statefulset(role)["spec"]["replicas"] for role in rendered.roles()}
    assert counts == {"chief": 1, "evaluator": 1, "ps": 1, "worker": 3}
    assert not rendered.names("Role")
    assert not rendered.names("RoleBinding")
    spec = rendered.controller_pod()["spec"]
    assert spec["automountServiceAccountToken"] is False
    account = rendered.one("ServiceAccount", spec["serviceAccountName"])
    assert account["automountServiceAccountToken"] is False
    assert "TFRUN_KUBERNETES" not in environment(rendered.controller_pod())
