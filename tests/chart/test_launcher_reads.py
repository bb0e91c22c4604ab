"""`launcher local` and a cluster are given the same job by the same values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher import local
from launcher.settings import job_of, read_job
from tests.chart.render import CHART, MINIMAL, MODES, merge, render

Values = dict[str, Any]

# Where the tasks and the code are, and what of a run only a cluster has.
ELSEWHERE = {"addresses", "code", "pods", "release", "run"}


def locally(values: Values, folder: Path) -> Values:
    """The document that `launcher local` makes of the same values."""
    file = folder / "given.yaml"
    file.write_text(yaml.safe_dump(values))
    mistakes: list[str] = []
    document = local._document(local._values([file], mistakes), folder, mistakes)
    assert not mistakes
    return document


def in_a_cluster(values: Values) -> Values:
    job: Values = render(values, base={}).job()
    return job


def same(values: Values, folder: Path) -> None:
    here, there = locally(values, folder), in_a_cluster(values)
    job_of(here)
    assert there.keys() - here.keys() == {"pods"}
    for key in here.keys() - ELSEWHERE:
        assert json.dumps(here[key], sort_keys=True) == json.dumps(there[key], sort_keys=True), key


GIVEN: list[Values] = [
    {},
    {"evaluator": {"replicas": 1}},
    {"ps": {"replicas": 3}, "worker": {"replicas": 9}},
    {"program": {"command": ["python", 1.0], "args": [1e6, 1e-5, True, "x"], "env": {"A": 0.5}}},
    {"program": {"flags": True, "workingDir": "src"}},
    {"restarts": {"limit": 0, "permanentCodes": [], "refill": 0}, "grace": 0, "cleanup": "Keep"},
    {"success": "Chief", "chiefFirst": False, "checkpoints": "/data/checkpoint"},
    {"hangTimeout": 300, "deadline": 1000000},
    {
        "logs": "/data/logs",
        "volumes": [{"name": "data", "mountPath": "/data", "emptyDir": {}}],
    },
]


FILES = sorted(
    [*(CHART / "ci").glob("*-values.yaml"), *CHART.parents[1].glob("examples/*/values.yaml")]
)
# Mended in launcher/local.py: take the mark away then.
CHIEF = pytest.mark.xfail(reason="local counts no chief: the values have no chief.replicas")
LOCALLY = [pytest.param(mode, marks=[CHIEF] if mode == "coordinator" else []) for mode in MODES]
KNOWN = [
    pytest.param({"program": {"args": [1e-7]}}, id="1e-7 becomes 1e-07"),
    pytest.param({"program": {"env": None}}, id="an emptied mapping is refused"),
]


@pytest.mark.parametrize("mode", LOCALLY)
@pytest.mark.parametrize("values", GIVEN, ids=str)
def test_local_reads_values_as_the_chart_does(mode: str, values: Values, tmp_path: Path) -> None:
    same(merge(MINIMAL, {**values, "mode": mode}), tmp_path)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_local_reads_values_files_as_the_chart_does(
    path: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    values = yaml.safe_load(path.read_text())
    if values.get("mode") == "coordinator":
        request.applymarker(CHIEF)
    same(values, tmp_path)


@pytest.mark.xfail(reason="local differs here")
@pytest.mark.parametrize("values", KNOWN)
def test_local_reads_odd_values_as_the_chart_does(values: Values, tmp_path: Path) -> None:
    same(merge(MINIMAL, values), tmp_path)


@pytest.mark.parametrize("mode", MODES)
def test_pods_are_optional_to_the_launcher(mode: str) -> None:
    document = render({"mode": mode}).job()
    assert read_job(json.dumps(document)).document["pods"]
    del document["pods"]
    job_of(document)
