"""Which controller leads: the one that the Service of the controller selects.

Argo CD by default and `kubectl apply` keep the Job of an earlier controller, so two controllers of
one release run. The one that is not selected waits, and deletes its own Job.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import time

from launcher.controller.kubernetes import Kubernetes, SupersededError, insist
from launcher.shared.exits import LauncherError
from launcher.shared.log import say

LOOK_SECONDS = 5.0  # between two looks at the Service
# How long a controller that has never led waits, because its Job may be applied before the Service.
UNSELECTED_SECONDS = 60.0


async def gain(kubernetes: Kubernetes, led: bool) -> None:
    """Returns when the Service selects this controller; `led` tells that it has led before.

    Raises LauncherError if the API server refuses to show the Service.
    """
    leading = await insist(kubernetes.leading)
    delete_at = time.monotonic() + (0.0 if led else UNSELECTED_SECONDS)
    if leading != kubernetes.hash:
        say(f"this controller waits: the Service selects the controller {leading}")
    while leading != kubernetes.hash:
        if time.monotonic() >= delete_at:
            delete_at = float("inf") if await _remove_job(kubernetes) else delete_at
        await asyncio.sleep(LOOK_SECONDS)
        leading = await _look(kubernetes) or leading


async def keep(kubernetes: Kubernetes) -> None:
    """Raises SupersededError when the Service selects another controller."""
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        if await _look(kubernetes) not in ("", kubernetes.hash):
            raise SupersededError


async def _look(kubernetes: Kubernetes) -> str:
    """The hash of the controller that leads; empty if unknown."""
    with contextlib.suppress(OSError, http.client.HTTPException, LauncherError):
        return await asyncio.get_running_loop().run_in_executor(None, kubernetes.leading)
    return ""


async def _remove_job(kubernetes: Kubernetes) -> bool:
    """Whether there is nothing more to try."""
    try:
        deleted = await insist(_delete_job, kubernetes)
        if deleted:
            say("this controller has deleted its Job, because another one leads")
        return deleted
    except LauncherError as error:
        say(f"{error.reason}. Delete the Job yourself")
        return True


def _delete_job(kubernetes: Kubernetes) -> bool:
    """Deletes this controller's Job if another controller has taken over. Returns whether it has.

    It has if it has claimed the workers, or if its run has ended: an upgrade that fails halfway can
    change the Service without creating a Job.
    """
    workers, leading = kubernetes.read("worker"), kubernetes.leading()
    taken = workers.leader.id.startswith(leading) or workers.ended_by(leading)
    if leading == kubernetes.hash or not taken:
        return False
    kubernetes.delete_job()
    return True
