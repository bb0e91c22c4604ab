"""The controller's Kubernetes calls against a small HTTPS server of this test: a fake.

It knows two StatefulSets, takes both kinds of patches as the API server does, checks the token,
and fails when it is told to. What a real API server says is tested end to end.
"""

from __future__ import annotations

import http.client
import http.server
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme

from launcher.controller import kubernetes, loop
from launcher.controller.environment import ControllerSettings, KubernetesSettings
from launcher.controller.kubernetes import (
    BEGIN_ANNOTATION,
    ENDS_ANNOTATION,
    LEADER_ANNOTATION,
    Kubernetes,
    SupersededError,
)
from launcher.decisions import directive, state, step
from launcher.shared.exits import Code, End, LauncherError, Phase
from launcher.shared.identity import Task
from launcher.shared.protocol import (
    PATH,
    Action,
    Directive,
    Leader,
    Report,
    decode_directive,
    encode_report,
)
from launcher.task.state import Told
from tests.unit.jobs import job
from tests.unit.play import Pod
from tests.unit.processes import free_ports

PREFIX = "/apis/apps/v1/namespaces/research/statefulsets/"


class FakeApiServer:
    """StatefulSets mnist-ps and mnist-worker."""

    def __init__(self, authority: trustme.CA) -> None:
        self.objects: dict[str, dict[str, Any]] = {
            f"mnist-{role}": {
                "metadata": {"name": f"mnist-{role}", "generation": 3, "resourceVersion": "1"},
                "spec": {"replicas": 1},
                "status": {"observedGeneration": 3, "updateRevision": f"mnist-{role}-1"},
            }
            for role in ("ps", "worker")
        }
        self.calls: list[tuple[str, str, Any]] = []
        self.failures: list[tuple[int, bytes]] = []  # the next answers
        self.records_refused = 0  # how many records of the end fail first
        self.refusal = 503  # and how
        self.meanwhile: list[str] = []  # who claims both before the next patch is taken
        self.token = "first"
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer()

            def do_PATCH(self) -> None:
                self.answer()

            def answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                fake.calls.append((self.command, self.path, body))
                status, text = fake.answer(self, body)
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = int(self.server.server_address[1])
        self.thread = threading.Thread(target=self.server.serve_forever, args=[0.05])
        self.thread.start()

    def answer(self, request: http.server.BaseHTTPRequestHandler, body: Any) -> tuple[int, bytes]:
        if self.failures:
            return self.failures.pop(0)
        if request.headers["Authorization"] != f"Bearer {self.token}":
            return 401, json.dumps({"message": "Unauthorized"}).encode()
        if isinstance(body, list) and ENDS_ANNOTATION in self.names(body) and self.records_refused:
            self.records_refused -= 1
            return self.refusal, b"{}"
        found = self.objects.get(request.path.removeprefix(PREFIX))
        if not found:
            return 404, json.dumps({"message": "statefulsets.apps not found"}).encode()
        if request.command == "PATCH":
            if self.meanwhile:
                self.claim(self.meanwhile.pop())
            kind = "json-patch" if isinstance(body, list) else "merge-patch"
            assert request.headers["Content-Type"] == f"application/{kind}+json"
            refused = change(found, body) if isinstance(body, list) else merge_newest(found, body)
            if refused:
                return refused, json.dumps({"message": "it has changed"}).encode()
            version = int(found["metadata"]["resourceVersion"])
            found["metadata"]["resourceVersion"] = str(version + 1)
        return 200, json.dumps(found).encode()

    def claim(self, leader: str) -> None:
        for each in self.objects.values():
            merge(each, {"metadata": {"annotations": {LEADER_ANNOTATION: leader}}})
            each["metadata"]["resourceVersion"] += "0"

    @staticmethod
    def names(patch: list[dict[str, Any]]) -> list[str]:
        return [operation["path"].split("/")[-1].replace("~1", "/") for operation in patch]

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def merge_newest(into: dict[str, Any], patch: dict[str, Any]) -> int:
    """A merge patch that names the version that it was made for; the status where it is refused."""
    if patch["metadata"]["resourceVersion"] != into["metadata"]["resourceVersion"]:
        return 409
    merge(into, patch)
    return 0


def change(into: dict[str, Any], patch: list[dict[str, Any]]) -> int:
    """RFC 6902, as far as it is used; the status where it is refused."""
    for operation in patch:
        *parents, last = (part.replace("~1", "/") for part in operation["path"][1:].split("/"))
        place = into
        for part in parents:
            place = place[part]
        if operation["op"] == "test" and place.get(last) != operation["value"]:
            return 422
        place[last] = operation["value"]
    return 0


def merge(into: dict[str, Any], patch: dict[str, Any]) -> None:
    """RFC 7386, as far as it is used."""
    for key, value in patch.items():
        if isinstance(value, dict):
            merge(into.setdefault(key, {}), value)
        else:
            into[key] = value


@pytest.fixture(autouse=True)
def short_farewell(monkeypatch: pytest.MonkeyPatch) -> None:
    """To tasks that are never there."""
    monkeypatch.setattr(loop, "FAREWELL_SECONDS", 0.5)
    monkeypatch.setattr(loop, "KEPT_FAREWELL_SECONDS", 0.5)


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the kubelet mounts into a pod."""
    monkeypatch.setattr(kubernetes, "ACCOUNT", tmp_path)
    (tmp_path / "token").write_text("first")
    return tmp_path


@pytest.fixture
def api(account: Path) -> Iterator[FakeApiServer]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(account / "ca.crt"))
    server = FakeApiServer(authority)
    yield server
    server.close()


def client(port: int) -> Kubernetes:
    return Kubernetes(KubernetesSettings("127.0.0.1", port, "research"), "mnist")


ME = Leader(5, "me")


def found_ends(api: FakeApiServer, role: str) -> list[dict[str, Any]]:
    annotations = api.objects[f"mnist-{role}"]["metadata"]["annotations"]
    ends: list[dict[str, Any]] = json.loads(annotations[ENDS_ANNOTATION])
    return ends


def test_the_number_of_pods_is_read_and_written(api: FakeApiServer) -> None:
    k = client(api.port)
    assert k.claim("worker", ME) == kubernetes.StatefulSet(1, "mnist-worker-1", ME, {}, ())
    k.scale("worker", ME, 4)
    assert k.claim("worker", ME).replicas == 4
    assert k.claim("ps", ME).replicas == 1


def test_the_end_and_the_pods_change_in_one_call(api: FakeApiServer) -> None:
    k = client(api.port)
    k.claim("ps", ME)
    k.end("ps", ME, [{"run": "r", "code": 0}], free=True)
    found = k.claim("ps", ME)
    assert (found.replicas, found.ends) == (0, ({"run": "r", "code": 0},))
    assert [method for method, _, _ in api.calls] == ["GET", "PATCH", "PATCH", "GET", "PATCH"]


def test_the_end_alone_leaves_the_pods_and_the_beginning(api: FakeApiServer) -> None:
    k = client(api.port)
    k.claim("ps", ME)
    k.begin("ps", ME, {"run": "r", "at": 5.5})
    k.end("ps", ME, [{"run": "r"}], free=False)
    found = k.claim("ps", ME)
    assert (found.begin, found.ends, found.replicas) == (
        {"run": "r", "at": 5.5},
        ({"run": "r"},),
        1,
    )


def test_the_newest_ends_are_kept(api: FakeApiServer) -> None:
    k = client(api.port)
    k.claim("ps", ME)
    k.end("ps", ME, [{"run": number} for number in range(99)], free=False)
    assert [end["run"] for end in k.claim("ps", ME).ends] == list(range(79, 99))


@pytest.mark.parametrize("value", ["", "{", "[1]", "3", "{}"])
def test_a_record_that_is_none_is_no_end(api: FakeApiServer, value: str) -> None:
    api.objects["mnist-ps"]["metadata"]["annotations"] = {ENDS_ANNOTATION: value}
    assert client(api.port).claim("ps", ME).ends == ()


# Of two controllers the one that began later writes.


@pytest.mark.parametrize("what", ["scale", "begin", "end"])
def test_who_is_superseded_writes_no_more(api: FakeApiServer, what: str) -> None:
    k = client(api.port)
    k.claim("ps", ME)
    k.claim("ps", Leader(6, "younger"))
    before = json.dumps(api.objects)
    writes: dict[str, Callable[[], None]] = {
        "scale": lambda: k.scale("ps", ME, 3),
        "begin": lambda: k.begin("ps", ME, {"run": "r"}),
        "end": lambda: k.end("ps", ME, [], free=True),
    }
    with pytest.raises(SupersededError):
        writes[what]()
    assert json.dumps(api.objects) == before
    k.scale("ps", Leader(6, "younger"), 3)


def test_a_claim_that_comes_between_is_seen(api: FakeApiServer) -> None:
    k = client(api.port)
    api.meanwhile = ["9 younger"]
    with pytest.raises(http.client.HTTPException, match="409"):
        k.claim("ps", ME)
    assert k.claim("ps", ME).leader == Leader(9, "younger")


@pytest.mark.parametrize("status", [None, {}, {"observedGeneration": 2, "updateRevision": "old"}])
def test_a_template_that_kubernetes_has_not_seen_is_waited_for(
    api: FakeApiServer, status: dict[str, Any] | None
) -> None:
    """Its revision would be the last template's, and the pods of that one seem up to date."""
    api.objects["mnist-ps"]["status"] = status
    with pytest.raises(http.client.HTTPException, match="of role ps is not yet observed"):
        client(api.port).claim("ps", ME)


def test_replicas_that_nobody_set_are_one(api: FakeApiServer) -> None:
    del api.objects["mnist-ps"]["spec"]["replicas"]
    assert client(api.port).claim("ps", ME).replicas == 1


def test_the_token_is_read_each_time(api: FakeApiServer, account: Path) -> None:
    k = client(api.port)
    k.claim("ps", ME)
    api.token = "second"
    (account / "token").write_text("second")
    k.claim("ps", ME)


@pytest.mark.parametrize("status", [401, 403, 404, 422])
def test_a_refusal_says_what_and_why(api: FakeApiServer, status: int) -> None:
    api.failures.append((status, json.dumps({"message": 'cannot get "mnist-ps"'}).encode()))
    with pytest.raises(LauncherError) as error:
        client(api.port).claim("ps", ME)
    assert error.value.code is Code.CONFIGURATION
    assert f'role ps ({status}): cannot get "mnist-ps".' in error.value.reason


@pytest.mark.parametrize(
    ("status", "text"), [(500, b"oops"), (429, b"{}"), (409, b'{"message": "x"}'), (200, b"<html>")]
)
def test_what_may_pass_is_not_a_refusal(api: FakeApiServer, status: int, text: bytes) -> None:
    api.failures.append((status, text))
    with pytest.raises((OSError, http.client.HTTPException)):
        client(api.port).claim("ps", ME)


def test_another_authority_is_not_trusted(api: FakeApiServer, account: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(account / "ca.crt"))
    with pytest.raises(ssl.SSLCertVerificationError):
        client(api.port).claim("ps", ME)
    assert api.calls == []


# The controller with it, in this process: its tasks are never there.


def lead(api_port: int, **changes: Any) -> End:
    (port,) = free_ports(1)
    return loop.run(
        ControllerSettings(
            job(**changes),
            ("127.0.0.1", port),
            KubernetesSettings("127.0.0.1", api_port, "research"),
        )
    )


def record(**changes: Any) -> dict[str, Any]:
    ended = {"run": job().run, "phase": "Succeeded", "task": "worker-0", "code": 0, "reason": "ok"}
    others = [{"run": "before"}, {**ended, **changes}, {"run": "after"}]
    return {"annotations": {ENDS_ANNOTATION: json.dumps(others)}}


@pytest.mark.parametrize(
    ("found", "phase", "code"),
    [
        ({}, Phase.SUCCEEDED, 0),
        ({"phase": "Failed", "code": 42}, Phase.FAILED, 42),
        ({"phase": "Failed", "code": "x"}, Phase.FAILED, 70),
    ],
)
@pytest.mark.parametrize("role", ["ps", "worker"])
def test_a_run_that_has_ended_is_not_led_again(
    api: FakeApiServer, found: dict[str, Any], phase: Phase, code: int, role: str
) -> None:
    """Not even where only one of the StatefulSets has got to know it."""
    api.objects[f"mnist-{role}"]["metadata"].update(record(**found))
    end = lead(api.port)
    assert (end.phase, end.code) == (phase, code)
    for each in api.objects.values():
        assert each["spec"]["replicas"] == 0
    for known in ("ps", "worker"):
        assert found_ends(api, known)[-1]["run"] == job().run
        assert [end["run"] for end in found_ends(api, known)].count(job().run) == 1


@pytest.mark.parametrize("keep", [True, False])
def test_a_deadline_counts_from_when_the_run_began(api: FakeApiServer, keep: bool) -> None:
    """Not from when this controller did: each one that comes would prolong it."""
    began = {"run": job().run, "at": time.time() - 3600}
    api.objects["mnist-ps"]["metadata"]["annotations"] = {BEGIN_ANNOTATION: json.dumps(began)}
    end = lead(api.port, deadline=3600, cleanup="Keep" if keep else "Delete")
    assert (end.phase, end.code) == (Phase.FAILED, 124)
    assert end.reason == "the run has not ended within its deadline of 3600 s"
    for role, each in zip(("ps", "worker"), api.objects.values()):
        (ended,) = found_ends(api, role)
        assert (ended["run"], ended["code"]) == (job().run, 124)
        assert each["spec"]["replicas"] == (2 if keep and "worker" in str(each) else int(keep))


@pytest.mark.parametrize("before", [{}, {"run": "another", "at": 0}, {"run": "r", "at": "x"}])
def test_the_first_controller_of_a_run_writes_down_when_it_began(
    api: FakeApiServer, before: dict[str, Any]
) -> None:
    api.objects["mnist-ps"]["metadata"]["annotations"] = {BEGIN_ANNOTATION: json.dumps(before)}
    at = time.time()
    assert lead(api.port, deadline=0.5).code == 124
    annotations = api.objects["mnist-ps"]["metadata"]["annotations"]
    began = json.loads(annotations[BEGIN_ANNOTATION])
    assert began["run"] == job().run
    assert at <= began["at"] <= time.time()
    assert time.time() - at >= 0.5


def test_a_controller_that_is_superseded_ends_and_may_be_started_again(
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
    assert (end.phase, end.code) == (Phase.STOPPED, 143)
    assert "a younger controller leads this run" in capfd.readouterr().err
    assert ENDS_ANNOTATION not in api.objects["mnist-ps"]["metadata"]["annotations"]


def test_a_claim_of_the_future_is_outbidden(api: FakeApiServer) -> None:
    """Its clock went ahead, and it is gone."""
    api.claim("9999999999999 older")
    assert lead(api.port, deadline=0.1).code == 124
    for each in api.objects.values():
        assert each["metadata"]["annotations"][LEADER_ANNOTATION].startswith("10000000000000 ")


def test_pods_that_are_kept_are_kept(api: FakeApiServer) -> None:
    api.objects["mnist-ps"]["metadata"].update(record())
    lead(api.port, cleanup="Keep")
    assert [each["spec"]["replicas"] for each in api.objects.values()] == [1, 1]


def test_a_server_that_is_away_is_waited_for(
    api: FakeApiServer, capfd: pytest.CaptureFixture[str]
) -> None:
    api.objects["mnist-ps"]["metadata"].update(record())
    api.failures += [(503, b"{}"), (200, b"not JSON")]
    assert lead(api.port).code == 0
    assert capfd.readouterr().err.count("Kubernetes does not answer, next try in") == 2


def test_a_refusal_passes_where_a_role_was_only_just_made(api: FakeApiServer) -> None:
    api.objects["mnist-ps"]["metadata"].update(record())
    api.failures += [(403, b'{"message": "forbidden"}')]
    assert lead(api.port).code == 0


def test_a_refusal_that_stays_ends_the_controller(
    api: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "REFUSED_SECONDS", 0.5)
    api.failures += [(403, b'{"message": "forbidden"}')] * 9
    with pytest.raises(LauncherError, match="forbidden"):
        lead(api.port)


def test_an_end_that_may_not_be_recorded_is_told_as_it_was(
    api: FakeApiServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loop, "REFUSED_SECONDS", 0.5)
    api.records_refused, api.refusal = 99, 403
    assert lead(api.port, deadline=0.1, grace=0).code == Code.DEADLINE
    assert capfd.readouterr().err.count("The end is not on record there, and its pods stay") == 2


def test_an_end_is_recorded_wherever_it_may_be(
    api: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one of the StatefulSets is refused the others' pods go all the same."""
    monkeypatch.setattr(loop, "REFUSED_SECONDS", 0.0)
    api.records_refused, api.refusal = 1, 403
    assert lead(api.port, deadline=0.1, grace=0).code == Code.DEADLINE
    assert [each["spec"]["replicas"] for each in api.objects.values()] == [1, 0]
    assert ENDS_ANNOTATION in api.objects["mnist-worker"]["metadata"]["annotations"]


@pytest.mark.parametrize("part", ["step", "directive"])
def test_a_fault_of_the_controller_ends_it(
    api: FakeApiServer, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """In its ticks as well as in an answer: nothing may go on half alive."""

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
        job(), ("127.0.0.1", port), KubernetesSettings("127.0.0.1", api.port, "research")
    )
    knocking = threading.Thread(target=knock, args=[port], daemon=True)
    if part == "directive":
        knocking.start()
    with pytest.raises(FaultError):
        loop.run(settings)
    if part == "directive":
        knocking.join()


def knock(port: int) -> None:
    """Reports once, when there is somebody who listens."""
    report = encode_report(Report(Task("worker", 0), "me", 1, "", "", None, None, ready=False))
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
def test_tasks_hear_of_the_end_when_it_is_on_record(
    api: FakeApiServer, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has heard of it never trains again: a controller after this one must know of it too."""
    monkeypatch.setattr(loop, "FAREWELL_SECONDS", 30.0)  # these tasks are there
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
                small, ("127.0.0.1", port), KubernetesSettings("127.0.0.1", api.port, "research")
            )
        )
    finally:
        over.set()
        playing.join()
    assert end.code == code
    assert recorded
    assert all(recorded)


def report_of(port: int, report: Report) -> Directive | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", PATH, encode_report(replace(report, wait=False)))
        return decode_directive(connection.getresponse().read())
    except (ConnectionError, http.client.HTTPException):
        return None
    finally:
        connection.close()
