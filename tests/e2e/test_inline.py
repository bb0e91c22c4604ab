"""Helm installs and upgrades a release with the largest `code.inline` that the chart accepts.

The text is random, so that nothing is gained by compression.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tests.chart.test_inline import ALPHABETS, incompressible
from tests.cluster import Cluster
from tests.cluster.release import Release

pytestmark = pytest.mark.cluster


@pytest.mark.parametrize("helm", ["helm", "helm3"])
def test_the_largest_inline_code_is_installed_and_upgraded(
    release: Release, cluster: Cluster, tmp_path: Path, helm: str
) -> None:
    release = dataclasses.replace(
        release, cluster=dataclasses.replace(cluster, helm=getattr(cluster, helm))
    )
    release.kubectl("create", "quota", "no-pods", "--hard=pods=0")  # nothing runs
    inline = {"train.py": incompressible(ALPHABETS["ascii"])}
    values = tmp_path / "values.yaml"
    values.write_text(json.dumps({"code": {"inline": inline}}))
    release.install([values], {})
    release.change({"grace": 20})  # with --reuse-values, Helm keeps the text once more
    assert release.job_json()["code"]["inline"] == inline
