"""The real Argo CD deploys runs from a git repository, with the manifests of examples/argocd.

Workers run short shell scripts.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster import Cluster, argocd
from tests.cluster.argocd import ArgoCD
from tests.cluster.box import Box
from tests.cluster.release import Release
from tests.e2e.runs import (
    UNTIL_TOLD,
    everything,
    leads,
    stateful_sets,
    tell,
    wait_for_what_pods_need,
)

pytestmark = pytest.mark.cluster

EXAMPLES = Path(__file__).parents[2] / "examples" / "argocd"
WAIT = f"{UNTIL_TOLD}; echo done"


@pytest.fixture(scope="module")
def argo(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArgoCD]:
    box = Box()
    if not box.alive():
        pytest.skip("Argo CD's processes run in the box, and the cluster is another one")
    with argocd.start(cluster, box, tmp_path_factory.mktemp("argocd")) as running:
        yield running


def values(release: Release, script: str, workers: int = 1) -> str:
    """The values of a run without ps, whose workers run a shell script."""
    repository, _, tag = release.cluster.image.rpartition(":")
    return yaml.safe_dump(
        {
            "mode": "all-reduce",
            "image": {"repository": repository, "tag": tag},
            "code": {"inline": {"train.sh": script}},
            "program": {"command": ["sh", "train.sh"]},
            "restarts": {"limit": 0},
            "grace": 2,
            "worker": {
                "replicas": workers,
                "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
            },
        }
    )


def example(argo: ArgoCD, release: Release, name: str) -> Any:
    """A manifest of examples/argocd with the tests' repository and namespace."""
    manifest = yaml.safe_load((EXAMPLES / name).read_text())
    url = "https://git.example.com/runs.git"
    text = json.dumps(manifest).replace(url, argo.repository.url)
    return json.loads(text.replace('"training"', json.dumps(release.namespace)))


def jobs(release: Release) -> set[str]:
    return {job["metadata"]["name"] for job in release.get("job")}


def test_commits_install_change_mend_and_remove_a_run(argo: ArgoCD, release: Release) -> None:
    wait_for_what_pods_need(release)
    before = everything(release)
    run = dataclasses.replace(release, name="mnist")
    file = "runs/mnist.yaml"

    revision = argo.repository.commit({file: values(run, WAIT, workers=2)})
    argo.apply(example(argo, run, "applicationset.yaml"))
    argo.wait_for("mnist", revision, "Synced", "Progressing")
    leads(run, "generation 1: all tasks start")
    first = jobs(run)

    # Another size. The old Job is pruned, and self-heal leaves the size to the controller.
    revision = argo.repository.commit({file: values(run, WAIT, workers=3)})
    argo.refresh("mnist")
    argo.wait_for("mnist", revision, "Synced", "Progressing")
    leads(run, "all tasks start")
    assert not jobs(run) & first

    # Argo CD compares again, and changes nothing.
    synced = argo.status("mnist")["history"]
    sizes = stateful_sets(run)
    argo.refresh("mnist")
    argo.wait_for("mnist", revision, "Synced", "Progressing")
    assert (argo.status("mnist")["history"], stateful_sets(run)) == (synced, sizes)
    assert [pods for _, pods, _, _ in sizes] == [3]

    for worker in range(3):
        tell(run, f"mnist-worker-{worker}")
    argo.wait_for("mnist", revision, "Synced", "Healthy")

    # New code that fails, and a commit that mends it.
    for script, health in (("exit 3", "Degraded"), ("echo mended", "Healthy")):
        revision = argo.repository.commit({file: values(run, script)})
        argo.refresh("mnist")
        argo.wait_for("mnist", revision, "Synced", health)
        assert len(jobs(run)) == 1

    argo.repository.commit({file: None})
    argo.refresh("runs", "applicationset")
    argo.admin.kubectl("wait", "--for=delete", "application/mnist", "--timeout=60s")
    assert everything(release) == before
