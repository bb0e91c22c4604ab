"""The chart accepts every block of values, and every `--set` of a command, in the documents."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.render import CHART, MINIMAL, render

REPOSITORY = CHART.parents[1]
DOCUMENTS = [REPOSITORY / "README.md", CHART / "README.md", *REPOSITORY.glob("docs/*.md")]


def blocks() -> list[Any]:
    """Each YAML block of a document, with the document's name."""
    return [
        pytest.param(yaml.safe_load(text), id=f"{document.relative_to(REPOSITORY)}:{number}")
        for document in DOCUMENTS
        for number, text in enumerate(fenced(document, "yaml"))
    ]


def settings() -> list[str]:
    """What the documents give to `--set`, like worker.replicas=4."""
    texts = [text for document in DOCUMENTS for text in fenced(document, "sh")]
    return sorted({found for text in texts for found in re.findall(r"--set (\S+)", text)})


def fenced(document: Path, language: str) -> list[str]:
    """The blocks of a language in a document."""
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE)


def test_the_documents_have_values() -> None:
    assert len(blocks()) >= 2
    assert "worker.replicas=4" in settings()


@pytest.mark.parametrize("values", blocks())
def test_the_chart_accepts_the_values_of_the_documents(values: dict[str, Any]) -> None:
    render(values, base={} if "code" in values else MINIMAL)


@pytest.mark.parametrize("setting", settings())
def test_the_chart_accepts_the_settings_of_the_documents(setting: str) -> None:
    values: dict[str, Any] = {}
    for each in setting.split(","):
        path, value = each.split("=", 1)
        *parents, key = path.split(".")
        inner = values
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[key] = yaml.safe_load(value)
    render(values, base={} if "code" in values else MINIMAL)
