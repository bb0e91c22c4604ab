"""What `make try` and `make demo` print after a run of the breast-cancer example."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "breast-cancer"
LEAST_AUC = 0.97


class NotLearntError(Exception):
    """The run succeeded, but its model is not good enough."""


def result(lines: Iterable[str], trained: str, data: Path, next_steps: Sequence[str]) -> str:
    """The result, from the chief's output, and what to try next.

    Raises NotLearntError if the evaluation is missing or its AUC is too low.
    """
    evaluation = next((line for line in lines if line.startswith("evaluation:")), "")
    auc = re.search(r"\bauc ([0-9.]+)", evaluation)
    if not auc or float(auc[1]) <= LEAST_AUC:
        raise NotLearntError(
            f"the run succeeded, but the AUC must be above {LEAST_AUC}; it printed {evaluation!r}"
        )
    return "\n".join(
        [
            "",
            trained,
            f"  {evaluation}",
            f"  checkpoint  {data / 'checkpoint'}",
            f"  model       {data / 'model'}",
            "",
            "try next",
            *(f"  {step}" for step in next_steps),
        ]
    )
