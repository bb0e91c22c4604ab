"""What the controller logs while the run waits: who waits, for what, since when."""

from __future__ import annotations

import re

from launcher.decisions import forming
from launcher.task.state import Seen
from tests.unit.jobs import job
from tests.unit.play import Play, started


def lines_of(play: Play, seconds: int) -> list[str]:
    """What the controller logs meanwhile; all tasks report each 5 seconds."""
    play.said.clear()
    for _ in range(0, seconds, 5):
        play.tick(5)
        play.settle()
    return play.said


def test_the_log_names_who_waits_for_the_chief() -> None:
    play = Play(job(chiefFirst=True, checkpoints="/data"))
    play.settle()
    assert lines_of(play, 25) == ["waiting for worker-1 (waits for the session of worker-0)"] * 2


def test_the_log_names_a_program_that_waits_for_an_ended_chief() -> None:
    """Each time that its silence has doubled."""
    play = started()
    lines_of(play, 100)
    play.exit("worker-0", 0)
    play.settle()
    lines = ("step 7", "Waiting for model to be ready")
    play.pod("worker-1").take(Seen(play.now, False, 59.0, last_lines=lines))
    assert lines_of(play, 30) == []
    play.pod("worker-1").take(Seen(play.now, False, 89.0, last_lines=lines))
    said = lines_of(play, 150)
    assert said[0] == (
        "waiting for worker-1 (no progress for 99 s; its last line: Waiting for model to be "
        "ready); ended with exit code 0: worker-0"
    )
    assert [re.findall(r"for (\d+) s", line) for line in said] == [["99"], ["199"]]
    play.pod("worker-1").take(Seen(play.now, False, 0.0))
    assert lines_of(play, 300) == []


def test_a_program_that_prints_nothing_is_not_named_while_another_makes_progress() -> None:
    play = started()
    play.pod("worker-1").take(Seen(play.now, False, 300.0))
    assert lines_of(play, 60) == []
    play.pod("worker-0").take(Seen(play.now, False, 60.0))
    assert lines_of(play, 10) == [
        "waiting for worker-0 (no progress for 70 s), worker-1 (no progress for 370 s)"
    ]


def test_the_log_names_a_running_task_that_is_not_heard_from() -> None:
    play = started()
    play.said.clear()
    play.tick(forming.LEAVING_SECONDS)
    play.settle("worker-1")
    play.tick(5)
    assert play.said == [
        "waiting for ps-0 (not heard from for 40 s), worker-0 (not heard from for 40 s), "
        "worker-1 (not heard from for 40 s)"
    ]
    play.tick(10)
    assert play.said[1:] == ["waiting for worker-1 (not heard from for 55 s)"]


def test_the_log_names_a_task_whose_report_a_new_controller_awaits_before_it_leads() -> None:
    """Also one that is to leave: it may still train."""
    play = started(replicas={"ps": 1, "worker": 3})
    play.lead(job(replicas={"ps": 1, "worker": 2}), {"ps": 1, "worker": 3})
    play.settle("worker-2")
    play.said.clear()
    play.tick(10)
    assert play.said == ["waiting for worker-2 (not heard from)"]


def test_the_log_names_a_program_that_waits_for_its_servers() -> None:
    play = Play()
    play.settle("worker-1")
    play.pod("worker-1").can_reach = False
    play.settle()
    assert lines_of(play, 15) == ["waiting for worker-1 (waits for the servers)"]
