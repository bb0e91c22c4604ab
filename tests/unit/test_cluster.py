"""The ClusterSpec, and how a program is told it."""

from __future__ import annotations

import json

import pytest

from launcher import cluster
from launcher.identity import Task
from tests.unit.jobs import job


def test_every_task_has_its_name_and_the_port() -> None:
    assert cluster.spec(job(replicas={"ps": 2, "worker": 3})) == {
        "ps": ["mnist-ps-0.mnist:2222", "mnist-ps-1.mnist:2222"],
        "worker": [f"mnist-worker-{i}.mnist:2222" for i in range(3)],
    }


def test_on_one_host_every_task_has_a_port() -> None:
    here = job(
        addresses={"host": "127.0.0.1", "port": 3000, "portsPerTask": True},
        replicas={"ps": 2, "worker": 100},
    )
    spec = cluster.spec(here)
    assert spec["ps"] == ["127.0.0.1:3000", "127.0.0.1:3001"]
    assert spec["worker"][:2] == ["127.0.0.1:3100", "127.0.0.1:3101"]
    every = spec["ps"] + spec["worker"]
    assert len(every) == len(set(every))


def test_a_program_is_told_in_three_ways() -> None:
    told = cluster.invocation(job(program__flags=True), Task("worker", 1), 7)
    workers = "mnist-worker-0.mnist:2222,mnist-worker-1.mnist:2222"
    assert told.argv == (
        "python",
        "train.py",
        "--steps",
        "5",
        "--ps_hosts=mnist-ps-0.mnist:2222",
        f"--worker_hosts={workers}",
        "--job_name=worker",
        "--task_index=1",
    )
    assert json.loads(told.env["TF_CONFIG"]) == {
        "cluster": {"ps": ["mnist-ps-0.mnist:2222"], "worker": workers.split(",")},
        "task": {"type": "worker", "index": 1},
    }
    assert {name: told.env[name] for name in told.env if name != "TF_CONFIG"} == {
        "LEVEL": "1",
        "PS_HOSTS": "mnist-ps-0.mnist:2222",
        "WORKER_HOSTS": workers,
        "JOB_NAME": "worker",
        "TASK_INDEX": "1",
        "TFRUN_RUN": "0123456789ab",
        "TFRUN_GENERATION": "7",
    }


def test_flags_are_given_only_where_they_are_asked_for() -> None:
    assert cluster.invocation(job(), Task("ps", 0), 1).argv == (
        "python",
        "train.py",
        "--steps",
        "5",
    )


@pytest.mark.parametrize("name", ["TF_CONFIG", "PS_HOSTS", "TASK_INDEX", "TFRUN_GENERATION"])
def test_a_programs_own_variables_never_hide_the_cluster(name: str) -> None:
    told = cluster.invocation(job(program__env={name: "mine"}), Task("worker", 0), 1)
    assert told.env[name] != "mine"
