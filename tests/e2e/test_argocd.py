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


def values(release: Release, script: str, workers: int = 1, **more: object) -> str:
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
            **more,
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

    # Another size. The old Job is pruned.
    argo.deploy("mnist", {file: values(run, WAIT, workers=3)}, "Synced", "Progressing")
    assert not jobs(run) & first
    leads(run, "all tasks start")
    sizes = stateful_sets(run)
    assert [pods for _, pods, _, _ in sizes] == [3]
    # Argo CD compares again. The size is the controller's, so there is nothing to heal.
    synced = argo.status("mnist")["history"]
    revision = argo.deploy("mnist", {"README": "of no run"}, "Synced", "Progressing")
    assert (argo.status("mnist")["history"], stateful_sets(run)) == (synced, sizes)
    for worker in range(3):
        tell(run, f"mnist-worker-{worker}")
    argo.wait_for("mnist", revision, "Synced", "Healthy")

    # New code that fails, and new code that works.
    argo.deploy("mnist", {file: values(run, "exit 3")}, "Synced", "Degraded")
    argo.deploy("mnist", {file: values(run, "echo works")}, "Synced", "Healthy")
    assert len(jobs(run)) == 1

    # A commit that the API server refuses, and one that mends it.
    refused: dict[str, Any] = {"pod": {"tolerations": [{"operator": "Bogus"}]}}
    argo.repository.commit({file: values(run, "echo refused", **refused)})
    argo.refresh("mnist")
    retries = "{.status.operationState.phase} {.status.operationState.retryCount}"
    argo.admin.wait_for(["application", "mnist"], retries, "^Running [1-5]$", 60)
    mended = {file: values(run, "echo mended")}
    revision = argo.deploy("mnist", mended, "Synced", "Healthy")

    # Self-heal creates the Job again. The run has ended, and does not train again.
    (job,) = jobs(run)
    run.kubectl("delete", "job", job)
    run.kubectl("wait", "--for=create", f"job/{job}", "--timeout=60s")
    assert any("has ended already: Succeeded" in line for line in run.follow())
    argo.wait_for("mnist", revision, "Synced", "Healthy")

    argo.repository.commit({file: None})
    argo.refresh("runs", "applicationset")
    argo.admin.kubectl("wait", "--for=delete", "application/mnist", "--timeout=60s")
    assert everything(release) == before


def test_without_pruning_changes_take_effect_and_finished_jobs_stay(
    argo: ArgoCD, release: Release
) -> None:
    wait_for_what_pods_need(release)
    before = everything(release)
    run = dataclasses.replace(release, name="kept")
    file = "kept.yaml"
    manifest = example(argo, run, "application.yaml")
    manifest["metadata"]["name"] = run.name
    manifest["spec"]["source"]["helm"]["valueFiles"] = [f"/{file}"]
    manifest["spec"]["syncPolicy"]["automated"]["prune"] = False

    def change(health: str, text: str, *old: str) -> str:
        """Commits values, and waits until the old controllers have deleted their Jobs.

        Returns the name of the new Job.
        """
        there = jobs(run)
        revision = argo.deploy(run.name, {file: text}, "OutOfSync", health)
        synced = "{.status.operationState.syncResult.revision} {.status.operationState.phase}"
        argo.admin.wait_for(["application", run.name], synced, f"^{revision} Succeeded$", 60)
        for job in old:
            run.kubectl("wait", "--for=delete", f"job/{job}", "--timeout=60s")
        (new,) = jobs(run) - there
        return new

    one, two = values(run, WAIT), values(run, WAIT, hangTimeout=1000)
    revision = argo.repository.commit({file: one})
    argo.apply(manifest)
    argo.wait_for(run.name, revision, "Synced", "Progressing")
    leads(run, "generation 1: all tasks start")
    first = run.job()

    # The values change, and change back.
    second = change("Progressing", two, first)
    leads(run, "generation 1: found running")
    assert change("Progressing", one, second) == first
    leads(run, "generation 1: found running")
    tell(run, f"{run.name}-worker-0")
    argo.admin.wait_for(["application", run.name], "{.status.health.status}", "^Healthy$", 60)

    # A Job that has failed keeps the application Degraded until somebody deletes it.
    failed = change("Degraded", values(run, "exit 3"))
    works = change("Degraded", values(run, "echo works"))
    run.kubectl("wait", "--for=condition=complete", f"job/{works}", "--timeout=60s")
    assert argo.status(run.name)["health"]["status"] == "Degraded"
    run.kubectl("delete", "job", failed)
    argo.admin.wait_for(["application", run.name], "{.status.health.status}", "^Healthy$", 60)

    # The values of a finished Job return while the next run trains.
    third = change("Progressing", values(run, WAIT, run={"attempt": 2}))
    run.kubectl("wait", "--for=create", f"pod/{run.name}-worker-0", "--timeout=60s")
    argo.deploy(run.name, {file: one}, "OutOfSync", "Healthy")
    assert jobs(run) == {first, works}, f"{third} is gone"
    assert [pods for _, pods, _, _ in stateful_sets(run)] == [0]

    argo.admin.kubectl("delete", "application", run.name, "--timeout=60s")
    assert everything(release) == before
