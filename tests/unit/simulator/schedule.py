"""The schedule of a seed: what a person asks for, which faults happen, and when."""

from __future__ import annotations

import functools
import random
from typing import NamedTuple

from launcher.shared.job import Job
from launcher.shared.modes import EVALUATOR, MODES
from tests.unit.jobs import job

FAULTS_SECONDS = 90.0
PATIENCE_SECONDS = 400.0  # after the faults, for the run to end
STOP_SECONDS = 40.0  # after the end, for everything to stop
HOLD_SECONDS = 20.0
TICK_SECONDS = 2.0
WORK_SECONDS = 25.0  # how long each program computes in a run without faults
GRACE = 6.0
HANG_SECONDS = 8.0
DEADLINE = 120.0
CALLED_SECONDS = 60.0  # within which the other workers start once the chief needs them
PERMANENT = 2
MISTAKE = (  # the last lines of a program
    '  File "train.py", line 9, in <module>',
    "AbortedError: From /job:ps/replica:0/task:0:",
    "The same RunGraph (Worker) request was received twice. step_id: 7",
)
MISTAKE_SECONDS = 60.0  # within which reports of two ends can overtake each other

KINDS = {  # the kinds of faults, and how often each happens
    "child fails": 6,
    "child is killed": 2,
    "child is terminated": 2,
    "child meets TensorFlow's mistake": 2,
    "child hangs": 2,
    "launcher restarts": 3,
    "pod is deleted": 4,
    "pod is gone": 3,
    "pod is out of reach": 3,
    "all pods are gone": 1,
    "controller crashes": 4,
    "upgrade": 5,
    "pull fails": 1,
    "no room": 2,
    "replicas become 1": 1,
    "code is edited": 1,
    "program always fails": 1,
}


class Wish(NamedTuple):
    """What a person asks Helm for."""

    mode: str
    ps: int
    worker: int
    evaluator: bool
    limit: int
    success: str
    chief_first: bool
    hang: bool
    deadline: bool
    keep: bool
    joins: bool
    refresh: bool
    calls: bool = False  # the chief's session waits until all other workers run
    args: int = 0
    attempt: int = 0
    revision: int = 0


@functools.cache
def job_for(wish: Wish) -> Job:
    replicas = {"ps": wish.ps, "worker": wish.worker}
    if wish.mode == "all-reduce":
        del replicas["ps"]
    if wish.mode == "coordinator":
        replicas["chief"] = 1
    if wish.evaluator:
        replicas[EVALUATOR] = 1
    return job(
        release="sim",
        run=f"run{wish.attempt}",
        mode=wish.mode,
        replicas=replicas,
        maxReplicas={"worker": 4 if wish.joins else 0},
        program__args=[str(wish.args)],
        code={
            "folder": {"path": "/app"},
            "refresh": "OnGeneration" if wish.refresh else "OnRequest",
        },
        restarts={"limit": wish.limit, "permanentCodes": [PERMANENT], "refill": 600},
        success=wish.success,
        chiefFirst=wish.chief_first,
        checkpoints="/checkpoints" if wish.calls else "",  # so that others wait long for the chief
        hangTimeout=HANG_SECONDS if wish.hang else 0,
        deadline=DEADLINE if wish.deadline else 0,
        grace=GRACE,
        cleanup="Keep" if wish.keep else "Delete",
    )


class Fault(NamedTuple):
    """One fault. `pick` decides what it hits, `how` decides the rest."""

    at: float
    kind: str
    pick: float
    how: float

    def __str__(self) -> str:
        return f"{self.at:6.2f} {self.kind} ({self.pick:.4f}, {self.how:.4f})"


class Schedule(NamedTuple):
    """All that follows from a seed."""

    seed: int
    wish: Wish
    faults: tuple[Fault, ...]


def schedule_for(seed: int) -> Schedule:
    dice = random.Random(seed)
    wish = Wish(
        mode=dice.choice(list(MODES)),
        ps=dice.randint(1, 2),
        worker=dice.randint(1, 3),
        evaluator=dice.random() < 0.25,
        limit=dice.choice([0, 1, 3, 1000]),
        success=dice.choice(["AllWorkers", "AllWorkers", "Chief"]),
        chief_first=dice.random() < 0.4,
        hang=dice.random() < 0.4,
        deadline=dice.random() < 0.1,
        keep=dice.random() < 0.3,
        joins=dice.random() < 0.3,
        refresh=dice.random() < 0.2,
    )
    wish = wish._replace(joins=wish.joins and MODES[wish.mode].joins)
    kinds, weights = list(KINDS), list(KINDS.values())
    begin, end = 0.0, FAULTS_SECONDS
    if dice.random() < 0.5:  # the faults come close together
        begin = dice.uniform(0, FAULTS_SECONDS - 25)
        end = begin + dice.uniform(3, 25)
    faults = sorted(
        Fault(dice.uniform(begin, end), kind, dice.random(), dice.random())
        for kind in dice.choices(kinds, weights, k=dice.choice([0, 1, 1, 2, 2, 3, 4, 6, 8]))
    )
    wish = wish._replace(calls=wish.chief_first and dice.random() < 0.5)
    return Schedule(seed, wish, tuple(faults))
