"""What a run survives on the real Kubernetes: lost launchers, pods, nodes, controllers.

Workers run real TensorFlow where the training matters, and short shell scripts elsewhere.
test_run.py covers killed children and deleted pods of the ps and the controller.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import Cluster
from tests.cluster.box import AGAIN_SECONDS, Box
from tests.cluster.commands import run, within
from tests.cluster.release import Folders, Release
from tests.e2e.conftest import EXAMPLE, PACED, Places
from tests.e2e.kills import (
    kill_child_on_this_machine,
    kill_container,
    kill_container_of,
    make_killer,
    uid,
)
from tests.e2e.paced import (
    brake,
    check_learnt,
    generations,
    install_paced,
    saved_step,
    wait_for_steps,
)
from tests.e2e.runs import (
    SERVERLESS,
    UNTIL_TOLD,
    OnNfs,
    children,
    finish,
    kill_child,
    task_pods,
    tell,
    tiny,
    wait_for_what_pods_need,
)
from tests.lines import TIMEOUT, Lines

pytestmark = pytest.mark.cluster

PLAIN = PACED.with_name("plain.py")
KILLS = 10
POLL_SECONDS = 25  # TensorFlow's own polls are 30 s apart
SESSION_SECONDS = 15  # a worker that waits longer for its session waits for such a poll
STEPS = 9000  # more than a slowed training makes during a test
OUTAGE_SECONDS = 60
SILENCE_SECONDS = 240  # until a node is marked unready, also by controllers that just restarted
# For runs with many failures: each counts for 1 s only, otherwise the pauses would grow.
NO_PAUSES = {"restarts.limit": 1, "restarts.refill": 1}
Fault = Callable[[], object]


@pytest.fixture
def box(cluster: Cluster) -> Box:
    """The box, if it is the cluster: only in a box can a test stop a part of Kubernetes."""
    box = Box()
    if cluster.context != box.context:
        pytest.skip("stops parts of Kubernetes: needs the Kubernetes in a box")
    return box


def test_training_restarts_from_the_checkpoint_after_lost_launchers_pods_and_nodes(
    release: Release, on_nfs: OnNfs, paced: Path, tmp_path: Path
) -> None:
    folders = on_nfs(paced)
    install_paced(release, folders, steps=STEPS)
    # A killed container is charged, because it may have used too much memory. A lost pod is not.
    faults: list[tuple[Fault, str, str]] = [
        (lambda: kill_container(release, "run-worker-1"), "worker-1", "restart 1 of 3"),
        (lambda: kill_container(release, "run-ps-0"), "ps-0", "restart 2 of 3"),
        (lambda: evict(release, "run-worker-1", tmp_path), "worker-1", "not charged"),
        (lambda: lose_with_its_node(release, "run-ps-0"), "ps-0", "not charged"),
    ]
    controllers = [release.controller()]
    addresses = []
    with Lines(release.logs(controllers[0])) as log:
        log.wait_for("generation 1: all tasks start")
        addresses.append(address(release, "run-ps-0"))
        saved = wait_for_steps(release, folders, (0, 1), 1)
        for number, (fault, lost, charge) in enumerate(faults, 2):
            heard, begin = len(log.lines), time.monotonic()
            fault()
            alone = lost == "worker-1"
            log.wait_for(f"lost {lost}: .*; {lost if alone else 'all tasks'} stop", heard)
            log.wait_for(f"the cause: {lost}: .*{charge}", heard)
            log.wait_for(f"generation {number}: {lost if alone else 'all tasks'} start", heard)
            if not alone:
                addresses.append(address(release, "run-ps-0"))
            saved = wait_for_steps(release, folders, (1,) if alone else (0, 1), number, saved)
            print(f"fault {number - 1}, {lost}: steps after {time.monotonic() - begin:.1f} s")
        # The killed container restarted in its pod, at the same address. The lost pod was replaced.
        assert addresses[0] == addresses[1] != addresses[2]
        for how in ([], ["--force", "--grace-period=0"]):
            begin = time.monotonic()
            delete(release, "--all", *how)
            controllers.append(release.controller(after=controllers))
            with Lines(release.logs(controllers[-1])) as log:
                number = int(log.wait_for(r"generation (\d+): all tasks start")[1])
                saved = wait_for_steps(release, folders, (0, 1), number, saved)
            print(f"all pods: steps after {time.monotonic() - begin:.1f} s")
            assert not re.search(r"; restart \d", str(log))
    brake(folders).unlink()
    check_learnt(release.end())


def delete(release: Release, *what: str) -> None:
    release.kubectl("delete", "pod", *what, "--wait=false")


def evict(release: Release, pod: str, folder: Path) -> None:
    """Evicts one pod, as `kubectl drain` evicts all pods of a node."""
    metadata = {"name": pod, "namespace": release.namespace}
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
    file = folder / "eviction.json"
    file.write_text(json.dumps(eviction))
    path = f"/api/v1/namespaces/{release.namespace}/pods/{pod}/eviction"
    release.kubectl("create", "--raw", path, "-f", str(file))


def lose_with_its_node(release: Release, pod: str) -> None:
    """Imitates a lost node, as there is only one: cuts a pod's network and deletes the pod."""
    box = Box()
    if release.cluster.context == box.context:
        route = run(box.enter("ip", "-json", "route", "get", address(release, pod)))
        run(box.enter("ip", "link", "set", json.loads(route)[0]["dev"], "down"))
    delete(release, pod, "--force", "--grace-period=0")


def address(release: Release, pod: str) -> str:
    return release.kubectl("get", "pod", pod, "-o", "jsonpath={.status.podIP}")


def test_ten_restarts_in_a_row_are_all_fast(release: Release, on_nfs: OnNfs, paced: Path) -> None:
    """Every second generation starts without a checkpoint; the others start from one."""
    shutil.copy(PLAIN, paced)
    folders = on_nfs(paced)
    brake(folders).touch()
    folder = "--checkpoint_dir=/data/checkpoint-$((TFRUN_GENERATION / 2))"
    settings = {
        "program.command": ["sh", "-c", f'exec python plain.py {folder} "$@"', "plain.py"],
        "program.args": ["--checkpoint_secs=1", "--log_every_steps=10", "--epochs=100"],
        **NO_PAUSES,
        "grace": 1,  # with the ps gone there is nothing to save
    }
    begin = time.monotonic()
    release.install([EXAMPLE / "values.yaml"], {**folders.settings, **settings})
    with Lines(release.logs(release.controller())) as log:
        log.wait_for("generation 1: all tasks start")
        with (
            Lines(release.logs("run-worker-0")) as chief,
            Lines(release.logs("run-worker-1")) as worker,
        ):
            seconds, waits, slow_chiefs = [], [], 0
            for generation in range(1, KILLS + 2):
                for lines in (chief, worker):
                    line = lines.wait_for(f"generation {generation}: started ").string
                    begun = time.monotonic()
                    first = lines.lines.index(line)
                    lines.wait_for(r"worker \d of 2: ", first)
                    imported = time.monotonic()
                    lines.wait_for(r"start: step \d+/", first)
                    waits.append(time.monotonic() - imported)
                    slow_chiefs += lines is chief and time.monotonic() - begun > SESSION_SECONDS
                    lines.wait_for(r"step \d+/\d+ loss", first)
                seconds.append(time.monotonic() - begin)
                if generation <= KILLS:
                    begin = time.monotonic()
                    kill_child(release, "run-ps-0")
            brake(folders).unlink()
            check_learnt(release.end())
            log.wait()
    print("seconds from the install and from each kill to new steps of both workers:")
    print(" ".join(f"{each:.1f}" for each in seconds))
    print("seconds that the chief and the other worker waited for their sessions:")
    print(" ".join(f"{each:.1f}" for each in waits))
    starts = [int(step) for step in re.findall(r"start: step (\d+)/", str(chief))]
    assert [step > 0 for step in starts] == [n % 2 == 1 and n > 1 for n in range(1, KILLS + 2)]
    # If the chief is so slow that the controller stops waiting for it, a worker may have to poll.
    late = len(re.findall("session is not up after", str(log)))
    assert late <= slow_chiefs
    assert len([wait for wait in waits if wait > SESSION_SECONDS]) <= late
    slow = statistics.median(seconds[1:]) + POLL_SECONDS
    assert len([each for each in seconds[1:] if each > slow]) <= late


def test_training_goes_on_without_the_control_plane(
    release: Release, on_nfs: OnNfs, paced: Path, box: Box, places: Places
) -> None:
    folders = on_nfs(paced)
    # The output is kept on the volume, because the test reads it without Kubernetes.
    settings = {**folders.settings, "logs": "/data/logs", **NO_PAUSES}
    folders = dataclasses.replace(folders, settings=settings)
    install_paced(release, folders, steps=STEPS)
    with Lines(release.logs(release.controller())) as log:
        log.wait_for("generation 1: all tasks start")
    wait_for_steps(release, folders, (0, 1), 1)
    pods = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in task_pods(release)}
    # The kubelet first: Kubernetes' controllers recover slowly once they have lost the API server.
    with box.without("kubelet"):
        ready = '{.status.conditions[?(@.type=="Ready")].status}'
        release.wait_for(["node"], ready, "Unknown", SILENCE_SECONDS)
        for pod in (release.controllers()[-1], *pods):
            release.wait_for(["pod", pod], ready, "False", SILENCE_SECONDS)
        # Twice, because a Service drops a pod that is not ready only some moments later.
        for generation in (2, 3):
            begin = time.monotonic()
            kill_child_on_this_machine(pods["run-worker-1"])
            wait_for_kept_steps(folders, f"{generation}-worker-1")
            print(f"without the kubelet: mended in {time.monotonic() - begin:.1f} s")
    with box.without("kube-apiserver"):
        begin = time.monotonic()
        kill_child_on_this_machine(pods["run-worker-1"])
        wait_for_kept_steps(folders, "4-worker-1")
        kill_child_on_this_machine(pods["run-ps-0"])
        for worker in ("worker-0", "worker-1"):
            wait_for_kept_steps(folders, f"5-{worker}")
        print(f"without the API server: two kills mended in {time.monotonic() - begin:.1f} s")
        saved = saved_step(folders)
        assert within(OUTAGE_SECONDS, lambda: time.monotonic() - begin >= OUTAGE_SECONDS)
        assert within(AGAIN_SECONDS, lambda: saved_step(folders) > saved)
    assert {pod["metadata"]["uid"] for pod in task_pods(release)} == set(pods.values())
    brake(folders).unlink()
    check_learnt(release.end())
    # Components that lost the API server may reconnect as late as a minute after its return. Wait
    # until a pod in a new namespace runs, because the next test needs all of them.
    new = places.make()
    try:
        wait_for_what_pods_need(new, SILENCE_SECONDS)
        make_killer(new)
    finally:
        places.leave(new.namespace)


def wait_for_kept_steps(folders: Folders, name: str) -> None:
    """Waits until the kept output of a task in a generation shows steps."""
    (kept,) = (folders.data / "logs").iterdir()
    file = kept / f"{name}.log"

    def moves() -> bool:
        return file.exists() and bool(re.search(r"step \d+/\d+ loss", file.read_text()))

    assert within(TIMEOUT, moves), f"no steps in {file}"


def test_a_run_that_loses_its_controller_in_any_phase_trains_once(
    release: Release, tmp_path: Path
) -> None:
    gate = {"name": "gate", "image": release.cluster.image, "command": ["sh", "-c", UNTIL_TOLD]}
    stubborn = f"trap '{UNTIL_TOLD}; exit 143' TERM"
    stubborn += "; [ $TFRUN_GENERATION != 1 ] || while :; do sleep 0.1; done"
    settings: dict[str, dict[str, Any]] = {
        "early": {**tiny("true"), "pod": {"initContainers": [gate]}},
        "forming": tiny(stubborn),
        "leading": tiny(UNTIL_TOLD),
        "ending": tiny(UNTIL_TOLD),
    }
    runs = {name: dataclasses.replace(release, name=name) for name in settings}
    for name, each in runs.items():
        # The pods stay, so that their logs can be read.
        settings[name] |= {**SERVERLESS, "cleanup": "Keep"}
        each.install([], settings[name])
    make_killer(release)
    controllers = {name: each.controller() for name, each in runs.items()}

    with Lines(runs["early"].logs(controllers["early"])) as log:
        log.wait_for("2 worker")
        kill_container(runs["early"], controllers["early"])
    with Lines(runs["forming"].logs(controllers["forming"])) as log:
        log.wait_for("generation 1: all tasks start")
        started(runs["forming"], "forming-worker-0")
        started(runs["forming"], "forming-worker-1")
        kill_child(runs["forming"], "forming-worker-1")
        log.wait_for("generation 1: lost worker-1: .*; all tasks stop")
        kill_container(runs["forming"], controllers["forming"])
        log.wait()
        assert generations(str(log)) == [1]
    with Lines(runs["leading"].logs(controllers["leading"])) as log:
        log.wait_for("generation 1: all tasks start")
        evict(runs["leading"], controllers["leading"], tmp_path)
    with Lines(runs["ending"].logs(controllers["ending"])) as log:
        log.wait_for("generation 1: all tasks start")
        # Without its rights it cannot record the end, so the kill comes while it still tries.
        ending = runs["ending"]
        caught = uid(ending, controllers["ending"])
        ending.kubectl("delete", "rolebinding", "-l", "app.kubernetes.io/instance=ending")
        tell(ending, "ending-worker-0")
        tell(ending, "ending-worker-1")
        log.wait_for("the run has succeeded")
        log.wait_for("Kubernetes refuses to")
        kill_container_of(ending, caught)
        log.wait()
        assert "tfrun/end" not in str(ending.get("statefulset"))
        ending.upgrade([], settings["ending"])

    begin = time.monotonic()
    for name, each in runs.items():
        controllers[name] = each.controller(after=[controllers[name]])
        print(f"{name}: a new controller after {time.monotonic() - begin:.1f} s more")
    for pod in ("early-worker-0", "early-worker-1"):
        state = "{.status.initContainerStatuses[*].state}"
        release.wait_for(["pod", pod], state, "running", AGAIN_SECONDS)
        tell(release, pod, "gate")
    tell(release, "forming-worker-0")
    tell(release, "leading-worker-0")
    tell(release, "leading-worker-1")
    for name, each in runs.items():
        end, said = finish(each)
        assert (end.condition, end.exit_code, end.message["phase"]) == ("Complete", 0, "Succeeded")
        assert each.controllers()[-1] == controllers[name]
        print(f"{name}:\n{said}")
        for index in (0, 1):
            starts = [1, 3] if name == "forming" else [1]
            assert started(each, f"{name}-worker-{index}") == starts, (name, index)


def started(release: Release, pod: str) -> list[int]:
    """Waits until a task has started its program. Returns the generations in which it did."""
    with Lines(release.logs(pod)) as lines:
        lines.wait_for(r"generation \d+: started ")
    return children(release.kubectl("logs", pod))
