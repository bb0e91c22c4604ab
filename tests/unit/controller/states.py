"""States of a run, for tests of its status."""

from __future__ import annotations

from typing import Any

from launcher.decisions.state import Orders, RunPhase, Seat, State
from launcher.shared.identity import Task
from launcher.shared.protocol import ChildReport, Leader, Report
from tests.unit.jobs import job

PS, CHIEF, WORKER = Task("ps", 0), Task("worker", 0), Task("worker", 1)


def report(task: Task, child: ChildReport | None, can_start: bool = True) -> Report:
    return Report(task, "one", 1, "", "", None, child, can_start)


def state(child: ChildReport | None = None, **changes: Any) -> State:
    """A run at 100 s in which worker-1 has reported 5 s ago."""
    heard = report(WORKER, child, changes.pop("can_start", True))
    orders = changes.pop("orders", Orders())
    wanted = job()
    return State(
        **{
            "job": wanted,
            "wanted": wanted,
            "leader": Leader(1, "me"),
            "phase": RunPhase.LEADING,
            "seats": {WORKER: Seat(heard, 95.0, orders=orders)},
            "began_at": 40.0,
            **changes,
        }
    )


RUNNING = ChildReport(3, global_step=5, total_steps=9, epoch="2 of 3")
