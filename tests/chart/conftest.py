"""Fixtures of the chart's tests."""

from __future__ import annotations

import pytest

from tests.chart.render import HELMS


@pytest.fixture(params=HELMS)
def helm(request: pytest.FixtureRequest) -> str:
    """The name of the tool: Helm 4, then Helm 3."""
    name: str = request.param
    return name
