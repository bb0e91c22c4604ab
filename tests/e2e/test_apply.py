"""The rendered chart through `kubectl apply`, as Argo CD applies it by default: on the client side.

Such an apply keeps a copy of each object in one of its annotations, which Kubernetes limits to
262,144 bytes. It deletes nothing: the Job of the values before stays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.release import CHART, Release
from tests.e2e.runs import (
    SERVERLESS,
    UNTIL_TOLD,
    finish,
    leads,
    stateful_sets,
    tell,
    tiny,
    wait_until_tasks_are_gone,
)
from tests.lines import Lines

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
    file.write_text(release.render([values], {}))
    rendered = [each for each in yaml.safe_load_all(file.read_text()) if each]
    applied = release.kubectl("apply", "-f", str(file)).splitlines()
    assert len(applied) == len(rendered)
    assert [line for line in applied if not line.endswith(" created")] == []


def apply(release: Release, folder: Path, settings: Mapping[str, Any]) -> str:
    """Applies the chart with these settings. Returns the name of the Job that they render."""
    file = folder / "rendered.yaml"
    file.write_text(release.render([], {**SERVERLESS, **settings}))
    applied = release.kubectl("apply", "-f", str(file))
    (job,) = re.findall(r"^job\.batch/(\S+) ", applied, re.MULTILINE)
    return str(job)


def test_changes_take_effect_though_nothing_deletes_the_job_before(
    release: Release, tmp_path: Path
) -> None:
    program = tiny(UNTIL_TOLD)
    one, two = {**program, "worker.replicas": 1}, {**program, "worker.replicas": 2}
    first = apply(release, tmp_path, one)
    leads(release, r"generation 1: .*\bstarts?$")

    second = apply(release, tmp_path, two)
    release.kubectl("wait", "--for=delete", f"job/{first}", "--timeout=60s")
    leads(release, r"generation 2: .*\bstarts?$")
    assert release.job() == second

    assert apply(release, tmp_path, one) == first
    release.kubectl("wait", "--for=delete", f"job/{second}", "--timeout=60s")
    leads(release, r"generation 3: .*\bstarts?$")
    with Lines(release.logs("run-worker-0")) as log:
        log.wait_for("generation 3: started")
    tell(release, "run-worker-0")
    end, _ = finish(release)
    assert (release.job(), end.condition) == (first, "Complete")
    wait_until_tasks_are_gone(release)

    # The next run trains when the finished one is applied again.
    third = apply(release, tmp_path, {**two, "run.attempt": 2})
    release.wait_for(["statefulset", "run-worker"], "{.status.readyReplicas}", "^2$", 60)
    assert apply(release, tmp_path, one) == first
    release.kubectl("wait", "--for=delete", f"job/{third}", "--timeout=60s")
    wait_until_tasks_are_gone(release)
    assert [replicas for _, replicas, *_ in stateful_sets(release)] == [0]
    assert release.end().condition == "Complete"
