"""How a run is, as the controller tells it: one JSON document, for whoever asks for PATH."""

from __future__ import annotations

from typing import Any

from launcher.decisions.state import RunPhase, State
from launcher.shared.identity import Task

PATH = "/v1/status"


def document(state: State, now: float) -> dict[str, Any]:
    """What the controller tells of its run.

    `ago` are seconds since a task was last heard, `progressAgo` those since the chief made a step.
    """
    job = state.job
    asked = state.goal or job
    return {
        "release": job.release,
        "run": job.run,
        "mode": job.mode.name,
        "phase": state.phase.value,
        "generation": state.generation,
        "restarts": len(state.charges),
        "restartLimit": job.restarts.limit,
        "cause": state.cause,
        "codeDigest": state.code,
        "seconds": 0 if state.phase is RunPhase.STARTING else round(now - state.began_at),
        "progressAgo": round(now - state.moved_at) if state.moved_at else None,
        "tasks": [_task(state, task, now) for task in asked.tasks],
    }


def _task(state: State, task: Task, now: float) -> dict[str, Any]:
    seat = state.seats.get(task)
    child = seat.child if seat else None
    return {
        "task": str(task),
        "state": _state(state, task),
        "generation": child.generation if child else 0,
        "step": child.step if child else None,
        "lastStep": child.last_step if child else None,
        "code": child.code if child else None,
        "ago": round(now - state.heard[task]) if task in state.heard else None,
    }


def _state(state: State, task: Task) -> str:
    seat = state.seats.get(task)
    if not seat:
        return "not heard from"
    if task not in state.job.tasks:
        return "waiting to join" if seat.ready else "pulling the code"
    if task in state.done:
        return "done"
    child = seat.child
    runs = child is not None and child.code is None
    if task in state.forming:
        return "stopping" if runs else "waiting to start" if seat.ready else "pulling the code"
    if task in state.held:
        return "waiting for the chief"
    if runs:
        return "running"
    if child and child.code and not child.stopped:
        return "failed"
    return "ended" if state.phase is RunPhase.ENDED else "starting"
