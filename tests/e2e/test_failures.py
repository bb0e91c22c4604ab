"""What makes a run fail on the real Kubernetes, and how the run reports the cause.

Workers run short shell scripts.
"""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from tests.cluster.release import Release
from tests.e2e.conftest import EXAMPLE
from tests.e2e.paced import generations
from tests.e2e.runs import SERVERLESS, OnNfs, finish, kill_child, tiny, wait_until_tasks_are_gone
from tests.lines import Lines

pytestmark = pytest.mark.cluster


def test_the_job_the_events_and_the_logs_report_the_same_cause_of_the_end(release: Release) -> None:
    """The ps is killed, and then the workers fail without it. The ps is the cause."""
    release.install([], {**tiny(f"exec python3 -c '{UNTIL_PS_GOES}'"), **TOLD})
    good = dataclasses.replace(release, name="good")
    good.install([], {**tiny("echo done"), **SERVERLESS})
    with Lines(release.logs(release.controller())) as log:
        log.wait_for("generation 1: all tasks start")
        for worker in ("run-worker-0", "run-worker-1"):
            with Lines(release.logs(worker)) as lines:
                lines.wait_for("^connected$")
        kill_child(release, "run-ps-0")
        end = release.end()
        log.wait()
    reason = "ps-0 failed: killed by SIGKILL (exit code 137), and the restart budget of 0 is spent"
    assert (end.condition, end.exit_code) == ("Failed", 1)  # the Job would retry 137
    message = {"phase": "Failed", "task": "ps-0", "exitCode": 137, "reason": reason}
    assert message.items() <= end.message.items()
    assert f"the run has failed: {reason}" in str(log)
    for worker in ("run-worker-0", "run-worker-1"):
        assert re.search("the child ended.*: exit code 1$", release.kubectl("logs", worker), re.M)
    assert told(release) == ("Failed", "PodFailurePolicy")

    good.end()
    assert told(good) == ("Complete", "Completed")

    release.upgrade([], {**tiny(f"exec python3 -c '{UNTIL_PS_GOES}'"), **TOLD, "grace": 20})
    end, said = finish(release)
    # The controller's claim may conflict with a change of the StatefulSet's status: it retries.
    first = next(line for line in said.splitlines() if "a call to Kubernetes failed" not in line)
    assert first.endswith(f"has ended already: Failed: {reason}")
    assert (end.condition, end.exit_code, end.message["task"]) == ("Failed", 1, "ps-0")


UNTIL_PS_GOES = """
import os, signal, socket, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
host, port = os.environ["PS_HOSTS"].split(":")
while True:
    try:
        ps = socket.create_connection((host, int(port)), 1)
        break
    except OSError:
        time.sleep(0.1)
ps.settimeout(None)
print("connected", flush=True)
try:
    while ps.recv(4096):
        pass
finally:
    os._exit(1)
"""
TOLD = {"restarts.limit": 0, "cleanup": "Keep"}


def told(release: Release) -> tuple[str, str]:
    """A Job's status as `kubectl get` shows it, and the reason of the last event about it."""
    head, row = release.kubectl("get", "job", release.job()).splitlines()
    status = dict(zip(head.split(), row.split()))["STATUS"]
    about = f"involvedObject.kind=Job,involvedObject.name={release.job()}"
    events = json.loads(release.kubectl("get", "events", f"--field-selector={about}", "-o", "json"))
    last = sorted(events["items"], key=lambda event: str(event["lastTimestamp"]))[-1]
    return status, last["reason"]


def test_a_hang_and_a_passed_deadline_end_the_run_with_124(release: Release) -> None:
    late = dataclasses.replace(release, name="late")
    one = {**SERVERLESS, "worker.replicas": 1}
    silent = "for step in 1 2 3; do echo step $step; sleep 0.3; done; exec sleep 1000000"
    release.install([], {**tiny(silent), **one, "hangTimeout": 2, "restarts.limit": 1})
    late.install([], {**tiny("exec sleep 1000000"), **one, "deadline": 3})

    end, log = finish(release)
    assert (end.condition, end.exit_code, end.message["exitCode"]) == ("Failed", 124, 124)
    assert end.message["task"] == "worker-0"
    reason = "worker-0 failed: no progress for 2 s, and the restart budget of 1 is spent"
    assert end.message["reason"] == reason
    assert end.message["lastLines"] == ["step 1", "step 2", "step 3"]
    assert generations(log) == [1, 2]
    assert "the cause: worker-0: no progress for 2 s; restart 1 of 1" in log

    end, log = finish(late)
    assert (end.condition, end.exit_code, end.message["exitCode"]) == ("Failed", 124, 124)
    assert "has not ended within its deadline of 3 s" in end.message["reason"]
    for each in (release, late):
        wait_until_tasks_are_gone(each)


def test_the_output_of_a_program_that_uses_too_much_memory_is_kept(
    release: Release, on_nfs: OnNfs
) -> None:
    folders = on_nfs(EXAMPLE)
    greedy = "echo so much; exec python3 -c 'b\"x\" * 2**30'"
    settings = {
        **{key: value for key, value in folders.settings.items() if key.startswith("volumes")},
        "volumes[0].name": "data",
        "volumes[0].mountPath": "/data",
        "logs": "/data/logs",
        **SERVERLESS,
        "worker.replicas": 1,
        "worker.resources.limits": {"memory": "128Mi"},
        "restarts.limit": 1,
    }
    release.install([], {**tiny(greedy), **settings})
    end, log = finish(release)
    print(log)
    wait_until_tasks_are_gone(release)
    assert (end.condition, end.exit_code, end.message["exitCode"]) == ("Failed", 1, 137)
    assert generations(log) == [1, 2]
    (kept,) = (folders.data / "logs").iterdir()
    assert {file.name: file.read_text() for file in kept.iterdir()} == {
        "1-worker-0.log": "so much\n",
        "2-worker-0.log": "so much\n",
    }
