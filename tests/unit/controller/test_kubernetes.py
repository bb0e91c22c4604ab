"""The controller's calls to Kubernetes: claims, records, patches, and what an answer means."""

from __future__ import annotations

import http.client
import http.server
import json
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from launcher.controller import kubernetes
from launcher.controller.environment import KubernetesSettings
from launcher.controller.kubernetes import ENDS_ANNOTATION, Kubernetes, SupersededError
from launcher.shared.exits import ExitCode, LauncherError
from launcher.shared.protocol import Leader
from tests.unit.controller.api_server import HASH, FakeApiServer


def client(port: int) -> Kubernetes:
    return Kubernetes(KubernetesSettings("127.0.0.1", port, "research", HASH), "mnist")


ME = Leader(5, "me")


def test_the_number_of_pods_is_read_and_written(api: FakeApiServer) -> None:
    k = client(api.port)
    assert k.claim("worker", ME) == kubernetes.StatefulSet(1, "mnist-worker-1", ME, {}, ())
    k.scale("worker", ME, 4)
    assert k.claim("worker", ME).replicas == 4
    assert k.claim("ps", ME).replicas == 1


def test_the_end_and_the_number_of_pods_change_in_one_call(api: FakeApiServer) -> None:
    k = client(api.port)
    k.claim("ps", ME)
    k.end("ps", ME, [{"run": "r", "exitCode": 0}], free=True)
    found = k.claim("ps", ME)
    assert (found.replicas, found.ends) == (0, ({"run": "r", "exitCode": 0},))
    assert [method for method, _, _ in api.calls] == ["GET", "PATCH", "PATCH", "GET", "PATCH"]


def test_recording_only_the_end_keeps_the_pods_and_the_beginning(api: FakeApiServer) -> None:
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
def test_a_malformed_record_of_ends_is_read_as_no_end(api: FakeApiServer, value: str) -> None:
    api.objects["mnist-ps"]["metadata"]["annotations"] = {ENDS_ANNOTATION: value}
    assert client(api.port).claim("ps", ME).ends == ()


@pytest.mark.parametrize("what", ["scale", "begin", "end"])
def test_a_superseded_controller_writes_nothing(api: FakeApiServer, what: str) -> None:
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


def test_a_claim_that_somebody_has_removed_is_made_again(api: FakeApiServer) -> None:
    """`helm upgrade --force-replace` removes the annotations."""
    k = client(api.port)
    k.claim("ps", ME)
    del api.objects["mnist-ps"]["metadata"]["annotations"]
    k.scale("ps", ME, 3)
    assert k.claim("ps", ME) == kubernetes.StatefulSet(3, "mnist-ps-1", ME, {}, ())


def test_a_claim_that_another_controller_makes_meanwhile_is_noticed(api: FakeApiServer) -> None:
    k = client(api.port)
    api.meanwhile = ["9 younger"]
    with pytest.raises(http.client.HTTPException, match="409"):
        k.claim("ps", ME)
    assert k.claim("ps", ME).leader == Leader(9, "younger")


@pytest.mark.parametrize("status", [None, {}, {"observedGeneration": 2, "updateRevision": "old"}])
def test_a_claim_fails_until_kubernetes_has_observed_the_template(
    api: FakeApiServer, status: dict[str, Any] | None
) -> None:
    """Before that, updateRevision is the last template's, and old pods would look up to date."""
    api.objects["mnist-ps"]["status"] = status
    with pytest.raises(http.client.HTTPException, match="of role ps is not yet observed"):
        client(api.port).claim("ps", ME)


def test_a_statefulset_without_replicas_has_one(api: FakeApiServer) -> None:
    del api.objects["mnist-ps"]["spec"]["replicas"]
    assert client(api.port).claim("ps", ME).replicas == 1


def test_the_token_is_read_for_each_call(api: FakeApiServer, account: Path) -> None:
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
    assert error.value.exit_code is ExitCode.CONFIGURATION
    assert f'StatefulSet mnist-ps ({status}): cannot get "mnist-ps".' in error.value.reason


@pytest.mark.parametrize(
    ("status", "text"), [(500, b"oops"), (429, b"{}"), (409, b'{"message": "x"}'), (200, b"<html>")]
)
def test_a_temporary_error_is_not_a_refusal(api: FakeApiServer, status: int, text: bytes) -> None:
    api.failures.append((status, text))
    with pytest.raises((OSError, http.client.HTTPException)):
        client(api.port).claim("ps", ME)


def test_a_certificate_of_another_authority_is_not_trusted(
    api: FakeApiServer, account: Path
) -> None:
    trustme.CA().cert_pem.write_to_path(str(account / "ca.crt"))
    with pytest.raises(ssl.SSLCertVerificationError):
        client(api.port).claim("ps", ME)
    assert api.calls == []
