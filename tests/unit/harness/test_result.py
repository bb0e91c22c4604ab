"""The result that `make try` and `make demo` print."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.result import NotLearntError, result

LEARNT = ["step 10/10", "evaluation: accuracy 0.9649 auc 0.9970 rows 114 step 10", "model: x"]


def test_the_result_names_the_figures_the_files_and_what_to_try_next() -> None:
    told = result(LEARNT, "trained in 3 s", Path("/data"), ["make this", "make that"])
    assert told.splitlines() == [
        "",
        "trained in 3 s",
        "  evaluation: accuracy 0.9649 auc 0.9970 rows 114 step 10",
        "  checkpoint  /data/checkpoint",
        "  model       /data/model",
        "",
        "try next",
        "  make this",
        "  make that",
    ]


@pytest.mark.parametrize(
    "lines", [[], ["evaluation: accuracy 1"], ["evaluation: accuracy 0.9 auc 0.97 rows 114"]]
)
def test_a_model_that_has_not_learnt_is_no_result(lines: list[str]) -> None:
    with pytest.raises(NotLearntError, match=r"the AUC must be above 0\.97"):
        result(lines, "trained", Path("/data"), [])
