"""When a task looks at its program's output."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from launcher.shared.identity import Task
from launcher.shared.protocol import Action, ChildReport, Directive, Leader
from launcher.task.environment import task_settings
from launcher.task.loop import _Loop
from launcher.task.state import State
from launcher.task.watch import Watch
from tests.unit.jobs import job


@pytest.mark.parametrize(
    ("task", "hang_timeout", "quiet", "wait"),
    [
        ("worker-1", 0, 0.0, 60.0),
        ("worker-1", 0, 59.0, 1.0),
        ("worker-1", 0, 61.0, 5.0),  # to report soon that it makes progress again
        ("worker-1", 30, 10.0, 20.0),
        ("worker-1", 30, 31.0, 0.1),
        ("worker-0", 0, 0.0, 5.0),
    ],
)
def test_a_program_is_looked_at_when_its_silence_would_be_long(
    variables: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    task: str,
    hang_timeout: int,
    quiet: float,
    wait: float,
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    who = Task("worker", int(task[-1]))
    loop = _Loop(task_settings({**variables, "TFRUN_POD_NAME": task}, ["sh"]), variables)
    wanted = Directive(Leader(1, "me"), Action.RUN, 1, 0, job(hangTimeout=hang_timeout))
    loop.state = State(who, "a launcher", directive=wanted, child=ChildReport(1))
    loop.watch = Watch(tmp_path / "ready", None)
    loop.watch.line("a line")
    now += quiet
    assert loop._next_look() == pytest.approx(wait)
