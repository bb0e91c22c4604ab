"""Who a task is: its role and its index, the ordinal that ends the name of a StatefulSet's pod."""

from __future__ import annotations

import re
from typing import NamedTuple

ROLES = ("chief", "ps", "worker", "evaluator")
ORDINAL = "(0|[1-9][0-9]{0,5})"


class Task(NamedTuple):
    """One task. A tuple, because a large run hashes it a million times."""

    role: str
    index: int  # type: ignore[assignment]  # hides the method of tuples

    def __str__(self) -> str:
        return f"{self.role}-{self.index}"


def parse_task(name: str) -> Task:
    """The task of a name like `worker-3`. Raises ValueError for other names."""
    match = re.fullmatch(rf"({'|'.join(ROLES)})-{ORDINAL}", name)
    if not match:
        raise ValueError(f"must be a role and an ordinal like worker-0; got {name!r}")
    return Task(match.group(1), int(match.group(2)))


def task_of_pod(pod_name: str, role: str | None) -> Task:
    """The task of a StatefulSet's pod `<anything>-<ordinal>`.

    Without a role the name must end in `<role>-<ordinal>`, like `mnist-worker-0`.
    Raises ValueError; its arguments are the mistakes, as messages for the user.
    """
    mistakes = []
    if role is not None and role not in ROLES:
        mistakes.append(f"TFRUN_ROLE must be one of {', '.join(ROLES)}; got {role!r}")
    match = re.fullmatch(rf"(?:.*-)?{ORDINAL}", pod_name)
    if not match:
        mistakes.append(
            "the pod's name must end in -<ordinal>, as a StatefulSet names its pods: "
            f"that is the task's index; got {pod_name!r}"
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
