"""The status of a run as one JSON document, which the controller serves at PATH."""

from __future__ import annotations

from typing import Any

from launcher.decisions.state import RunPhase, State, latest_generation, member
from launcher.shared.identity import Task

PATH = "/v1/status"


def document(state: State, now: float) -> dict[str, Any]:
    """The status; `now` is on the controller's clock, and all times are in seconds.

    `seconds` is the run's age, `ago` the time since a task's last report, `progressAgo` the time
    since the chief's last step. A time is None if unknown, but `seconds` is then 0.
    """
    job = state.job
    return {
        "release": job.release,
        "run": job.run,
        "mode": job.mode.name,
        "phase": state.phase.value,
        "generation": latest_generation(state),
        "restarts": len(state.charges),
        "restartLimit": job.restarts.limit,
        "cause": state.cause or "",
        "codeDigest": state.digest or "",
        "seconds": 0 if state.began_at is None else round(now - state.began_at),
        "progressAgo": None if state.moved_at is None else round(now - state.moved_at),
        "tasks": [_task(state, task, now) for task in state.wanted.tasks],
    }


def _task(state: State, task: Task, now: float) -> dict[str, Any]:
    seat = state.seat(task)
    child = seat.report.child if seat.report else None
    return {
        "task": str(task),
        "state": _state(state, task),
        "generation": child.generation if child else 0,
        "globalStep": child.global_step if child else None,
        "totalSteps": child.total_steps if child else None,
        "epoch": child.epoch if child else "",
        "exitCode": child.exit_code if child else None,
        "ago": None if seat.heard_at is None else round(now - seat.heard_at),
    }


def _state(state: State, task: Task) -> str:
    seat = state.seat(task)
    report, orders = seat.report, seat.orders
    if not report:
        return "not heard from"
    if not member(state, task):
        return "waiting to join" if report.can_start else "pulling the code"
    if orders.done:
        return "done"
    child = report.child
    runs = child is not None and child.exit_code is None
    if orders.forming:
        return (
            "stopping" if runs else "waiting to start" if report.can_start else "pulling the code"
        )
    if orders.waits_for_chief:
        return "waiting for the chief"
    if runs:
        return "running"
    if child and child.exit_code and not child.stopped:
        return "failed"
    return "ended" if state.phase is RunPhase.ENDED else "starting"
