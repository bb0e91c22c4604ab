"""The API server accepts the manifests of examples/flux: they fit Flux' CRDs.

Flux itself does not run here: its controllers cannot be built from their Go modules, because the
proxy refuses some of the modules that they need.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster import binaries
from tests.cluster.release import Release

pytestmark = pytest.mark.cluster

EXAMPLES = sorted((Path(__file__).parents[2] / "examples" / "flux").glob("*.yaml"))


@pytest.fixture
def _crds(release: Release) -> Iterator[None]:
    files = [f"--filename={file}" for file in sorted(binaries.flux_crds().iterdir())]
    try:
        release.kubectl("apply", "--server-side", *files)
        release.kubectl("wait", "--for=condition=Established", *files)
        yield
    finally:
        release.kubectl("delete", "--ignore-not-found", "--wait=false", *files)


@pytest.mark.usefixtures("_crds")
def test_the_flux_example_fits_the_crds_and_its_values_fit_the_chart(
    release: Release, tmp_path: Path
) -> None:
    assert {file.name for file in EXAMPLES} == {"helmrelease.yaml", "source.yaml"}
    for example in EXAMPLES:
        document = yaml.safe_load(example.read_text())
        document["metadata"]["namespace"] = release.namespace
        file = tmp_path / example.name
        file.write_text(yaml.safe_dump(document))
        dry = ("--dry-run=server", "--validate=strict", f"--filename={file}")
        assert "created (server dry run)" in release.kubectl("create", *dry)
        if document["kind"] == "HelmRelease":
            values = tmp_path / "values.yaml"
            values.write_text(yaml.safe_dump(document["spec"]["values"]))
            release.render([values], {})
