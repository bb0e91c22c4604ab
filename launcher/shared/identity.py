"""Who a task is: its role, and its ordinal, which a StatefulSet puts at the end of a pod's name."""

from __future__ import annotations

import re
from typing import NamedTuple

ROLES = ("chief", "ps", "worker", "evaluator")
ORDINAL = "(0|[1-9][0-9]{0,5})"


class Task(NamedTuple):
    """One task of the ClusterSpec. A tuple, for it is hashed a million times in a large run."""

    role: str
    index: int  # type: ignore[assignment]  # not the method of tuples

    def __str__(self) -> str:
        return f"{self.role}-{self.index}"


def parse_task(name: str) -> Task:
    """The task that `worker-3` names. Raises ValueError for anything else."""
    match = re.fullmatch(rf"({'|'.join(ROLES)})-{ORDINAL}", name)
    if not match:
        raise ValueError(f"must be a role and an ordinal like worker-0; got {name!r}")
    return Task(match.group(1), int(match.group(2)))


def task_of_pod(pod_name: str, role: str | None) -> Task:
    """The task of a StatefulSet's pod `<anything>-<ordinal>`.

    Without a role the name must end in `<role>-<ordinal>`, like `mnist-worker-0`.
    Raises ValueError, whose arguments are every mistake in the user's words.
    """
    mistakes = []
    if role is not None and role not in ROLES:
        mistakes.append(f"TFRUN_ROLE must be one of {', '.join(ROLES)}; got {role!r}")
    match = re.fullmatch(rf"(?:.*-)?{ORDINAL}", pod_name)
    if not match:
        mistakes.append(
            "the pod's name must end in -<ordinal>, as a StatefulSet names its pods: "
            f"it tells the task's index; got {pod_name!r}"
        )
    elif role is None:
        try:
            return parse_task("-".join(pod_name.split("-")[-2:]))
        except ValueError:
            mistakes.append(
                f"TFRUN_ROLE must be set ({' or '.join(ROLES)}), or the pod's name must end in "
                f"<role>-<ordinal>; got pod name {pod_name!r}"
            )
    if mistakes or match is None or role is None:
        raise ValueError(*mistakes)
    return Task(role, int(match.group(1)))
