"""Runs that `helm upgrade` and `helm rollback` change: another size, other arguments, new pods."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Callable

import pytest

from tests.cluster.commands import ClusterError
from tests.cluster.release import Folders, Release, image_settings
from tests.e2e.conftest import EXAMPLE
from tests.e2e.paced import (
    brake,
    check_learnt,
    generations,
    install_paced,
    saved_step,
    wait_for_progress,
    wait_for_steps,
)
from tests.e2e.runs import (
    SERVERLESS,
    UNTIL_TOLD,
    OnNfs,
    children,
    finish,
    kill_child,
    leads,
    stateful_sets,
    task_pods,
    tell,
    tiny,
    wait_until_tasks_are_gone,
)
from tests.lines import Lines

pytestmark = pytest.mark.cluster
TRAINS = r"generation (\d+): all tasks start"


def names(release: Release) -> set[str]:
    """The pods that a release wants for its tasks."""
    replicas = release.job_json()["replicas"]
    return {f"run-{role}-{index}" for role, count in replicas.items() for index in range(count)}


def containers(release: Release) -> dict[str, tuple[Any, ...]]:
    """For each task pod that stays: what changes when the pod or its container is replaced."""
    return {
        pod["metadata"]["name"]: (
            pod["metadata"]["uid"],
            status["containerID"],
            status["state"]["running"]["startedAt"],
            status["restartCount"],
        )
        for pod in task_pods(release)
        if "deletionTimestamp" not in pod["metadata"]
        for status in pod["status"]["containerStatuses"]
    }


def of_processes(release: Release, file: str) -> list[str]:
    """The `cmdline` or the `environ` of all processes in the chief's container."""
    look = f"cat /proc/[0-9]*/{file}"
    return release.kubectl("exec", "run-worker-0", "--", "sh", "-c", look).split("\0")


def wait_until_it_trains(release: Release, folders: Folders, generation: int, saved: int) -> None:
    """Waits until every worker makes steps. Checks that none started from before `saved`."""
    workers = range(release.job_json()["replicas"]["worker"])
    wait_for_steps(release, folders, workers, generation, saved)


@contextlib.contextmanager
def unharmed(release: Release, folders: Folders) -> Iterator[None]:
    """Checks that the block leaves all pods, the chief's child and the training running."""
    pods, chief = containers(release), children(release.kubectl("logs", "run-worker-0"))
    yield
    saved = saved_step(folders)
    with Lines(release.logs("run-worker-0")) as lines:
        while saved_step(folders) <= saved:
            lines.wait_for(r"step \d+/\d+ loss", len(lines.lines))
    assert children(release.kubectl("logs", "run-worker-0")) == chief
    assert containers(release) == pods


def check_change(
    release: Release,
    folders: Folders,
    change: Callable[[], object],
    replaced: bool = False,
    most: int = 1,
) -> None:
    """Makes a change, and checks that all tasks then train in one new generation.

    The pods are those that are wanted, and stay the same; with `replaced` they are new. The chief
    starts at most `most` times.
    """
    pods = containers(release)
    before = [] if replaced else children(release.kubectl("logs", "run-worker-0"))
    saved = saved_step(folders)
    change()
    generation = int(leads(release, TRAINS)[1])
    wait_until_it_trains(release, folders, generation, saved)
    assert generations(release.kubectl("logs", release.controller())) == [generation]
    wanted = names(release)
    for pod in pods.keys() - wanted:
        release.kubectl("wait", "--for=delete", f"pod/{pod}", "--timeout=60s")
    now = containers(release)
    assert now.keys() == wanted
    assert {restarts for *_, restarts in now.values()} == {0}
    for pod in now.keys() & pods.keys():
        assert (now[pod] != pods[pod]) is replaced
    after = children(release.kubectl("logs", "run-worker-0"))
    assert after[: len(before)] == before
    assert after[-1] == generation
    assert len(after) <= len(before) + most


def test_a_training_goes_on_through_every_change(
    release: Release, on_nfs: OnNfs, paced: Path
) -> None:
    folders = on_nfs(paced)
    install_paced(release, folders, steps=10_000)
    leads(release, "generation 1: all tasks start")
    wait_until_it_trains(release, folders, 1, 0)
    first = release.job_json()

    def changed(settings: Mapping[str, Any]) -> Callable[[], str]:
        return lambda: release.change(settings)

    # A size for which there is no room at first. This is revision 2.
    def grow_when_there_is_room() -> None:
        release.kubectl("create", "quota", "full", "--hard=requests.memory=3200Mi")
        release.wait_for(["quota", "full"], "{.status.used}", "memory", 30)
        with unharmed(release, folders):
            release.change({"worker.replicas": 3})
            leads(release, "generation 1: found running, and taken over")
            leads(release, r"waiting for worker-2 \(not heard from\)")
        release.kubectl("delete", "quota", "full")

    check_change(release, folders, grow_when_there_is_room)
    check_change(release, folders, changed({"ps.replicas": 2}))
    assert release.job_json()["run"] == first["run"]

    # Other policies: a new controller takes over the tasks and restarts none.
    with unharmed(release, folders):
        release.change({"restarts.limit": 5, "hangTimeout": 300})
        leads(release, r"generation \d+: found running, and taken over")
    assert release.job_json()["run"] == first["run"]

    # Other arguments and variables make a new run, which continues from the checkpoint.
    args = [*first["program"]["args"], "--log_every_steps=5"]
    program = {"program.args": args, "program.env": {"COLOUR": "red"}}
    check_change(release, folders, changed(program))
    assert release.job_json()["run"] != first["run"]
    assert "--log_every_steps=5" in of_processes(release, "cmdline")
    assert "COLOUR=red" in of_processes(release, "environ")

    # Back to the first program, its run, and one ps.
    check_change(release, folders, lambda: release.rollback(2))
    assert release.job_json() == {**first, "replicas": {"ps": 1, "worker": 3}}
    assert "--log_every_steps=5" not in of_processes(release, "cmdline")
    assert "COLOUR=red" not in of_processes(release, "environ")

    # Another image: Kubernetes replaces the pods one by one, and all tasks restart once.
    new = {**image_settings(release.cluster.image_again), "grace": 60}
    old = ["run-worker-0", "run-worker-2"]
    with Lines(release.logs(old[0])) as chief, Lines(release.logs(old[1])) as worker:
        begun = [children(release.kubectl("logs", pod)) for pod in old]
        check_change(release, folders, changed(new), replaced=True)
        for lines in (chief, worker):
            lines.wait()
    assert [children(str(lines)) for lines in (chief, worker)] == begun
    last = release.job_json()["run"]
    assert (last != first["run"]) is (release.cluster.image_again != release.cluster.image)

    # Fewer workers, and fewer still while the first change waits for a child to stop.
    def change_while_it_forms() -> None:
        kill_child(release, "run-worker-1", "STOP")
        release.change({"worker.replicas": 2})
        leads(release, r"all tasks stop: generation \d+ forms")
        release.change({"worker.replicas": 1})
        leads(release, r"generation \d+ forms")
        kill_child(release, "run-worker-1", "CONT")

    check_change(release, folders, change_while_it_forms)

    # Two changes without a pause: the first one may start its tasks or not.
    def change_twice() -> None:
        release.change({"worker.replicas": 3, "ps.replicas": 2})
        release.change({"worker.replicas": 2, "ps.replicas": 1, "worker.maxReplicas": 3})

    check_change(release, folders, change_twice, most=2)
    assert release.job_json()["run"] == last

    # All possible names are listed now: a worker joins and leaves, and the others train on.
    with unharmed(release, folders):
        release.change({"worker.replicas": 3})
        generation = int(leads(release, r"generation (\d+): worker-2 starts")[1])
        with Lines(release.logs("run-worker-2")) as worker:
            wait_for_progress(worker, folders, generation)
        release.change({"worker.replicas": 2})
        release.kubectl("wait", "--for=delete", "pod/run-worker-2", "--timeout=60s")

    with Lines(release.logs(release.controller())) as controller:
        brake(folders).unlink()
        controller.wait_for("the run has succeeded")
        print(f"pods gone {wait_until_tasks_are_gone(release):.1f} s after the end")
    check_learnt(release.end())


SAVES = """
trap 'echo asked to stop
while [ ! -e /data/go ]; do sleep 0.1; done
echo $TASK_INDEX > /data/saved-$TASK_INDEX; exit 143' TERM
echo works
while true; do sleep 0.1; done
"""


def shell(folders: Folders, script: str) -> dict[str, Any]:
    """Settings of a run whose workers run a shell script, with the folder /data."""
    return {**tiny(script), **folders.settings, "code.image.path": "", "program.flags": False}


def test_a_worker_that_is_scaled_away_can_save_before_its_pod_is_deleted(
    release: Release, on_nfs: OnNfs
) -> None:
    folders = on_nfs(EXAMPLE)
    settings = {**shell(folders, SAVES), "worker.replicas": 3, "grace": 60}
    release.install([EXAMPLE / "values.yaml"], settings)
    leads(release, "generation 1: all tasks start")
    pods = containers(release)
    with (
        Lines(release.logs("run-worker-1")) as second,
        Lines(release.logs("run-worker-2")) as third,
    ):
        for worker in (second, third):
            worker.wait_for("works")
        release.change({"worker.replicas": 2})
        for worker in (second, third):
            worker.wait_for("asked to stop")
        leads(release, r"all tasks stop: generation \d+ forms")
        # The second change comes while the first one waits for the workers that save.
        release.change({"worker.replicas": 1})
        with Lines(release.logs(release.controller())) as controller:
            controller.wait_for(r"generation \d+ forms")
            assert containers(release) == pods
            (folders.data / "go").touch()
            generation = int(controller.wait_for(TRAINS)[1])
        for worker in (second, third):
            assert worker.wait() == 0
            assert "the child ended, as it was told to: killed by SIGTERM" in str(worker)
            assert children(str(worker)) == [1]
    assert sorted(file.read_text() for file in folders.data.glob("saved-*")) == [
        "0\n",
        "1\n",
        "2\n",
    ]
    with Lines(release.logs("run-worker-0")) as chief:
        chief.wait_for(f"generation {generation}: started ")
        assert children(str(chief)) == [1, generation]
    release.kubectl("wait", "--for=delete", "pod/run-worker-1", "pod/run-worker-2", "--timeout=60s")
    kept = ("run-ps-0", "run-worker-0")
    assert containers(release) == {name: pods[name] for name in kept}


def test_after_a_failed_run_only_a_raised_run_attempt_trains_again(
    release: Release, on_nfs: OnNfs
) -> None:
    folders = on_nfs(EXAMPLE)
    script = "test -e /data/mended || { echo broken; exit 3; }; echo mended"
    values = [EXAMPLE / "values.yaml"]
    release.install(values, {**shell(folders, script), "restarts.limit": 0})
    end, log = finish(release)
    assert (end.condition, end.exit_code) == ("Failed", 3)
    assert generations(log) == [1]
    wait_until_tasks_are_gone(release)
    sets = stateful_sets(release)

    (folders.data / "mended").touch()
    release.change({"restarts.limit": 5})
    end, log = finish(release)
    assert (end.condition, end.exit_code) == ("Failed", 3)
    assert generations(log) == []
    assert "has ended already: Failed" in log
    assert "raise run.attempt" in log
    assert stateful_sets(release) == sets

    wait_until_tasks_are_gone(release)
    release.change({"run.attempt": 2})
    end, log = finish(release)
    assert (end.condition, end.exit_code) == ("Complete", 0)
    assert generations(log) == [1]


def test_a_rollback_to_a_finished_run_trains_nothing(release: Release) -> None:
    release.install([], tiny("echo one"))
    assert release.end().message["lastLines"] == ["one"]
    wait_until_tasks_are_gone(release)
    release.change({"program.command": ["echo", "two"]})
    end, log = finish(release)
    assert end.message["lastLines"] == ["two"]
    assert generations(log) == [1]

    release.rollback(1)
    end, log = finish(release)
    assert (end.condition, end.exit_code) == ("Complete", 0)
    assert generations(log) == []
    assert "has ended already: Succeeded" in log


REPLACE = ("--force-replace", "--server-side=false")


def test_a_forced_replacement_interrupts_a_run_and_is_not_charged(release: Release) -> None:
    """It removes the controller's claim, and all pods of each role but the first."""
    told = tiny(f"{UNTIL_TOLD}; echo done")
    settings = {**told, **SERVERLESS, "worker.replicas": 3, "grace": 1, "restarts.limit": 0}
    release.install([], settings)
    leads(release, TRAINS)
    # A Job cannot be replaced. Its controller claims again.
    with pytest.raises(ClusterError, match=r"failed to replace object: Job\.batch"):
        release.change({}, *REPLACE)
    check_trains(release, r"generation (?!1:)\d+: all tasks start")

    release.change({"hangTimeout": 1000}, *REPLACE)
    check_trains(release, f"{TRAINS}(, with .*)?$")
    for pod in sorted(names(release)):
        tell(release, pod)
    assert release.end().condition == "Complete"


def check_trains(release: Release, line: str) -> None:
    """All three workers train again."""
    with Lines(release.logs(release.controller())) as log:
        release.wait_for(["sts", "run-worker"], "{.spec.replicas}", "^3$", 90)
        log.wait_for(line)
        release.wait_for(["sts", "run-worker"], "{.status.readyReplicas}", "^3$", 60)
