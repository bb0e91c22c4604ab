"""The controller's loop on Kubernetes, in this process: what it reads there, records, and survives.

There are no tasks, except where a test plays them.
"""

from __future__ import annotations

import http.client
import http.server
import json
import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from launcher.controller import kubernetes, loop
from launcher.controller.environment import ControllerSettings, KubernetesSettings
from launcher.controller.kubernetes import BEGIN_ANNOTATION, ENDS_ANNOTATION, LEADER_ANNOTATION
from launcher.decisions import directive, state, step
from launcher.shared.exits import End, ExitCode, LauncherError, Phase
from launcher.shared.identity import Task
from launcher.shared.protocol import (
    PATH,
    Action,
    Directive,
    Report,
    decode_directive,
    encode_report,
)
from launcher.task.state import Told
from tests.unit.controller.api_server import HASH, FakeApiServer, found_ends
from tests.unit.jobs import job
from tests.unit.play import Pod
from tests.unit.processes import free_ports


@pytest.fixture(autouse=True)
def short_farewell(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short farewell, because there are no tasks that it waits for."""
    monkeypatch.setattr(loop, "FAREWELL_SECONDS", 0.5)
    monkeypatch.setattr(loop, "KEPT_FAREWELL_SECONDS", 0.5)


def lead(api_port: int, **changes: Any) -> End:
    (port,) = free_ports(1)
    return loop.run(
        ControllerSettings(
            job(**changes),
            ("127.0.0.1", port),
            KubernetesSettings("127.0.0.1", api_port, "research", HASH),
        )
    )


def record(**changes: Any) -> dict[str, Any]:
    ended = {
        "run": job().run,
        "phase": "Succeeded",
        "task": "worker-0",
        "exitCode": 0,
        "reason": "ok",
    }
    others = [{"run": "before"}, {**ended, **changes}, {"run": "after"}]
    return {"annotations": {ENDS_ANNOTATION: json.dumps(others)}}


@pytest.mark.parametrize(
    ("found", "phase", "code"),
    [
        ({}, Phase.SUCCEEDED, 0),
        ({"phase": "Failed", "exitCode": 42}, Phase.FAILED, 42),
        ({"phase": "Failed", "exitCode": "x"}, Phase.FAILED, 70),
    ],
)
@pytest.mark.parametrize("role", ["ps", "worker"])
def test_a_run_with_a_recorded_end_ends_at_once(
    api: FakeApiServer, found: dict[str, Any], phase: Phase, code: int, role: str
) -> None:
    """Even if only one of the StatefulSets has the record."""
    api.objects[f"mnist-{role}"]["metadata"].update(record(**found))
    end = lead(api.port)
    assert (end.phase, end.exit_code) == (phase, code)
    for each in api.objects.values():
        assert each["spec"]["replicas"] == 0
    for known in ("ps", "worker"):
        assert found_ends(api, known)[-1]["run"] == job().run
        assert [end["run"] for end in found_ends(api, known)].count(job().run) == 1


@pytest.mark.parametrize("keep", [True, False])
def test_a_deadline_counts_from_when_the_run_began(api: FakeApiServer, keep: bool) -> None:
    """Not from this controller's start, because each new controller would prolong it."""
    began = {"run": job().run, "at": time.time() - 3600}
    api.objects["mnist-ps"]["metadata"]["annotations"] = {BEGIN_ANNOTATION: json.dumps(began)}
    end = lead(api.port, deadline=3600, cleanup="Keep" if keep else "Delete")
    assert (end.phase, end.exit_code) == (Phase.FAILED, 124)
    assert end.reason == "the run has not ended within its deadline of 3600 s"
    for role, each in zip(("ps", "worker"), api.objects.values()):
        (ended,) = found_ends(api, role)
        assert (ended["run"], ended["exitCode"]) == (job().run, 124)
        assert each["spec"]["replicas"] == (2 if keep and "worker" in str(each) else int(keep))


@pytest.mark.parametrize("before", [{}, {"run": "another", "at": 0}, {"run": "r", "at": "x"}])
def test_the_first_controller_of_a_run_records_when_it_began(
    api: FakeApiServer, before: dict[str, Any]
) -> None:
    api.objects["mnist-ps"]["metadata"]["annotations"] = {BEGIN_ANNOTATION: json.dumps(before)}
    at = time.time()
    assert lead(api.port, deadline=0.5).exit_code == 124
    annotations = api.objects["mnist-ps"]["metadata"]["annotations"]
    began = json.loads(annotations[BEGIN_ANNOTATION])
    assert began["run"] == job().run
    assert at <= began["at"] <= time.time()
    assert time.time() - at >= 0.5


def test_a_superseded_controller_ends_with_143(
    api: FakeApiServer, capfd: pytest.CaptureFixture[str]
) -> None:
    api.records_refused = 1

    def claim() -> None:
        while api.records_refused:
            time.sleep(0.01)
        api.claim("9999999999999 younger")

    claiming = threading.Thread(target=claim)
    claiming.start()
    end = lead(api.port, deadline=0.1)
    claiming.join()
    assert (end.phase, end.exit_code) == (Phase.STOPPED, 143)
    assert "another controller leads this run" in capfd.readouterr().err
    assert ENDS_ANNOTATION not in api.objects["mnist-ps"]["metadata"]["annotations"]


def test_a_claim_with_a_larger_number_is_outbid(api: FakeApiServer) -> None:
    """The claim is of an older controller, now gone, whose clock was ahead."""
    api.claim("9999999999999 older")
    assert lead(api.port, deadline=0.1).exit_code == 124
    for each in api.objects.values():
        assert each["metadata"]["annotations"][LEADER_ANNOTATION].startswith("10000000000000 ")


def test_pods_are_kept_after_the_end_if_cleanup_is_keep(api: FakeApiServer) -> None:
    api.objects["mnist-ps"]["metadata"].update(record())
    lead(api.port, cleanup="Keep")
    assert [each["spec"]["replicas"] for each in api.objects.values()] == [1, 1]


def test_the_controller_waits_for_an_api_server_that_is_away(
    api: FakeApiServer, capfd: pytest.CaptureFixture[str]
) -> None:
    api.objects["mnist-ps"]["metadata"].update(record())
    api.failures += [(503, b"{}"), (200, b"not JSON")]
    assert lead(api.port).exit_code == 0
    assert capfd.readouterr().err.count("a call to Kubernetes failed, next try in") == 2


def test_a_refusal_that_passes_soon_does_not_end_the_controller(api: FakeApiServer) -> None:
    api.objects["mnist-ps"]["metadata"].update(record())
    api.failures += [(403, b'{"message": "forbidden"}')]
    assert lead(api.port).exit_code == 0


def test_a_refusal_that_lasts_ends_the_controller(
    api: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes, "REFUSED_SECONDS", 0.5)
    api.failures += [(403, b'{"message": "forbidden"}')] * 9
    with pytest.raises(LauncherError, match="forbidden"):
        lead(api.port)


def test_an_end_that_cannot_be_recorded_is_still_the_controllers_exit_code(
    api: FakeApiServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kubernetes, "REFUSED_SECONDS", 0.5)
    api.records_refused, api.refusal = 99, 403
    assert lead(api.port, deadline=0.1, grace=0).exit_code == ExitCode.DEADLINE
    assert capfd.readouterr().err.count("The end is not recorded there, and its pods stay") == 2


def test_an_end_is_recorded_at_every_statefulset_that_allows_it(
    api: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If Kubernetes refuses the record at one StatefulSet, the others are still scaled down."""
    monkeypatch.setattr(kubernetes, "REFUSED_SECONDS", 0.0)
    api.records_refused, api.refusal = 1, 403
    assert lead(api.port, deadline=0.1, grace=0).exit_code == ExitCode.DEADLINE
    assert [each["spec"]["replicas"] for each in api.objects.values()] == [1, 0]
    assert ENDS_ANNOTATION in api.objects["mnist-worker"]["metadata"]["annotations"]


@pytest.mark.parametrize("part", ["step", "directive"])
def test_an_exception_in_a_tick_or_an_answer_ends_the_controller(
    api: FakeApiServer, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """Otherwise it would continue without its ticks, or without its answers."""

    class FaultError(Exception):
        pass

    original = step.step

    def fail(*arguments: Any) -> Any:
        if part == "step" and not isinstance(arguments[1], state.Tick):
            return original(*arguments)
        raise FaultError

    monkeypatch.setattr(step if part == "step" else directive, part, fail)
    (port,) = free_ports(1)
    settings = ControllerSettings(
        job(), ("127.0.0.1", port), KubernetesSettings("127.0.0.1", api.port, "research", HASH)
    )
    knocking = threading.Thread(target=knock, args=[port], daemon=True)
    if part == "directive":
        knocking.start()
    with pytest.raises(FaultError):
        loop.run(settings)
    if part == "directive":
        knocking.join()


def knock(port: int) -> None:
    """Reports once, as soon as the controller listens."""
    report = encode_report(Report(Task("worker", 0), "me", 1, "", "", None, None, can_start=False))
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("POST", PATH, report)
            connection.getresponse()
        except ConnectionRefusedError:
            time.sleep(0.02)
        except (http.client.HTTPException, ConnectionError):
            return
        finally:
            connection.close()


@pytest.mark.parametrize("code", [0, 2])
def test_tasks_are_told_the_end_only_after_it_is_recorded(
    api: FakeApiServer, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that knows of the end never trains again: the next controller must know of it too."""
    monkeypatch.setattr(loop, "FAREWELL_SECONDS", 30.0)  # here there are tasks
    small = job(replicas={"ps": 1, "worker": 1})
    (port,) = free_ports(1)
    api.records_refused = 2
    recorded: list[bool] = []
    over = threading.Event()

    def play() -> None:
        pods = [Pod(task, str(task)) for task in small.tasks]
        while not over.is_set():
            for pod in pods:
                told = report_of(port, pod.report())
                if told is None:
                    continue
                pod.take(Told(told))
                if told.action is Action.END:
                    objects = api.objects.values()
                    recorded.append(
                        all(
                            ENDS_ANNOTATION in o["metadata"].get("annotations", {}) for o in objects
                        )
                    )
                if pod.runs and pod.task.role == "worker":
                    pod.end(code)
            time.sleep(0.02)

    playing = threading.Thread(target=play)
    playing.start()
    try:
        end = loop.run(
            ControllerSettings(
                small,
                ("127.0.0.1", port),
                KubernetesSettings("127.0.0.1", api.port, "research", HASH),
            )
        )
    finally:
        over.set()
        playing.join()
    assert end.exit_code == code
    assert recorded
    assert all(recorded)


def report_of(port: int, report: Report) -> Directive | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", PATH, encode_report(replace(report, long_poll=False)))
        return decode_directive(connection.getresponse().read())
    except (ConnectionError, http.client.HTTPException):
        return None
    finally:
        connection.close()
