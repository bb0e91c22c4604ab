"""A rule that values must keep, with values that fail it and values that pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.chart.render import RELEASE

Values = dict[str, Any]
DATA = {"name": "data", "mountPath": "/data", "emptyDir": {}}


@dataclass(frozen=True)
class Rule:
    """`fails` is answered by `says` and nothing else; `passes` is what to do about it."""

    name: str
    fails: Values
    says: str
    passes: Values = field(default_factory=dict)
    release: str = RELEASE
    passing_release: str = RELEASE


def volume(**fields: Any) -> Values:
    return {"volumes": [{"name": "data", "mountPath": "/data", "emptyDir": {}} | fields]}
