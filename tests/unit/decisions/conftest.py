"""A run whose first generation runs."""

from __future__ import annotations

import pytest

from tests.unit.play import Play, started


@pytest.fixture
def play() -> Play:
    """A run whose first generation runs."""
    return started()
