"""The few Kubernetes API calls that a run needs. Uses only the standard library.

https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/stateful-set-v1/
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.controller.environment import KubernetesSettings
from launcher.shared.exits import ExitCode, LauncherError
from launcher.shared.protocol import Leader

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT_SECONDS = 10.0
LEADER_ANNOTATION = "tfrun/leader"  # number and id of the controller that may write
BEGIN_ANNOTATION = "tfrun/begin"  # when the run began, as a JSON text
ENDS_ANNOTATION = "tfrun/ends"  # how the last runs ended, as a JSON text
MOST_ENDS = 20  # because a rollback may go back to a run that has ended


class SupersededError(Exception):
    """A younger controller has claimed the StatefulSets, so this one must not write them."""


@dataclass(frozen=True)
class StatefulSet:
    """What the controller reads of a role's StatefulSet.

    `revision` names the newest template of its pods, `leader` the controller that has claimed it.
    `begin` and `ends` (the newest last) are empty until they are recorded.
    """

    replicas: int
    revision: str
    leader: Leader
    begin: Mapping[str, Any]
    ends: tuple[Mapping[str, Any], ...]


class Kubernetes:
    """The StatefulSets of one release, read and written with the pod's service account.

    Every call raises OSError or http.client.HTTPException if the API server cannot be reached or
    fails; try again. It raises LauncherError(CONFIGURATION) if the API server refuses; trying
    again helps only while the API server does not know a new Role yet.
    """

    def __init__(self, settings: KubernetesSettings, release: str) -> None:
        self._server = (settings.host, settings.port)
        self._path = f"/apis/apps/v1/namespaces/{settings.namespace}/statefulsets/{release}-"

    def claim(self, role: str, leader: Leader) -> StatefulSet:
        """Claims the role's StatefulSet, so that only this leader may write it, and returns it.

        If a greater leader has claimed it, it is returned unchanged.
        """
        found = self._call("GET", role)
        if _leader(found) <= leader:
            # If it was written since, the API server answers 409, and the caller tries again.
            metadata = {
                "resourceVersion": found["metadata"].get("resourceVersion"),
                "annotations": {LEADER_ANNOTATION: _claim(leader)},
            }
            found = self._call("PATCH", role, {"metadata": metadata})
        metadata, status = found["metadata"], found.get("status") or {}
        if status.get("observedGeneration", 0) < metadata["generation"]:
            raise http.client.HTTPException(f"the StatefulSet of role {role} is not yet observed")
        annotations = metadata.get("annotations") or {}
        begin = _parsed(annotations.get(BEGIN_ANNOTATION))
        ends = _parsed(annotations.get(ENDS_ANNOTATION))
        return StatefulSet(
            found["spec"].get("replicas", 1),
            status.get("updateRevision", ""),
            _leader(found),
            begin if isinstance(begin, dict) else {},
            tuple(e for e in ends if isinstance(e, dict)) if isinstance(ends, list) else (),
        )

    def scale(self, role: str, leader: Leader, replicas: int) -> None:
        """Sets the number of pods. Raises SupersededError, as `begin` and `end` do."""
        self._write(role, leader, ("/spec/replicas", replicas))

    def begin(self, role: str, leader: Leader, record: Mapping[str, Any]) -> None:
        """Records when the run began."""
        self._write(role, leader, (_annotation(BEGIN_ANNOTATION), json.dumps(record)))

    def end(self, role: str, leader: Leader, ends: Sequence[Mapping[str, Any]], free: bool) -> None:
        """Records how the runs ended. With `free` the same change scales to zero."""
        changes = [(_annotation(ENDS_ANNOTATION), json.dumps(ends[-MOST_ENDS:]))]
        self._write(role, leader, *changes, *([("/spec/replicas", 0)] if free else []))

    def _write(self, role: str, leader: Leader, *changes: tuple[str, object]) -> None:
        """Sets some fields, in one change that fails if another leader has claimed them."""
        test = {"op": "test", "path": _annotation(LEADER_ANNOTATION), "value": _claim(leader)}
        adds = [{"op": "add", "path": path, "value": value} for path, value in changes]
        try:
            self._call("PATCH", role, [test, *adds])
        except LauncherError:
            if _leader(self._call("GET", role)) != leader:
                raise SupersededError from None
            raise

    def _call(self, method: str, role: str, body: object = None) -> dict[str, Any]:
        # We read the token each time because the kubelet replaces it before it expires.
        token = (ACCOUNT / "token").read_text()
        context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
        connection = http.client.HTTPSConnection(
            *self._server, timeout=TIMEOUT_SECONDS, context=context
        )
        kind = "json-patch" if isinstance(body, list) else "merge-patch"
        headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": f"application/{kind}+json",
        }
        try:
            connection.request(
                method, self._path + role, None if body is None else json.dumps(body), headers
            )
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        if response.status in (401, 403, 404, 422):
            raise LauncherError(
                ExitCode.CONFIGURATION,
                f"Kubernetes refuses to {method.lower()} the StatefulSet of role {role} "
                f"({response.status}): {_reason(text)}. Run `helm upgrade` to restore the chart's "
                "objects, or set controller.rbac: false, which needs no rights",
            )
        if response.status >= 300:
            raise http.client.HTTPException(f"{response.status}: {_reason(text)}")
        try:
            document: dict[str, Any] = json.loads(text)
        except ValueError:
            raise http.client.HTTPException(f"the answer is not JSON: {_reason(text)}") from None
        return document


def _annotation(name: str) -> str:
    """The JSON pointer of an annotation."""
    return "/metadata/annotations/" + name.replace("~", "~0").replace("/", "~1")


def _claim(leader: Leader) -> str:
    """The claim as an annotation, which `_leader` reads."""
    return f"{leader.number} {leader.id}"


def _leader(document: Mapping[str, Any]) -> Leader:
    """The leader that has claimed a StatefulSet, or the least one."""
    annotations = document["metadata"].get("annotations") or {}
    number, _, name = str(annotations.get(LEADER_ANNOTATION, "")).partition(" ")
    return Leader(int(number) if number.isdecimal() else 0, name)


def _parsed(text: object) -> object:
    try:
        return json.loads(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _reason(text: bytes) -> str:
    try:
        return str(json.loads(text).get("message", ""))
    except (ValueError, AttributeError):
        return text[:200].decode(errors="replace")
