"""Which pods the Services and the NetworkPolicy select, and which ports they reach."""

from __future__ import annotations

from tests.chart.render import Object, container, render


def selects(selector: dict[str, str], pod: Object) -> bool:
    labels: dict[str, str] = pod["metadata"]["labels"]
    return selector.items() <= labels.items()


def test_each_service_selects_its_own_pods_and_each_statefulset_its_role() -> None:
    rendered = render()
    ps, worker, controller = rendered.pods()
    tasks = rendered.one("Service", "mnist")["spec"]
    assert (tasks["clusterIP"], tasks["publishNotReadyAddresses"]) == ("None", True)
    assert [selects(tasks["selector"], pod) for pod in (ps, worker, controller)] == [
        True,
        True,
        False,
    ]
    found = rendered.one("Service", "mnist-controller")["spec"]
    assert found["publishNotReadyAddresses"] is True  # reachable while its kubelet is silent
    assert [selects(found["selector"], pod) for pod in (ps, worker, controller)] == [
        False,
        False,
        True,
    ]
    for role, own in (("ps", ps), ("worker", worker)):
        spec = rendered.statefulset(role)["spec"]
        assert spec["serviceName"] == "mnist"
        matched = [pod for pod in rendered.pods() if selects(spec["selector"]["matchLabels"], pod)]
        assert matched == [own]


def test_services_reach_ports_that_the_containers_have() -> None:
    rendered = render({"port": 3333, "controller": {"port": 3330}})
    for service, pod, number in (
        ("mnist", rendered.task_pod(), 3333),
        ("mnist-controller", rendered.controller_pod(), 3330),
    ):
        (port,) = rendered.one("Service", service)["spec"]["ports"]
        assert (port["port"], [port["targetPort"]]) == (
            number,
            [p["name"] for p in container(pod)["ports"] if p["containerPort"] == number],
        )


def test_only_the_releases_pods_reach_its_pods() -> None:
    rendered, other = render(), render(release="other")
    spec = rendered.one("NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress"]
    ((source,),) = (rule["from"] for rule in spec["ingress"])
    for selector in (spec["podSelector"], source["podSelector"]):
        assert all(selects(selector["matchLabels"], pod) for pod in rendered.pods())
        assert not any(selects(selector["matchLabels"], pod) for pod in other.pods())
    assert list(source) == ["podSelector"], "a namespaceSelector would let others in"
    assert not render({"networkPolicy": {"enabled": False}}).names("NetworkPolicy")
