"""The fixture of the tests of whole runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.conftest import Start
from tests.unit.runs.run import Run


@pytest.fixture
def run(start: Start, tmp_path: Path) -> Run:
    return Run(start, tmp_path)
