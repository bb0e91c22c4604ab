"""The few Kubernetes API calls that a run needs, with the standard library alone.

https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/stateful-set-v1/
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.exits import Code, LauncherError
from launcher.settings import KubernetesSettings

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT_SECONDS = 10.0
BEGIN_ANNOTATION = "tfrun/begin"  # when the run began, as a JSON text
END_ANNOTATION = "tfrun/end"  # how the run ended, as a JSON text


@dataclass(frozen=True)
class StatefulSet:
    """What the controller reads of a role's StatefulSet.

    `revision` names the newest template of its pods. `begin` and `end` are empty before any.
    """

    replicas: int
    revision: str
    begin: Mapping[str, Any]
    end: Mapping[str, Any]


class Kubernetes:
    """StatefulSets of one release in one namespace, as a pod's service account may see them.

    Every call raises OSError or http.client.HTTPException where the API server cannot be
    reached or fails: try again. LauncherError where it refuses: trying again will not help.
    """

    def __init__(self, settings: KubernetesSettings, release: str) -> None:
        self._server = (settings.host, settings.port)
        self._path = f"/apis/apps/v1/namespaces/{settings.namespace}/statefulsets/{release}-"

    def read(self, role: str) -> StatefulSet:
        """The role's StatefulSet, once Kubernetes has seen its newest template."""
        document = self._call("GET", role, None)
        metadata, status = document["metadata"], document.get("status") or {}
        if status.get("observedGeneration", 0) < metadata["generation"]:
            raise http.client.HTTPException(f"the StatefulSet of role {role} is not yet observed")
        annotations = metadata.get("annotations") or {}
        return StatefulSet(
            document["spec"].get("replicas", 1),
            status.get("updateRevision", ""),
            _record(annotations.get(BEGIN_ANNOTATION)),
            _record(annotations.get(END_ANNOTATION)),
        )

    def scale(self, role: str, replicas: int) -> None:
        """Sets the number of pods."""
        self._call("PATCH", role, {"spec": {"replicas": replicas}})

    def begin(self, role: str, record: Mapping[str, Any]) -> None:
        """Records when the run began."""
        annotations = {BEGIN_ANNOTATION: json.dumps(record)}
        self._call("PATCH", role, {"metadata": {"annotations": annotations}})

    def end(self, role: str, record: Mapping[str, Any], free: bool) -> None:
        """Records how the run ended, and frees its pods in the same change."""
        annotations = {END_ANNOTATION: json.dumps(record)}
        patch: dict[str, Any] = {"metadata": {"annotations": annotations}}
        if free:
            patch["spec"] = {"replicas": 0}
        self._call("PATCH", role, patch)

    def _call(self, method: str, role: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        # The token is read each time: the kubelet replaces it before it expires.
        token = (ACCOUNT / "token").read_text()
        context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
        connection = http.client.HTTPSConnection(
            *self._server, timeout=TIMEOUT_SECONDS, context=context
        )
        headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/merge-patch+json",
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
                Code.CONFIGURATION,
                f"Kubernetes refuses to {method.lower()} the StatefulSet of role {role} "
                f"({response.status}): {_reason(text)}. Are the chart's objects as they were "
                "installed? `helm upgrade` puts them right; controller.rbac: false needs no rights",
            )
        if response.status >= 300:
            raise http.client.HTTPException(f"{response.status}: {_reason(text)}")
        try:
            document: dict[str, Any] = json.loads(text)
        except ValueError:
            raise http.client.HTTPException(f"the answer is not JSON: {_reason(text)}") from None
        return document


def _record(text: object) -> Mapping[str, Any]:
    try:
        document = json.loads(text) if isinstance(text, str) else {}
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _reason(text: bytes) -> str:
    try:
        return str(json.loads(text).get("message", ""))
    except (ValueError, AttributeError):
        return text[:200].decode(errors="replace")
