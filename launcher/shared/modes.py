"""The training modes as a table: who runs the program, who serves, how far a loss reaches. Pure.

What TensorFlow does when a task is lost differs by mode, and so does what must start again:
https://www.tensorflow.org/guide/distributed_training
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from launcher.shared.identity import Task


class Reach(enum.Enum):
    """What starts again with a task that was lost."""

    ITSELF = "itself"
    WITH_CHIEF = "itself and the chief"
    EVERYBODY = "everybody"


@dataclass(frozen=True)
class Mode:
    """One training mode.

    `least` are the roles of the ClusterSpec and the fewest tasks of each. `chief` is the task
    that initialises and saves the model. `losses` and `resize` tell what starts again when a task
    of a role is lost, and when the counts change. `stand_ins`: a finished task's address must stay
    answered while others train. `joins`: workers join and leave alone where their names are
    listed before. `chief_first`: the others start once the chief's session is up. `servers_first`:
    what starts again waits until its servers answer, because those that were left alone try each
    other at its first word, and after one vain try fail for a while without another.
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
        """Whether the run waits for this task's program to end well."""
        return task.role in self.programs

    def reached(self, lost: Iterable[Task], tasks: Iterable[Task]) -> frozenset[Task]:
        """The tasks that start again when some are lost, or cannot go on."""
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


EVALUATOR = "evaluator"  # beside every mode: fed by checkpoints, in no ClusterSpec

MODES = {
    mode.name: mode
    for mode in (
        # Between-graph replication: every task's ClusterSpec lists the same names, and a ps that
        # came back at another address is found again by no task that was connected to it.
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
        # ParameterServerStrategy: the chief tells the servers what the cluster is.
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
        # MultiWorkerMirroredStrategy: all or none.
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
