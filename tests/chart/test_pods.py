"""What the pods may do, what is in them, and which values replace them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chart.render import Object, container, environment, render

Values = dict[str, Any]
NFS: Values = {
    "code": {"nfs": {"server": "nfs.example.com", "path": "/exports/app"}, "image": {"path": ""}}
}
# https://kubernetes.io/docs/concepts/security/pod-security-standards/
RESTRICTED_VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral"),
    *("persistentVolumeClaim", "projected", "secret"),
}


def restricted_violations(pod: Object) -> list[str]:
    """What the Pod Security level "restricted" would refuse in a pod template."""
    spec = pod["spec"]
    security = spec.get("securityContext", {})
    found = [name for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    if security.get("runAsNonRoot") is not True or security.get("runAsUser") == 0:
        found.append("runAsNonRoot")
    if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        found.append("seccompProfile")
    for volume in spec["volumes"]:
        found += [f"volume {kind}" for kind in volume.keys() - {"name"} - RESTRICTED_VOLUMES]
    for each in spec["containers"]:
        context = each.get("securityContext", {})
        if context.get("allowPrivilegeEscalation") is not False:
            found.append("allowPrivilegeEscalation")
        if context.get("capabilities", {}).get("drop") != ["ALL"]:
            found.append("capabilities.drop")
        found += [name for name in ("privileged", "procMount") if context.get(name)]
        found += ["hostPort" for port in each.get("ports", []) if port.get("hostPort")]
        found += ["capabilities.add"] if context.get("capabilities", {}).get("add") else []
    return found


# All roles.
ALL: Values = {"mode": "coordinator", "evaluator": {"replicas": 1}}


@pytest.mark.parametrize(
    ("mode", "roles"),
    [
        ("parameter-server", ["ps", "worker"]),
        ("coordinator", ["chief", "ps", "worker"]),
        ("all-reduce", ["worker"]),
    ],
)
def test_each_mode_has_its_roles_and_any_an_evaluator(mode: str, roles: list[str]) -> None:
    assert render({"mode": mode}).roles() == roles
    rendered = render({"mode": mode, "evaluator": {"replicas": 1}})
    assert rendered.roles() == sorted([*roles, "evaluator"])
    for role in roles:
        assert rendered.statefulset(role) == render({"mode": mode}).statefulset(role)


def test_pods_of_two_roles_differ_only_in_role_resources_and_pod_fields() -> None:
    rendered = render(ALL)
    templates = []
    for role in rendered.roles():
        stateful_set = rendered.statefulset(role)
        template = stateful_set["spec"]["template"]
        assert stateful_set["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
        assert template["metadata"]["labels"].pop("tfrun/role") == role
        assert environment(template)["TFRUN_ROLE"] == role
        container(template)["env"] = [
            variable for variable in container(template)["env"] if variable["name"] != "TFRUN_ROLE"
        ]
        del container(template)["resources"]
        templates.append(template)
    assert all(template == templates[0] for template in templates)


@pytest.mark.parametrize("role", ["chief", "ps", "worker", "evaluator"])
def test_each_role_has_resources_and_pod_fields_of_its_own(role: str) -> None:
    own = {"resources": {"limits": {"memory": "7Gi"}}, "pod": {"priorityClassName": "high"}}
    before, after = render(ALL), render({**ALL, role: {**ALL.get(role, {}), **own}})
    for other in before.roles():
        same = before.statefulset(other) == after.statefulset(other)
        assert same is (other != role)
    pod = after.task_pod(role)
    assert container(pod)["resources"]["limits"] == {"memory": "7Gi"}
    assert pod["spec"]["priorityClassName"] == "high"


def test_a_pod_knows_the_template_that_it_was_made_from() -> None:
    for role in render(ALL).roles():
        (variable,) = (
            variable
            for variable in container(render(ALL).task_pod(role))["env"]
            if variable["name"] == "TFRUN_REVISION"
        )
        # The controller compares this label with status.updateRevision of the StatefulSet.
        assert variable["valueFrom"] == {
            "fieldRef": {"fieldPath": "metadata.labels['controller-revision-hash']"}
        }


def test_kubernetes_replaces_the_pods_and_creates_them_in_parallel() -> None:
    for role in render(ALL).roles():
        spec = render(ALL).statefulset(role)["spec"]
        assert spec["updateStrategy"] == {"type": "RollingUpdate"}
        assert spec["podManagementPolicy"] == "Parallel"


def test_every_pod_satisfies_pod_security_restricted() -> None:
    for pod in render(ALL).pods():
        assert restricted_violations(pod) == []


def test_pod_security_restricted_refuses_only_code_from_nfs() -> None:
    rendered = render(NFS)
    assert restricted_violations(rendered.task_pod("ps")) == ["volume nfs"]
    assert restricted_violations(rendered.task_pod("worker")) == ["volume nfs"]
    assert restricted_violations(rendered.controller_pod()) == []


@pytest.mark.parametrize("role", ["chief", "ps", "worker", "evaluator"])
def test_task_pods_have_no_api_token(role: str) -> None:
    rendered = render(ALL)
    spec = rendered.task_pod(role)["spec"]
    assert spec["automountServiceAccountToken"] is False
    account = rendered.one("ServiceAccount", spec["serviceAccountName"])
    assert account["automountServiceAccountToken"] is False
    granted = [s["name"] for o in rendered.objects for s in o.get("subjects", [])]
    assert spec["serviceAccountName"] not in granted


UNCHANGED: list[Values] = [
    {"program": {"command": ["python", "other.py"], "args": [1], "flags": True}},
    {"program": {"env": {"LEVEL": 2}, "workingDir": "src"}},
    {"ps": {"replicas": 3}},
    {"worker": {"replicas": 9}},
    {"restarts": {"limit": 0, "permanentCodes": [1], "refill": 0}},
    {"success": "Chief", "chiefFirst": False, "checkpoints": "/data"},
    {"hangTimeout": 300, "deadline": 3600},
    {"cleanup": "Keep"},
    {"run": {"attempt": 2}},
    {"code": {"image": {"path": "/other"}}},
    {"controller": {"resources": {}, "pod": {"priorityClassName": "high"}}},
    {"networkPolicy": {"enabled": False}},
]


@pytest.mark.parametrize("values", UNCHANGED, ids=str)
def test_task_pods_stay_when_these_values_change(values: Values) -> None:
    before, after = render(), render(values)
    assert before.job_json() != after.job_json() or before.objects != after.objects
    assert after.statefulset("ps") == before.statefulset("ps")
    assert after.statefulset("worker") == before.statefulset("worker")
    assert after.job()["pods"] == before.job()["pods"]


CHANGED: list[Values] = [
    {"image": {"tag": "2.20.0"}},
    {"grace": 60},
    {"port": 3333},
    {"controller": {"port": 3330}},
    {"env": [{"name": "A", "value": "b"}]},
    {"volumes": [{"name": "data", "mountPath": "/data", "emptyDir": {}}]},
    {"pod": {"priorityClassName": "high"}},
    {"launcher": {"inject": False}},
    NFS,
]


@pytest.mark.parametrize("values", CHANGED, ids=str)
@pytest.mark.parametrize("role", ["ps", "worker"])
def test_task_pods_are_replaced_when_these_values_change(values: Values, role: str) -> None:
    assert render(values).job()["pods"] != render().job()["pods"]
    before, after = render().statefulset(role), render(values).statefulset(role)
    assert after["spec"].pop("template") != before["spec"].pop("template")
    # Kubernetes refuses a change of anything else.
    assert after == before


def test_resources_of_one_role_change_no_other_role() -> None:
    before, after = render(), render({"worker": {"resources": {"limits": {"nvidia.com/gpu": 1}}}})
    assert container(after.task_pod("worker"))["resources"] == {
        "requests": {"cpu": "250m", "memory": "1Gi"},
        "limits": {"nvidia.com/gpu": 1},
    }
    assert after.statefulset("ps") == before.statefulset("ps")


def test_pods_carry_no_version() -> None:
    for pod in render().pods():
        assert sorted(pod["metadata"]) == ["labels"]
        assert not [key for key in pod["metadata"]["labels"] if "chart" in key or "version" in key]


def test_a_roles_pod_fields_replace_those_of_all_tasks() -> None:
    rendered = render(
        {
            "pod": {"nodeSelector": {"pool": "cpu"}, "hostNetwork": True, "priority": 1000000},
            "worker": {"pod": {"nodeSelector": {"gpu": "a100"}, "hostNetwork": False}},
            "controller": {"pod": {"priorityClassName": "high"}},
        }
    )
    ps, worker = rendered.task_pod("ps")["spec"], rendered.task_pod("worker")["spec"]
    assert (ps["nodeSelector"], ps["hostNetwork"]) == ({"pool": "cpu"}, True)
    assert (worker["nodeSelector"], worker["hostNetwork"]) == ({"gpu": "a100"}, False)
    assert ps["priority"] == worker["priority"] == 1000000
    controller = rendered.controller_pod()["spec"]
    assert controller["priorityClassName"] == "high"
    assert "nodeSelector" not in controller


def test_volumes_reach_the_tasks_and_not_the_controller() -> None:
    claim = {"persistentVolumeClaim": {"claimName": "data"}}
    mount = {"name": "data", "mountPath": "/data", "readOnly": True, "subPath": "mnist"}
    rendered = render({"volumes": [mount | claim]})
    for role in ("ps", "worker"):
        pod = rendered.task_pod(role)
        assert {"name": "data"} | claim in pod["spec"]["volumes"]
        assert mount in container(pod)["volumeMounts"]
    assert "data" not in [v["name"] for v in rendered.controller_pod()["spec"]["volumes"]]


def test_the_kubelet_mounts_nfs_read_only() -> None:
    pod = render(NFS).task_pod()
    (volume,) = (v for v in pod["spec"]["volumes"] if "nfs" in v)
    assert volume["nfs"] == {
        "server": "nfs.example.com",
        "path": "/exports/app",
        "readOnly": True,
    }
    (mount,) = (m for m in container(pod)["volumeMounts"] if m["name"] == volume["name"])
    assert (mount["mountPath"], mount["readOnly"]) == (environment(pod)["TFRUN_SOURCE"], True)


def test_code_in_the_image_mounts_no_source() -> None:
    pod = render().task_pod()
    assert "TFRUN_SOURCE" not in environment(pod)
    assert [v["name"] for v in pod["spec"]["volumes"]] == ["tfrun-work", "tfrun-launcher"]


CLAIM: Values = {
    "code": {"claim": {"name": "code", "subPath": "app"}, "image": {"path": ""}},
    "volumes": [
        {"name": "other", "mountPath": "/o", "persistentVolumeClaim": {"claimName": "other"}}
    ],
}


def test_the_kubelet_mounts_a_claim_read_only() -> None:
    pod = render(CLAIM).task_pod()
    (volume,) = (v for v in pod["spec"]["volumes"] if v["name"] == "tfrun-source")
    assert volume["persistentVolumeClaim"] == {"claimName": "code", "readOnly": True}
    (mount,) = (m for m in container(pod)["volumeMounts"] if m["name"] == "tfrun-source")
    # The whole claim, without subPath, because the launcher names a missing folder more clearly.
    assert mount == {"name": "tfrun-source", "mountPath": "/tfrun/source", "readOnly": True}
    assert environment(pod)["TFRUN_SOURCE"] == "/tfrun/source"
    assert restricted_violations(pod) == []


def test_a_code_claim_that_is_also_in_volumes_uses_that_volume() -> None:
    data = {"name": "data", "mountPath": "/d", "persistentVolumeClaim": {"claimName": "code"}}
    pod = render({**CLAIM, "volumes": [*CLAIM["volumes"], data]}).task_pod()
    assert "tfrun-source" not in [v["name"] for v in pod["spec"]["volumes"]]
    mounts = [m for m in container(pod)["volumeMounts"] if m["name"] == "data"]
    assert [(m["mountPath"], m.get("readOnly")) for m in mounts] == [
        ("/tfrun/source", True),
        ("/d", None),
    ]


def test_only_tasks_get_the_secret_for_fetching_code() -> None:
    git = {"url": "https://e.com/a.git", "ref": "0a" * 20}
    rendered = render({"code": {"git": git, "secret": "login"}}, base={})
    pod = rendered.task_pod()
    (volume,) = (v for v in pod["spec"]["volumes"] if v["name"] == "tfrun-secret")
    assert volume["secret"] == {"secretName": "login", "defaultMode": 0o440}
    (mount,) = (m for m in container(pod)["volumeMounts"] if m["name"] == "tfrun-secret")
    assert (mount["mountPath"], mount["readOnly"]) == (environment(pod)["TFRUN_SECRET"], True)
    assert restricted_violations(pod) == []
    assert "login" not in rendered.job_json()
    assert "login" not in str(rendered.controller_pod())


def test_the_users_variables_come_after_the_charts() -> None:
    secret = {
        "name": "KEY",
        "valueFrom": {"secretKeyRef": {"name": "keys", "key": "k"}},
    }
    rendered = render({"env": [secret]})
    variables = container(rendered.task_pod())["env"]
    assert variables[-1] == secret
    names = [variable["name"] for variable in variables]
    assert len(names) == len(set(names))
    assert "KEY" not in environment(rendered.controller_pod())


@pytest.mark.parametrize("inject", [True, False])
def test_the_launcher_is_mounted_from_the_chart_or_is_part_of_the_image(inject: bool) -> None:
    rendered = render({"launcher": {"inject": inject}})
    for pod in rendered.pods():
        run = ["/tfrun/launcher"] if inject else ["-m", "launcher"]
        command = container(pod)["command"]
        assert command[:-1] == ["python3", "-I", "-u", "-X", "utf8", *run]
        assert command[-1] in ("task", "controller")
        assert container(pod)["workingDir"] == "/tfrun"
        mounted = {m["name"]: m for m in container(pod)["volumeMounts"]}
        assert ("tfrun-launcher" in mounted) is inject
        if inject:
            assert mounted["tfrun-launcher"]["mountPath"] == "/tfrun/launcher"
            assert mounted["tfrun-launcher"]["readOnly"] is True
    assert len(rendered.names("ConfigMap")) == (6 if inject else 1)


def test_every_mount_has_its_volume() -> None:
    for pod in [*render(NFS).pods(), *render().pods()]:
        volumes = [volume["name"] for volume in pod["spec"]["volumes"]]
        assert volumes == [mount["name"] for mount in container(pod)["volumeMounts"]]


def test_a_pods_grace_is_longer_than_the_programs() -> None:
    for role in ("ps", "worker"):
        assert render({"grace": 60}).task_pod(role)["spec"]["terminationGracePeriodSeconds"] == 65


def test_an_image_digest_takes_the_place_of_the_tag() -> None:
    image = {"repository": "example.com/app", "tag": "1", "digest": "sha256:" + "0" * 64}
    for pod in render({"image": image}).pods():
        assert container(pod)["image"] == f"example.com/app@sha256:{'0' * 64}"
