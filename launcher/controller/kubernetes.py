"""The few Kubernetes API calls that a run needs. Uses only the standard library.

https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/stateful-set-v1/
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, TypeVar

from launcher.controller.environment import KubernetesSettings
from launcher.shared.exits import ExitCode, LauncherError
from launcher.shared.log import say
from launcher.shared.protocol import Leader

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
PATHS = {
    "StatefulSet": "/apis/apps/v1/namespaces/{}/statefulsets/{}",
    "Service": "/api/v1/namespaces/{}/services/{}",
    "Job": "/apis/batch/v1/namespaces/{}/jobs/{}?propagationPolicy=Background",
}
TIMEOUT_SECONDS = 10.0
REFUSED_SECONDS = 15.0  # until every API server knows a Role that was just created
LONGEST_BACKOFF = 10.0
HASH_LABEL = "tfrun/job"  # on the controller's pod, and in the selector of its Service
LEADER_ANNOTATION = "tfrun/leader"  # number and id of the controller that may write
BEGIN_ANNOTATION = "tfrun/begin"  # when the run began, as a JSON text
ENDS_ANNOTATION = "tfrun/ends"  # how the last runs ended, as a JSON text
MOST_ENDS = 20  # because a rollback may go back to a run that has ended

T = TypeVar("T")


class SupersededError(Exception):
    """Another controller leads, so this one must not write the StatefulSets."""


class NotFoundError(LauncherError):
    """The API server does not know the object."""


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

    def ended_by(self, job: str) -> bool:
        """Whether the controller of the Job with this hash has recorded the end of its run."""
        return any(job in str(end.get("jobs", "")).split() for end in self.ends)


class Kubernetes:
    """The objects of one release, read and written with the pod's service account.

    Every call raises OSError or http.client.HTTPException if the API server cannot be reached or
    fails; try again. It raises LauncherError(CONFIGURATION) if the API server refuses; trying
    again helps only while the API server does not know a new Role yet.
    """

    def __init__(self, settings: KubernetesSettings, release: str) -> None:
        self.hash = settings.hash
        self._server = (settings.host, settings.port)
        self._namespace = settings.namespace
        self._release = release

    def leading(self) -> str:
        """The hash of the Job whose controller the Service selects: that controller leads.

        It is this one's own where nothing says otherwise.
        """
        try:
            service = self._call("GET", "Service", "controller")
        except NotFoundError:
            return self.hash
        selector = service["spec"].get("selector") or {}
        return str(selector.get(HASH_LABEL, self.hash))

    def delete_job(self) -> None:
        """Deletes the Job of this controller, and so its pod."""
        with contextlib.suppress(NotFoundError):  # Helm or Argo CD was faster
            self._call("DELETE", "Job", self.hash)

    def read(self, role: str) -> StatefulSet:
        """Returns the role's StatefulSet, and claims nothing."""
        return _stateful_set(self._call("GET", "StatefulSet", role))

    def claim(self, role: str, leader: Leader) -> StatefulSet:
        """Claims the role's StatefulSet, so that only this leader may write it, and returns it.

        If a greater leader has claimed it, it is returned unchanged.
        """
        found = self._call("GET", "StatefulSet", role)
        if _leader(found) <= leader:
            # If it was written since, the API server answers 409, and the caller tries again.
            metadata = {
                "resourceVersion": found["metadata"].get("resourceVersion"),
                "annotations": {LEADER_ANNOTATION: _claim(leader)},
            }
            found = self._call("PATCH", "StatefulSet", role, {"metadata": metadata})
        metadata, status = found["metadata"], found.get("status") or {}
        if status.get("observedGeneration", 0) < metadata["generation"]:
            raise http.client.HTTPException(f"the StatefulSet of role {role} is not yet observed")
        return _stateful_set(found)

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
        patch = [test, *({"op": "add", "path": path, "value": value} for path, value in changes)]
        try:
            self._call("PATCH", "StatefulSet", role, patch)
        except LauncherError:
            found = _leader(self._call("GET", "StatefulSet", role))
            if found == leader:
                raise
            if found > leader or self.claim(role, leader).leader != leader:
                raise SupersededError from None
            # Somebody has removed the claim: `helm upgrade --force-replace` does that.
            self._call("PATCH", "StatefulSet", role, patch)

    def _call(self, method: str, kind: str, suffix: str, body: object = None) -> dict[str, Any]:
        name = f"{self._release}-{suffix}"
        # We read the token each time because the kubelet replaces it before it expires.
        token = (ACCOUNT / "token").read_text()
        context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
        connection = http.client.HTTPSConnection(
            *self._server, timeout=TIMEOUT_SECONDS, context=context
        )
        patch = "json-patch" if isinstance(body, list) else "merge-patch"
        headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": f"application/{patch}+json",
        }
        path = PATHS[kind].format(self._namespace, name)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        if response.status in (401, 403, 404, 422):
            raise (NotFoundError if response.status == 404 else LauncherError)(
                ExitCode.CONFIGURATION,
                f"Kubernetes refuses to {method.lower()} the {kind} {name} "
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


async def insist(call: Callable[..., T], *arguments: object) -> T:
    """Calls Kubernetes until it answers. Raises LauncherError if it keeps refusing."""
    failures = 0
    refused_at: float | None = None
    while True:
        try:
            return await asyncio.get_running_loop().run_in_executor(None, call, *arguments)
        except LauncherError as error:
            now = time.monotonic()
            refused_at = now if refused_at is None else refused_at
            if now - refused_at >= REFUSED_SECONDS:
                raise
            say(f"{error.reason}. Trying again for {REFUSED_SECONDS:.0f} s")
            await asyncio.sleep(1.0)
        except (OSError, http.client.HTTPException) as error:
            failures += 1
            refused_at = None  # an API server that has just started may know no Roles yet
            delay = min(LONGEST_BACKOFF, 0.2 * 2**failures)
            say(f"a call to Kubernetes failed, next try in {delay:.1f} s: {error!r}")
            await asyncio.sleep(delay)


def _stateful_set(document: Mapping[str, Any]) -> StatefulSet:
    annotations = document["metadata"].get("annotations") or {}
    begin = _parsed(annotations.get(BEGIN_ANNOTATION))
    ends = _parsed(annotations.get(ENDS_ANNOTATION))
    return StatefulSet(
        document["spec"].get("replicas", 1),
        (document.get("status") or {}).get("updateRevision", ""),
        _leader(document),
        begin if isinstance(begin, dict) else {},
        tuple(e for e in ends if isinstance(e, dict)) if isinstance(ends, list) else (),
    )


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
