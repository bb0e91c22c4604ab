"""A fake Kubernetes API server: HTTPS, two StatefulSets, a Service, a Job, and failures on demand.

It applies both kinds of patches as the API server does, and checks the token. The end-to-end tests
use a real API server.
"""

from __future__ import annotations

import http.client
import http.server
import json
import ssl
import threading
from typing import Any

import trustme

from launcher.controller.kubernetes import ENDS_ANNOTATION, LEADER_ANNOTATION

PREFIX = "/apis/apps/v1/namespaces/research/statefulsets/"
SERVICE = "/api/v1/namespaces/research/services/mnist-controller"
HASH = "0123abcd"  # of the controller that a test runs
JOB = f"/apis/batch/v1/namespaces/research/jobs/mnist-{HASH}?propagationPolicy=Background"


class FakeApiServer:
    """StatefulSets mnist-ps and mnist-worker, Service mnist-controller, the controller's Job."""

    def __init__(self, authority: trustme.CA) -> None:
        self.objects: dict[str, dict[str, Any]] = {
            f"mnist-{role}": {
                "metadata": {"name": f"mnist-{role}", "generation": 3, "resourceVersion": "1"},
                "spec": {"replicas": 1},
                "status": {"observedGeneration": 3, "updateRevision": f"mnist-{role}-1"},
            }
            for role in ("ps", "worker")
        }
        self.selected: str | None = HASH  # by the Service; None: there is no Service
        self.job_exists = True
        self.job_deleted = threading.Event()
        self.calls: list[tuple[str, str, Any]] = []
        self.failures: list[tuple[int, bytes]] = []  # the next answers
        self.records_refused = 0  # how many of the next records of the end fail
        self.refusal = 503  # the status of those failures
        self.meanwhile: list[str] = []  # leaders that claim both just before the next patch
        self.token = "first"
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer()

            def do_PATCH(self) -> None:
                self.answer()

            def do_DELETE(self) -> None:
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
        if request.path == SERVICE and self.selected is not None:
            return 200, json.dumps({"spec": {"selector": {"tfrun/job": self.selected}}}).encode()
        if (request.command, request.path) == ("DELETE", JOB) and self.job_exists:
            self.job_exists = False
            self.job_deleted.set()
            return 200, b"{}"
        found = self.objects.get(request.path.removeprefix(PREFIX))
        if not found:
            return 404, json.dumps({"message": f"{request.path} not found"}).encode()
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
    """Applies a merge patch if it names the current version. Returns 409 if not, otherwise 0."""
    if patch["metadata"]["resourceVersion"] != into["metadata"]["resourceVersion"]:
        return 409
    merge(into, patch)
    return 0


def change(into: dict[str, Any], patch: list[dict[str, Any]]) -> int:
    """Applies a JSON patch (RFC 6902), as far as it is used. Returns 422 if a test fails, or 0."""
    for operation in patch:
        *parents, last = (part.replace("~1", "/") for part in operation["path"][1:].split("/"))
        place = into
        for part in parents:
            place = place.get(part, {})
        if operation["op"] == "test" and place.get(last) != operation["value"]:
            return 422
        place[last] = operation["value"]
    return 0


def merge(into: dict[str, Any], patch: dict[str, Any]) -> None:
    """Applies a JSON merge patch (RFC 7386), as far as it is used."""
    for key, value in patch.items():
        if isinstance(value, dict):
            merge(into.setdefault(key, {}), value)
        else:
            into[key] = value


def found_ends(api: FakeApiServer, role: str) -> list[dict[str, Any]]:
    annotations = api.objects[f"mnist-{role}"]["metadata"]["annotations"]
    ends: list[dict[str, Any]] = json.loads(annotations[ENDS_ANNOTATION])
    return ends
