"""Runs on the real Kubernetes: what they end with, what they survive and what they leave behind.

Workers run real TensorFlow where the training matters, and short shell scripts elsewhere.
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Callable

import pytest
import yaml

from tests.cluster.release import Folders, Release
from tests.e2e.conftest import EXAMPLE
from tests.e2e.kills import kill_container
from tests.e2e.paced import (
    brake,
    check_learnt,
    generations,
    install_paced,
    saved_step,
    wait_for_progress,
)
from tests.e2e.runs import (
    PROMPT_SECONDS,
    UNTIL_TOLD,
    OnNfs,
    check_failed,
    everything,
    finish,
    kill_child,
    stateful_sets,
    task_pods,
    tell,
    tiny,
    wait_for_what_pods_need,
    wait_until_tasks_are_gone,
)
from tests.lines import Lines

pytestmark = pytest.mark.cluster

CLAIM = EXAMPLE.parent / "nfs-claim.yaml"
PODS = ("run-ps-0", "run-worker-0", "run-worker-1")
FOR_EVER = "exec sleep 1000000"


def only(index: int, script: str) -> str:
    """A script for one worker; the others wait for ever."""
    return f"[ $TASK_INDEX = {index} ] || {FOR_EVER}; {script}"


@pytest.fixture
def claimed(release: Release, on_nfs: OnNfs) -> Iterator[Folders]:
    """A namespace with Pod Security "restricted", and a claim on a folder of the export."""
    name = release.namespace
    release.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    folders = on_nfs(EXAMPLE)
    volume, claim = yaml.safe_load_all(CLAIM.read_text())
    volume["metadata"]["name"] = claim["spec"]["volumeName"] = name
    path = f"{release.cluster.nfs_path}/{name}"
    volume["spec"]["nfs"] = {"server": release.cluster.nfs_server, "path": path}
    file = folders.data.parent / "claim.json"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": [volume, claim]}))
    release.kubectl("apply", "-f", str(file))
    yield folders
    release.kubectl("delete", "persistentvolume", name, "--wait=false")


def test_a_run_succeeds_under_restricted_security_and_never_trains_twice(
    release: Release, claimed: Folders
) -> None:
    values = [EXAMPLE / "values.yaml", EXAMPLE / "values-claim.yaml"]
    args = yaml.safe_load(values[1].read_text())["program"]["args"]
    settings = {"program.args": [*args, "--epochs=100"]}
    release.install(values, settings)
    with Lines(release.logs(release.controller())) as lines:
        lines.wait_for("generation 1: all tasks start")
        for pod in PODS:
            look = "id -u; ls /var/run/secrets /run/secrets 2>&1; env; true"
            user, *seen = release.kubectl("exec", pod, "--", "sh", "-c", look).splitlines()
            assert user == "1000"
            assert sum("No such file" in line for line in seen) == 2
            assert not [line for line in seen if "TOKEN" in line.upper()]
        end = release.end()
        lines.wait()
    check_learnt(end)
    assert "the run has succeeded: all 2 workers ended with exit code 0" in str(lines)
    assert generations(str(lines)) == [1]
    wait_until_tasks_are_gone(release)
    assert (claimed.data / "model" / "saved_model.pb").stat().st_size > 0
    assert saved_step(claimed) >= 1400
    sets = stateful_sets(release)
    assert [(role, pods) for role, pods, _, _ in sets] == [("ps", 0), ("worker", 0)]
    assert [end["phase"] for _, _, _, end in sets] == ["Succeeded", "Succeeded"]

    # The same values: not even the controller restarts.
    controllers = release.controllers()
    release.upgrade(values, settings)
    assert release.controllers() == controllers
    assert stateful_sets(release) == sets

    # A change of a policy: a new controller, which finds the recorded end.
    release.upgrade(values, {**settings, "restarts.limit": 1})
    end, log = finish(release)
    assert (end.condition, end.exit_code) == ("Complete", 0)
    assert "has ended already: Succeeded" in log
    assert "raise run.attempt" in log
    assert stateful_sets(release) == sets

    release.upgrade(values, {**settings, "run.attempt": 2})
    end, log = finish(release)
    check_learnt(end)
    assert generations(log) == [1]


FAIL = "echo one; echo the reason >&2; exit 3"


@pytest.mark.parametrize(
    ("settings", "begun", "why"),
    [
        ({"restarts.limit": 0}, [1], "and the restart budget of 0 is spent"),
        ({"restarts.limit": 1}, [1, 2], "and the restart budget of 1 is spent"),
        ({"restarts.permanentCodes": [3]}, [1], "which is never retried"),
    ],
)
def test_a_failing_program_fails_the_run_with_its_code_and_last_lines(
    release: Release, settings: Mapping[str, Any], begun: list[int], why: str
) -> None:
    release.install([], {**tiny(only(1, FAIL)), **settings})
    end, log = finish(release)
    check_failed(release, end, 3)
    assert generations(log) == begun
    assert end.message["task"] == "worker-1"
    assert end.message["lastLines"] == ["one", "the reason"]
    assert end.message["reason"] == f"worker-1 failed: exit code 3, {why}"
    assert end.message["reason"] in log


def test_training_restarts_from_the_checkpoint_after_killed_children_and_deleted_pods(
    release: Release, on_nfs: OnNfs, paced: Path
) -> None:
    folders = on_nfs(paced)
    install_paced(release, folders, steps=4000)
    # The fault, what the controller says about it, and who restarts.
    faults: list[tuple[Callable[[], object], str, str]] = [
        (
            lambda: kill_child(release, "run-worker-1"),
            "generation 1: lost worker-1: killed by SIGKILL.*; worker-1 stop",
            "worker-1 start",
        ),
        (
            lambda: kill_child(release, "run-worker-0"),
            "generation 1: lost worker-0: killed by SIGKILL.*; worker-0 stop",
            "worker-0 start",
        ),
        (
            lambda: kill_child(release, "run-ps-0"),
            "generation 1: lost ps-0: killed by SIGKILL.*; all tasks stop",
            "all tasks start",
        ),
        (
            lambda: release.kubectl("delete", "pod", "run-ps-0", "--wait=false"),
            "generation 4: lost ps-0: .*; all tasks stop",
            "all tasks start",
        ),
    ]
    with Lines(release.logs(release.controller())) as log:
        log.wait_for("generation 1: all tasks start")
        with (
            Lines(release.logs("run-worker-0")) as chief,
            Lines(release.logs("run-worker-1")) as worker,
        ):
            saved = [wait_for_progress(chief, folders, 1)]
            worker.wait_for("start: step ")
            for number, (fault, lost, started) in enumerate(faults, 2):
                fault()
                log.wait_for(lost)
                log.wait_for(f"generation {number}: {started}")
                lines = worker if started == "worker-1 start" else chief
                saved.append(wait_for_progress(lines, folders, number))
            for pod in task_pods(release):
                assert pod["status"]["containerStatuses"][0]["restartCount"] == 0
            brake(folders).unlink()
            end = release.end()
            log.wait()
            starts = re.findall(r"start: step (\d+)/", str(chief))
    check_learnt(end)
    assert generations(str(log)) == [1, 2, 3, 4, 5]
    assert re.findall(r"restart (\d) of 3|(not charged)", str(log)) == [
        ("1", ""),
        ("2", ""),
        ("3", ""),
        ("", "not charged"),
    ]
    # The chief never started from before the saved step. The first fault did not restart it.
    assert all(int(start) >= step for start, step in zip(starts[1:], saved[1:]))
    assert len(starts) == 4


def test_a_new_controller_takes_over_a_training_that_goes_on(
    release: Release, on_nfs: OnNfs, paced: Path
) -> None:
    folders = on_nfs(paced)
    install_paced(release, folders, steps=3000)
    controllers = [release.controller()]
    with Lines(release.logs(controllers[0])) as log:
        log.wait_for("generation 1: all tasks start")
    with (
        Lines(release.logs("run-worker-0")) as chief,
        Lines(release.logs("run-worker-1")) as worker,
    ):
        wait_for_progress(chief, folders, 1)
        for kill in (
            lambda pod: release.kubectl("delete", "pod", pod, "--wait=false"),
            lambda pod: kill_container(release, pod),
        ):
            kill(controllers[-1])
            controllers.append(release.controller(after=controllers))
            with Lines(release.logs(controllers[-1])) as log:
                log.wait_for("generation 1: found running, and taken over")
            chief.wait_for(r"step \d+/\d+ loss", len(chief.lines))
        brake(folders).unlink()
        check_learnt(release.end())
    for lines in (chief, worker):
        assert len(re.findall(r"generation \d+: started python paced.py", str(lines))) == 1


def test_helm_uninstall_in_the_middle_of_a_run_leaves_nothing(
    release: Release, on_nfs: OnNfs, paced: Path
) -> None:
    wait_for_what_pods_need(release)
    before = everything(release)
    folders = on_nfs(paced)
    install_paced(release, folders, steps=100_000)
    with Lines(release.logs(release.controller())) as log:
        log.wait_for("generation 1: all tasks start")
    with Lines(release.logs("run-worker-0")) as chief:
        wait_for_progress(chief, folders, 1)
        assert len(everything(release) - before) > 10
        begin = time.monotonic()
        release.uninstall()
        assert time.monotonic() - begin < PROMPT_SECONDS
    wait_until_only(release, before)


def wait_until_only(release: Release, before: set[str]) -> None:
    """Checks that nothing else is left. Kubernetes' garbage collector has up to 60 s."""
    left = everything(release) - before
    if left:
        release.kubectl("wait", "--for=delete", *sorted(left), "--timeout=60s")
    assert everything(release) == before


@pytest.mark.parametrize("helm", ["helm", "helm3"])
def test_both_helms_install_upgrade_roll_back_and_uninstall(release: Release, helm: str) -> None:
    cluster = dataclasses.replace(release.cluster, helm=getattr(release.cluster, helm))
    release = dataclasses.replace(release, cluster=cluster)
    wait_for_what_pods_need(release)
    before = everything(release)
    said = release.install([], tiny(FOR_EVER))
    assert "kubectl -n" in said
    with Lines(release.logs(release.controller())) as log:
        log.wait_for("generation 1: all tasks start")
    pods = {pod["metadata"]["uid"] for pod in task_pods(release)}
    assert len(pods) == len(PODS)

    release.upgrade([], {**tiny(f"{UNTIL_TOLD}; echo upgraded"), "restarts.limit": 1})
    lines = release.follow()
    assert any("all tasks start" in line for line in lines)
    assert {pod["metadata"]["uid"] for pod in task_pods(release)} == pods
    for worker in PODS[1:]:
        tell(release, worker)
    assert any("the run has succeeded" in line for line in lines)
    assert release.end().message["lastLines"] == ["upgraded"]

    wait_until_tasks_are_gone(release)
    release.rollback(1)
    with Lines(release.logs(release.controller())) as log:
        log.wait_for("generation 1: all tasks start")
    release.uninstall()
    wait_until_only(release, before)
