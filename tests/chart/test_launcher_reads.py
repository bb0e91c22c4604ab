"""The chart and the launcher agree: job.json is read, and local runs what the chart renders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.local.values import job_document, read_values
from launcher.shared.job import job_of, read_job
from tests.chart.render import CHART, MINIMAL, MODES, merge, render

FILES = sorted([*(CHART / "ci").glob("*.yaml"), *CHART.parents[1].glob("examples/*/values.yaml")])
# These differ by design: names, addresses, where the code is, and therefore the run's id.
OWN = {"run", "release", "addresses", "code"}
# Only the chart writes these.
CLUSTER = {"pods"}

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
            -0.0001,
            True,
            "",
            "1e-5",
        ],
        "env": {"LEVEL": 1, "RATE": 0.25, "FAST": False, "WORD": "größe", "BIG": 1e6},
        "workingDir": "src/train",
        "flags": True,
    },
    "restarts": {"limit": 0, "permanentCodes": [], "refill": 0},
    "ps": {"replicas": 3},
    "worker": {"replicas": 12, "resources": {"limits": {"nvidia.com/gpu": 1}}},
    "evaluator": {"replicas": 1},
    "success": "Chief",
    "chiefFirst": False,
    "checkpoints": "/data/checkpoint",
    "hangTimeout": 300,
    "deadline": 1000000,
    "logs": "/data/logs",
    "volumes": [{"name": "data", "mountPath": "/data", "emptyDir": {}}],
    "grace": 90,
    "cleanup": "Keep",
}


def name(path: Path) -> str:
    return f"{path.parent.name}-{path.stem}"


def load(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(path.read_text())
    return values


@pytest.mark.parametrize("file", FILES, ids=name)
def test_the_launcher_reads_what_the_chart_renders(file: Path, helm: str) -> None:
    rendered = render(load(file), base={}, helm=helm)
    job = read_job(rendered.job_json())
    assert job.document == rendered.job()
    assert job.source


@pytest.mark.parametrize("mode", MODES)
def test_a_changed_pods_text_changes_the_digest_of_the_job(mode: str) -> None:
    document = render({"mode": mode}).job()
    digests = {job_of({**document, "pods": text}).digest for text in ("", "a", "b")}
    del document["pods"]
    assert len({*digests, job_of(document).digest}) == 4


def local_document(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    (folder / "values.yaml").write_text(json.dumps(values))  # as render() gives them to Helm
    mistakes: list[str] = []
    document = job_document(read_values([folder / "values.yaml"], mistakes), folder, mistakes)
    assert mistakes == []
    return document


def agree(values: Mapping[str, Any], folder: Path) -> None:
    there = render(values, base={}).job()
    here = local_document(values, folder)
    assert here.keys() == there.keys() - CLUSTER
    for key in here.keys() - OWN:
        assert here[key] == there[key], key
    assert job_of(here).replicas == there["replicas"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "values",
    [
        pytest.param({}, id="defaults"),
        pytest.param({"evaluator": {"replicas": 1}}, id="evaluator"),
        pytest.param(TRICKY, id="tricky"),
        pytest.param({"program": {"env": None}}, id="an emptied mapping"),
    ],
)
def test_launcher_local_reads_the_values_as_the_chart_renders_them(
    values: dict[str, Any], mode: str, tmp_path: Path
) -> None:
    agree(merge(MINIMAL, {**values, "mode": mode}), tmp_path)


@pytest.mark.parametrize("file", FILES, ids=name)
def test_launcher_local_reads_each_values_file_as_the_chart_renders_it(
    file: Path, tmp_path: Path
) -> None:
    agree(load(file), tmp_path)
