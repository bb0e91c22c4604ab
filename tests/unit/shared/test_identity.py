"""How a name tells which task it is."""

from __future__ import annotations

import pytest

from launcher.shared.identity import Task, parse_task, task_of_pod


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("worker-0", Task("worker", 0)),
        ("ps-12", Task("ps", 12)),
        ("worker-999999", Task("worker", 999999)),
        ("chief-0", Task("chief", 0)),
        ("evaluator-0", Task("evaluator", 0)),
    ],
)
def test_a_task_has_a_name(name: str, task: Task) -> None:
    assert parse_task(name) == task
    assert str(task) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "worker",
        "worker-",
        "worker--1",
        "worker-01",
        "worker-1000000",
        "boss-0",
        "chief",
        "ps-1\n",
        "mnist-worker-0",
        "worker-1 ",
        "Worker-1",
        "worker-\u0661",
        "controller",
    ],
)
def test_a_text_that_is_no_tasks_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"must be a role and an ordinal like worker-0; got "):
        parse_task(name)


@pytest.mark.parametrize(
    ("pod", "role", "task"),
    [
        ("mnist-worker-3", "worker", Task("worker", 3)),
        ("mnist-worker-3", None, Task("worker", 3)),
        ("a-b-ps-0", None, Task("ps", 0)),
        ("mnist-chief-0", None, Task("chief", 0)),
        ("mnist-evaluator-0", "evaluator", Task("evaluator", 0)),
        ("ps-0", None, Task("ps", 0)),
        ("trainer-7", "ps", Task("ps", 7)),
        ("worker-1", "ps", Task("ps", 1)),
        ("4", "worker", Task("worker", 4)),
    ],
)
def test_a_pods_name_tells_the_task(pod: str, role: str | None, task: Task) -> None:
    assert task_of_pod(pod, role) == task


@pytest.mark.parametrize(
    ("pod", "role", "mistakes"),
    [
        ("mnist-worker-x", "worker", ["pod's name must end in -<ordinal>"]),
        ("mnist", None, ["pod's name must end in -<ordinal>"]),
        ("mnist-worker-01", "worker", ["pod's name must end in -<ordinal>"]),
        (
            "mnist-3",
            None,
            ["TFRUN_ROLE must be set (chief or ps or worker or evaluator)", "'mnist-3'"],
        ),
        ("mnist-3", "boss", ["TFRUN_ROLE must be one of chief, ps, worker, evaluator; got 'boss'"]),
        ("mnist-3", "", ["TFRUN_ROLE must be one of chief, ps, worker, evaluator; got ''"]),
        ("mnist", "boss", ["TFRUN_ROLE must be one of", "pod's name must end in -<ordinal>"]),
    ],
)
def test_every_mistake_in_a_tasks_identity_is_named(
    pod: str, role: str | None, mistakes: list[str]
) -> None:
    with pytest.raises(ValueError, match="must") as error:
        task_of_pod(pod, role)
    for mistake in mistakes:
        assert mistake in str(error.value)
