"""Which address the ClusterSpec lists for each task."""

from __future__ import annotations

import pytest

from launcher.shared import cluster_spec
from launcher.shared.identity import Task
from tests.unit.jobs import job


def test_every_task_has_its_name_and_the_port() -> None:
    assert cluster_spec.spec(job(replicas={"ps": 2, "worker": 3}), {}) == {
        "ps": ["mnist-ps-0.mnist:2222", "mnist-ps-1.mnist:2222"],
        "worker": [f"mnist-worker-{i}.mnist:2222" for i in range(3)],
    }


@pytest.mark.parametrize(
    ("ip", "listed"), [("10.1.2.3", "10.1.2.3:2222"), ("fd00::3", "[fd00::3]:2222"), ("", None)]
)
def test_a_known_address_is_listed_in_place_of_the_name(ip: str, listed: str | None) -> None:
    spec = cluster_spec.spec(job(replicas={"ps": 2, "worker": 1}), {Task("ps", 1): ip})
    assert spec["ps"] == ["mnist-ps-0.mnist:2222", listed or "mnist-ps-1.mnist:2222"]


def test_the_chief_that_may_come_back_alone_is_listed_by_its_name() -> None:
    assert cluster_spec.spec(job(), {Task("worker", 0): "10.1.2.3"}) == cluster_spec.spec(job(), {})


def test_on_one_host_every_task_has_its_own_port() -> None:
    here = job(
        addresses={"host": "127.0.0.1", "port": 3000, "portsPerTask": True},
        replicas={"ps": 2, "worker": 100},
    )
    spec = cluster_spec.spec(here, {})
    assert spec["ps"] == ["127.0.0.1:3100", "127.0.0.1:3101"]
    assert spec["worker"][:2] == ["127.0.0.1:3200", "127.0.0.1:3201"]
    every = spec["ps"] + spec["worker"]
    assert len(every) == len(set(every))


def test_workers_that_may_join_later_are_listed_from_the_start() -> None:
    few = job(replicas={"ps": 1, "worker": 1}, maxReplicas={"worker": 3})
    more = job(replicas={"ps": 1, "worker": 3}, maxReplicas={"worker": 3})
    spec = cluster_spec.spec(few, {})
    assert spec["worker"] == [f"mnist-worker-{i}.mnist:2222" for i in range(3)]
    assert cluster_spec.spec(more, {}) == spec
    assert few.cluster_digest == more.cluster_digest


def test_an_evaluator_is_in_no_cluster() -> None:
    beside = job(mode="all-reduce", replicas={"worker": 1, "evaluator": 1})
    assert cluster_spec.spec(beside, {}) == {"worker": ["mnist-worker-0.mnist:2222"]}


def test_a_coordinators_cluster_has_its_chief() -> None:
    roles = {"chief": 1, "ps": 1, "worker": 1}
    spec = cluster_spec.spec(job(mode="coordinator", replicas=roles), {})
    assert spec == {role: [f"mnist-{role}-0.mnist:2222"] for role in roles}
