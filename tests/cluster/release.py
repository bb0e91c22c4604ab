"""A tfrun release on a cluster: install, follow, look at its end, remove."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.choose import Cluster
from tests.cluster.progress import ClusterError

CHART = Path(__file__).resolve().parents[2] / "charts" / "tfrun"
PROGRAM_USER = 1000  # the chart's podSecurityContext


@dataclass(frozen=True)
class RunEnd:
    """How a run ended, as Kubernetes tells it."""

    condition: str  # the Job's: Complete or Failed
    exit_code: int  # the controller's
    message: Mapping[str, Any]  # the controller's termination message


@dataclass(frozen=True)
class Release:
    """One release of the chart in a namespace of its own cluster."""

    cluster: Cluster
    namespace: str
    name: str

    def kubectl(self, *arguments: str, timeout: float = 120) -> str:
        """What kubectl prints. Raises ClusterError where it fails."""
        return _run([*self._kubectl(), *arguments], timeout)

    def get(self, kind: str, *arguments: str) -> list[dict[str, Any]]:
        """The release's objects of a kind."""
        selector = ("-l", f"app.kubernetes.io/instance={self.name}", "-o", "json")
        items: list[dict[str, Any]] = json.loads(self.kubectl("get", kind, *selector, *arguments))[
            "items"
        ]
        return items

    def install(self, values: Sequence[Path], settings: Mapping[str, Any]) -> str:
        """Installs the chart and returns what helm prints; creates the namespace if need be."""
        return self._helm("install", values, settings)

    def upgrade(self, values: Sequence[Path], settings: Mapping[str, Any]) -> str:
        """Upgrades the release and returns what helm prints."""
        return self._helm("upgrade", values, settings)

    def uninstall(self) -> None:
        """Removes the release, if it is there, and returns when its pods are gone."""
        if self.name in _run([*self._helm_base(), "list", "--all", "--short"], 60).split():
            _run([*self._helm_base(), "uninstall", self.name, "--wait"], 180)
        selector = ("-l", f"app.kubernetes.io/instance={self.name}")
        self.kubectl("wait", "pod", *selector, "--for=delete", "--timeout=120s")

    def job(self) -> str:
        """The name of the controller's Job."""
        (job,) = self.get("job")
        name: str = job["metadata"]["name"]
        return name

    def follow(self) -> Iterator[str]:
        """The lines of the controller's log, as they come, until the controller ends."""
        job = self.job()
        selector = f"batch.kubernetes.io/job-name={job}"
        # A pod that has ended already is not Ready any more; both say that there is a log.
        self.kubectl("wait", "pod", "-l", selector, "--for=create", "--timeout=60s")
        started = "--for=jsonpath={.status.containerStatuses[0].started}"
        waited = ("wait", "pod", "-l", selector, started, "--timeout=60s")
        try:
            self.kubectl(*waited)
        except ClusterError:
            if "terminated" not in self.kubectl("get", "pod", "-l", selector, "-o", "json"):
                raise
        command = [*self._kubectl(), "logs", "--follow", f"job/{job}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            try:
                for line in process.stdout:
                    yield line.rstrip("\n")
            finally:
                process.kill()

    def end(self, timeout: float = 300) -> RunEnd:
        """Waits for the Job's end. Raises ClusterError after `timeout` seconds."""
        job = self.job()
        deadline = time.monotonic() + timeout
        path = "jsonpath={.status.conditions[*].type}{'\\n'}"
        command = [*self._kubectl(), "get", "job", job, "--watch", "-o", path]
        condition = ""
        # --request-timeout ends the watch by itself.
        command += [f"--request-timeout={timeout:.0f}s"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            for line in process.stdout:
                # A Job that is about to fail says FailureTarget first.
                ended = {"Complete", "Failed"} & set(line.split())
                if ended:
                    (condition,) = ended
                    break
            process.kill()
        if not condition:
            waited = timeout - (deadline - time.monotonic())
            raise ClusterError(f"the job {job} has not ended within {waited:.0f} s")
        return self._run_end(job, condition)

    def _run_end(self, job: str, condition: str) -> RunEnd:
        pods = json.loads(
            self.kubectl("get", "pod", "-l", f"batch.kubernetes.io/job-name={job}", "-o", "json")
        )["items"]
        newest = max(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
        ended = newest["status"]["containerStatuses"][0]["state"]["terminated"]
        try:
            message = json.loads(ended.get("message", ""))
        except ValueError:
            message = {"reason": ended.get("message", "")}
        return RunEnd(condition, ended["exitCode"], message)

    def _helm(self, verb: str, values: Sequence[Path], settings: Mapping[str, Any]) -> str:
        repository, _, tag = self.cluster.image.rpartition(":")
        image = {"image.repository": repository, "image.tag": tag}
        command = [*self._helm_base(), verb, self.name, str(CHART)]
        if verb == "install":
            command.append("--create-namespace")
        for file in values:
            command += ["--values", str(file)]
        for key, value in {**image, **settings}.items():
            command += ["--set-json", f"{key}={json.dumps(value)}"]
        return _run(command, 120)

    def _kubectl(self) -> list[str]:
        cluster = self.cluster
        where = ["--kubeconfig", str(cluster.kubeconfig), "--context", cluster.context]
        return [str(cluster.kubectl), *where, "--namespace", self.namespace]

    def _helm_base(self) -> list[str]:
        cluster = self.cluster
        where = ["--kubeconfig", str(cluster.kubeconfig), "--kube-context", cluster.context]
        return [str(cluster.helm), *where, "--namespace", self.namespace]


@dataclass(frozen=True)
class Folders:
    """A run's code and data on the NFS export: as this machine and as pods name them."""

    code: Path
    data: Path
    settings: Mapping[str, Any]  # values of the example that name them


def put_on_nfs(cluster: Cluster, name: str, program: Path) -> Folders:
    """Copies a program's folder to the export, and makes an empty data folder for its run."""
    folder = cluster.nfs_folder / name
    if folder.exists():
        _run(["rm", "-rf", str(folder)], 60)  # a pod's files may belong to its user
    (folder / "data").mkdir(parents=True)
    _run(["cp", "-r", str(program), str(folder / "code")], 60)
    os.chown(folder / "data", PROGRAM_USER, PROGRAM_USER)
    path = f"{cluster.nfs_path}/{name}"
    return Folders(
        folder / "code",
        folder / "data",
        {
            "code.nfs.server": cluster.nfs_server,
            "code.nfs.path": f"{path}/code",
            "volumes[0].nfs.server": cluster.nfs_server,
            "volumes[0].nfs.path": f"{path}/data",
        },
    )


def _run(command: Sequence[str], timeout: float) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        name = Path(command[0]).name
        raise ClusterError(f"{name} failed ({done.returncode}): {done.stderr or done.stdout}")
    return done.stdout
