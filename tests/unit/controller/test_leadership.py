"""Which of two controllers leads: the one that the Service selects. There are no tasks."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator

import pytest

from launcher.controller import leadership, loop
from launcher.controller.environment import ControllerSettings, KubernetesSettings
from launcher.controller.kubernetes import ENDS_ANNOTATION, LEADER_ANNOTATION
from launcher.shared.exits import End, Phase
from tests.unit.controller.api_server import HASH, PREFIX, FakeApiServer, found_ends
from tests.unit.jobs import job
from tests.unit.processes import free_ports, wait_until

OTHER = "89abcdef"


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leadership, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(loop, "FAREWELL_SECONDS", 0.1)


class Controller:
    """A controller in a thread."""

    def __init__(self, api: FakeApiServer) -> None:
        self.end: asyncio.Future[End]
        (port,) = free_ports(1)
        kubernetes = KubernetesSettings("127.0.0.1", api.port, "research", HASH)
        self._settings = ControllerSettings(job(), ("127.0.0.1", port), kubernetes)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._lead()))
        self._began = threading.Event()
        self._thread.start()
        self._began.wait()

    async def _lead(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.end = asyncio.ensure_future(loop.lead(self._settings))
        self._began.set()
        await asyncio.wait([self.end])

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self.end.cancel)
        self._thread.join()


@pytest.fixture
def start(api: FakeApiServer) -> Iterator[Callable[[], Controller]]:
    """Starts controllers, and stops them after the test."""
    started: list[Controller] = []

    def begin() -> Controller:
        started.append(Controller(api))
        return started[-1]

    yield begin
    for controller in started:
        if not controller.end.done():
            controller.stop()


def finish(api: FakeApiServer) -> None:
    """Lets a controller lead and find that its run has ended."""
    ended = {"run": job().run, "phase": "Succeeded", "task": "worker-0", "exitCode": 0}
    annotations = api.objects["mnist-ps"]["metadata"].setdefault("annotations", {})
    annotations[ENDS_ANNOTATION] = json.dumps([{**ended, "reason": "ok"}])
    api.selected = HASH


def claimed(api: FakeApiServer) -> bool:
    return all(
        LEADER_ANNOTATION in each["metadata"].get("annotations", {})
        for each in api.objects.values()
    )


def writes(api: FakeApiServer) -> list[str]:
    return [path for method, path, _ in api.calls if method == "PATCH" and PREFIX in path]


def test_a_controller_that_the_service_no_longer_selects_stops_and_deletes_its_job(
    api: FakeApiServer, start: Callable[[], Controller]
) -> None:
    controller = start()
    wait_until(lambda: claimed(api), "the controller claims the StatefulSets")
    api.selected = OTHER
    api.claim(f"9999999999999 {OTHER}")
    assert api.job_deleted.wait(10)
    before = len(writes(api))
    looks = len(api.calls)
    wait_until(lambda: len(api.calls) > looks + 2, "it looks at the Service")
    assert len(writes(api)) == before
    assert not controller.end.done()  # the kubelet stops it


def test_a_controller_leads_again_when_the_service_selects_it_again(
    api: FakeApiServer, start: Callable[[], Controller]
) -> None:
    """Its Job cannot be deleted, because something else has done it."""
    api.job_exists = False
    controller = start()
    wait_until(lambda: claimed(api), "the controller claims the StatefulSets")
    api.selected = OTHER
    api.claim(f"9999999999999 {OTHER}")
    wait_until(
        lambda: any(method == "DELETE" for method, _, _ in api.calls), "it tries to delete its Job"
    )
    api.claim("9999999999999 other")
    finish(api)
    wait_until(controller.end.done, "the controller finds the end on record")
    assert controller.end.result().phase is Phase.SUCCEEDED
    assert (found_ends(api, "ps")[-1]["jobs"], found_ends(api, "worker")[-1]["jobs"]) == (
        HASH,
        HASH,
    )


def test_a_controller_that_is_restarted_after_another_took_over_claims_nothing(
    api: FakeApiServer, start: Callable[[], Controller]
) -> None:
    api.selected = OTHER
    start()
    wait_until(lambda: len(api.calls) > 3, "it looks at the Service")
    assert writes(api) == []
    assert api.job_exists, "its Job may be newer than the Service"


def test_a_controller_that_is_never_selected_deletes_its_job_in_the_end(
    api: FakeApiServer, start: Callable[[], Controller], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leadership, "UNSELECTED_SECONDS", 0.2)
    api.selected = OTHER
    api.claim(f"9999999999999 {OTHER}")
    start()
    assert api.job_deleted.wait(10)
    assert writes(api) == []


def test_a_controller_that_waits_survives_an_api_server_that_is_away(
    api: FakeApiServer, start: Callable[[], Controller]
) -> None:
    api.selected = OTHER
    controller = start()
    wait_until(lambda: len(api.calls) > 2, "it looks at the Service")
    api.failures += [(403, b"{}"), (503, b"{}"), (200, b"not JSON")]
    wait_until(lambda: not api.failures, "the API server has failed")
    finish(api)
    wait_until(controller.end.done, "the controller finds the end on record")
    assert controller.end.result().phase is Phase.SUCCEEDED


def test_a_controller_without_its_service_leads(
    api: FakeApiServer, start: Callable[[], Controller]
) -> None:
    api.selected = None
    start()
    wait_until(lambda: claimed(api), "the controller claims the StatefulSets")


@pytest.mark.parametrize("ended", [True, False])
def test_pods_go_when_the_run_of_the_controller_that_leads_again_has_ended(
    api: FakeApiServer, start: Callable[[], Controller], ended: bool
) -> None:
    """Its Job is finished, so no controller would remove them."""
    ends = [{"run": "before", "jobs": f"{OTHER} x" if ended else "x"}]
    for each in api.objects.values():
        each["metadata"]["annotations"] = {ENDS_ANNOTATION: json.dumps(ends)}
    start()
    wait_until(lambda: api.objects["mnist-worker"]["spec"]["replicas"] == 2, "it scales up")
    api.selected = OTHER
    if not ended:
        api.claim(f"9999999999999 {OTHER}")
    assert api.job_deleted.wait(10)
    replicas = [each["spec"]["replicas"] for each in api.objects.values()]
    assert replicas == ([0, 0] if ended else [1, 2])


def test_a_job_stays_until_another_controller_has_taken_over(
    api: FakeApiServer, start: Callable[[], Controller]
) -> None:
    """An upgrade can fail after it has changed the Service and before it creates the Job."""
    controller = start()
    wait_until(lambda: claimed(api), "the controller claims the StatefulSets")
    api.selected = OTHER
    looks = len(api.calls)
    wait_until(lambda: len(api.calls) > looks + 20, "it looks at the Service")
    assert api.job_exists
    api.claim(f"9999999999999 {OTHER}12345678")
    assert api.job_deleted.wait(10)
    assert not controller.end.done()
