"""Fixtures of the unit tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.unit.processes import Launcher

Start = Callable[..., Launcher]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts launchers, which are killed when the test ends."""
    with ExitStack() as stack:

        def begin(*arguments: str, **options: object) -> Launcher:
            launcher = Launcher(*arguments, **options)  # type: ignore[arg-type]
            return stack.enter_context(launcher)

        yield begin
