"""A rule that values must keep, with values that break it and values that keep it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.chart.render import RELEASE

Values = dict[str, Any]
DATA = {"name": "data", "mountPath": "/data", "emptyDir": {}}


@dataclass(frozen=True)
class Rule:
    """The chart refuses `fails` with the one message `says`, and renders `passes`."""

    name: str
    fails: Values
    says: str
    passes: Values = field(default_factory=dict)
    release: str = RELEASE
    passing_release: str = RELEASE


def volume(**fields: Any) -> Values:
    return {"volumes": [{"name": "data", "mountPath": "/data", "emptyDir": {}} | fields]}
