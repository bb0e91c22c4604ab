"""The rendered chart through `kubectl apply`, as Argo CD applies it by default: on the client side.

Such an apply keeps a copy of each object in one of its annotations, which Kubernetes limits to
262,144 bytes.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.cluster.release import CHART, Release

pytestmark = pytest.mark.cluster

# All files, because everything-values.yaml does not render the launcher, the largest object.
VALUES = sorted((CHART / "ci").glob("*-values.yaml"))


@pytest.mark.parametrize("values", VALUES, ids=[file.stem for file in VALUES])
def test_kubectl_apply_takes_every_object_that_the_chart_renders(
    release: Release, tmp_path: Path, values: Path
) -> None:
    # The values name images and servers that do not exist. Without pods nothing uses them.
    release.kubectl("create", "quota", "no-pods", "--hard=pods=0")
    file = tmp_path / "rendered.yaml"
    file.write_text(release.render([values]))
    rendered = [each for each in yaml.safe_load_all(file.read_text()) if each]
    applied = release.kubectl("apply", "-f", str(file)).splitlines()
    assert len(applied) == len(rendered)
    assert [line for line in applied if not line.endswith(" created")] == []
