"""The training modes as a table: who runs the program, who serves, who restarts. Pure.

What TensorFlow does when a task is lost differs by mode, and so do the tasks that must restart:
https://www.tensorflow.org/guide/distributed_training
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from launcher.shared.identity import Task


class Reach(enum.Enum):
    """Which tasks restart when a task is lost."""

    ITSELF = "itself"
    WITH_CHIEF = "itself and the chief"
    EVERYBODY = "everybody"


@dataclass(frozen=True)
class Mode:
    """One training mode.

    `least` maps the roles of the ClusterSpec to the fewest tasks of each; `programs` are the roles
    that run the program. `chief` is the task that initialises and saves the model. `losses` and
    `resize` tell which tasks restart when a task of a role is lost, and when the counts change.
    `stand_ins`: while others train, a server replaces a program that has ended. `joins`: workers
    join and leave without a restart of others if the ClusterSpec lists them from the start.
    `chief_first`: the others start once the chief's session is up. `servers_first`: the chief
    restarts only after its servers answer, because a failed first connection makes TensorFlow fail
    for a while.
    """

    name: str
    least: Mapping[str, int]
    programs: frozenset[str]
    chief: Task
    losses: Mapping[str, Reach]
    resize: Reach
    stand_ins: bool = False
    joins: bool = False
    chief_first: bool = False
    servers_first: bool = False

    def runs_program(self, task: Task) -> bool:
        """Whether the task runs the user's program; otherwise it serves."""
        return task.role in self.programs or task.role == EVALUATOR

    def decides_success(self, task: Task) -> bool:
        """Whether the run's success depends on this task's program."""
        return task.role in self.programs

    def reached(self, lost: Iterable[Task], tasks: Iterable[Task]) -> frozenset[Task]:
        """The tasks that restart when some are lost or cannot continue."""
        everybody = frozenset(task for task in tasks if task.role != EVALUATOR)
        found: set[Task] = set()
        for task in lost:
            reach = self.losses.get(task.role, Reach.ITSELF)
            found.add(task)
            if reach is Reach.WITH_CHIEF:
                found.add(self.chief)
            elif reach is Reach.EVERYBODY:
                found |= everybody
        return frozenset(found)


EVALUATOR = "evaluator"  # in any mode: reads checkpoints, is in no ClusterSpec

MODES = {
    mode.name: mode
    for mode in (
        # Between-graph replication: every task has the same ClusterSpec, and a task that was
        # connected to a ps does not find it at a new address.
        Mode(
            name="parameter-server",
            least={"ps": 1, "worker": 1},
            programs=frozenset({"worker"}),
            chief=Task("worker", 0),
            losses={"worker": Reach.ITSELF, "ps": Reach.EVERYBODY},
            resize=Reach.EVERYBODY,
            stand_ins=True,
            joins=True,
            chief_first=True,
        ),
        # ParameterServerStrategy: the chief sends the servers the ClusterSpec.
        Mode(
            name="coordinator",
            least={"chief": 1, "ps": 1, "worker": 1},
            programs=frozenset({"chief"}),
            chief=Task("chief", 0),
            losses={
                "chief": Reach.ITSELF,
                "worker": Reach.ITSELF,
                "ps": Reach.WITH_CHIEF,
            },
            resize=Reach.WITH_CHIEF,
            servers_first=True,
        ),
        # MultiWorkerMirroredStrategy: no worker trains without the others.
        Mode(
            name="all-reduce",
            least={"worker": 1},
            programs=frozenset({"worker"}),
            chief=Task("worker", 0),
            losses={"worker": Reach.EVERYBODY},
            resize=Reach.EVERYBODY,
        ),
    )
}
