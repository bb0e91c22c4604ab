"""The chart and the launcher agree: job.json is read, and local runs what the chart renders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.local import _document, _values
from launcher.settings import read_job
from tests.chart.render import CHART, MINIMAL, merge, render

CI = sorted((CHART / "ci").glob("*.yaml"))
# What differs by nature: names, addresses, where the code is, and so the run's id.
OWN = {"run", "release", "addresses", "code"}

TRICKY: dict[str, Any] = {
    "program": {
        "command": ["python", "-m", "app", 3],
        "args": [
            "--rate",
            0.00001,
            1e-07,
            1.0,
            0.0,
            123456789012,
            1.5e21,
            -0.0001,
            True,
            "",
            "1e-5",
        ],
        "env": {"LEVEL": 1, "RATE": 0.25, "FAST": False, "WORD": "größe", "BIG": 1e6},
        "workingDir": "src/train",
        "flags": True,
    },
    "restarts": {"limit": 0, "permanentCodes": []},
    "ps": {"replicas": 3},
    "worker": {"replicas": 12, "resources": {"limits": {"nvidia.com/gpu": 1}}},
    "grace": 90,
    "cleanup": "Keep",
}


@pytest.mark.parametrize("file", CI, ids=lambda file: file.stem)
def test_the_launcher_reads_every_ci_render(file: Path, helm: str) -> None:
    rendered = render(yaml.safe_load(file.read_text()), base={}, helm=helm)
    job = read_job(rendered.job_json())
    assert job.document == rendered.job()
    assert job.source


def local_document(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    (folder / "values.yaml").write_text(yaml.safe_dump(dict(values)))
    mistakes: list[str] = []
    document = _document(_values([folder / "values.yaml"], mistakes), folder, mistakes)
    assert mistakes == []
    return document


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({}, id="defaults"),
        pytest.param(TRICKY, id="tricky"),
        *(pytest.param(yaml.safe_load(file.read_text()), id=file.stem) for file in CI),
    ],
)
def test_local_runs_what_the_chart_renders(values: dict[str, Any], tmp_path: Path) -> None:
    given = values if "code" in values else merge(MINIMAL, values)
    there = render(given, base={}).job()
    here = local_document(given, tmp_path)
    assert here.keys() == there.keys()
    for key in there.keys() - OWN:
        assert here[key] == there[key], key
