"""Installs, follows, changes and removes a tfrun release on a cluster."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.choose import Cluster
from tests.cluster.commands import ClusterError, run

CHART = Path(__file__).resolve().parents[2] / "charts" / "tfrun"
OF_JOB = "batch.kubernetes.io/job-name"  # the label of a Job's pods
PROGRAM_USER = 1000  # the chart's podSecurityContext


@dataclass(frozen=True)
class RunEnd:
    """How a run ended, as Kubernetes reports it."""

    condition: str  # the Job's: Complete or Failed
    exit_code: int  # the controller's
    message: Mapping[str, Any]  # the controller's termination message


@dataclass(frozen=True)
class Release:
    """A release of the chart in a namespace of a cluster."""

    cluster: Cluster
    namespace: str
    name: str

    def kubectl(self, *arguments: str) -> str:
        """What kubectl prints. Raises ClusterError if it fails."""
        return run([*self._kubectl(), *arguments])

    def get(self, kind: str, *arguments: str) -> list[dict[str, Any]]:
        """The release's objects of a kind."""
        selector = ("-l", f"app.kubernetes.io/instance={self.name}", "-o", "json")
        items: list[dict[str, Any]] = json.loads(self.kubectl("get", kind, *selector, *arguments))[
            "items"
        ]
        return items

    def install(self, values: Sequence[Path], settings: Mapping[str, Any]) -> str:
        """Installs the chart and returns what helm prints. Creates the namespace if necessary."""
        return self._helm("install", values, settings)

    def upgrade(self, values: Sequence[Path], settings: Mapping[str, Any]) -> str:
        """Upgrades the release and returns what helm prints."""
        return self._helm("upgrade", values, settings)

    def change(self, settings: Mapping[str, Any], *flags: str) -> str:
        """Upgrades the release with these settings, and keeps all other values."""
        return run([*self._helm_command("upgrade", settings), "--reuse-values", *flags])

    def render(self, values: Sequence[Path], settings: Mapping[str, Any]) -> str:
        """What `helm template` prints of the release."""
        return self._helm("template", values, settings)

    def rollback(self, revision: int) -> None:
        """Rolls the release back. The install is revision 1; each change adds one."""
        run([*self._helm_base(), "rollback", self.name, str(revision)])

    def job_json(self) -> dict[str, Any]:
        """The job.json that the release gives its controller."""
        (text,) = (
            each["data"]["job.json"] for each in self.get("configmap") if "job.json" in each["data"]
        )
        document: dict[str, Any] = json.loads(text)
        return document

    def uninstall(self) -> None:
        """Removes the release, if it exists, and waits until its pods are gone."""
        run([*self._helm_base(), "uninstall", self.name, "--ignore-not-found", "--wait"])
        selector = ("-l", f"app.kubernetes.io/instance={self.name}")
        self.kubectl("wait", "pod", *selector, "--for=delete", "--timeout=120s")

    def job(self) -> str:
        """The name of the controller's Job."""
        (job,) = self.get("job")
        name: str = job["metadata"]["name"]
        return name

    def controllers(self) -> list[str]:
        """The names of the pods of the controller's Job, the newest last."""
        return [str(pod["metadata"]["name"]) for pod in self._pods(self.job())]

    def controller(self, after: Sequence[str] = ()) -> str:
        """Waits for a controller's pod that has started and is not in `after`; returns its name."""
        path = "{.metadata.name} {.status.containerStatuses[*].state}"
        others = "|".join(after) or "none"
        pattern = rf"^(?!(?:{others}) )(\S+) .*\b(running|terminated)\b"
        return self.wait_for(["pod", "-l", f"{OF_JOB}={self.job()}"], path, pattern, 180)[1]

    def logs(self, pod: str) -> subprocess.Popen[bytes]:
        """A process that prints the pod's log from its beginning until the pod ends."""
        command = [*self._kubectl(), "logs", "--follow", pod]
        return subprocess.Popen(command, stdout=subprocess.PIPE)

    def follow(self) -> Iterator[str]:
        """The lines of the controller's log until the controller ends."""
        with self.logs(self.controller()) as process:
            assert process.stdout
            try:
                for line in process.stdout:
                    yield line.decode(errors="replace").rstrip("\n")
            finally:
                process.kill()

    def end(self, timeout: float = 300) -> RunEnd:
        """Waits for the Job's end. Raises ClusterError after `timeout` seconds."""
        job = self.job()
        # We wait for the last condition: Failed follows FailureTarget, and Complete follows
        # SuccessCriteriaMet.
        types = "{.status.conditions[*].type}"
        ended = self.wait_for(["job", job], types, r"\b(Complete|Failed)\b", timeout)
        return self._run_end(job, ended[1])

    def wait_for(
        self, what: Sequence[str], path: str, pattern: str, timeout: float
    ) -> re.Match[str]:
        """Waits until a field of an object matches. Raises ClusterError if none does in time."""
        command = [*self._kubectl(), "get", *what, "--watch", "-o", f"jsonpath={path}{{'\\n'}}"]
        command.append(f"--request-timeout={timeout:.0f}s")  # ends the watch
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            try:
                for line in process.stdout:
                    found = re.search(pattern, line)
                    if found:
                        return found
            finally:
                process.kill()
        raise ClusterError(f"{' '.join(what)}: no {pattern!r} in {path} within {timeout:.0f} s")

    def _pods(self, job: str) -> list[dict[str, Any]]:
        """The pods of a Job, the newest last."""
        text = self.kubectl("get", "pod", "-l", f"{OF_JOB}={job}", "-o", "json")
        pods: list[dict[str, Any]] = json.loads(text)["items"]
        return sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def _run_end(self, job: str, condition: str) -> RunEnd:
        newest = self._pods(job)[-1]
        ended = newest["status"]["containerStatuses"][0]["state"]["terminated"]
        try:
            message = json.loads(ended.get("message", ""))
        except ValueError:
            message = {"reason": ended.get("message", "")}
        return RunEnd(condition, ended["exitCode"], message)

    def _helm(self, verb: str, values: Sequence[Path], settings: Mapping[str, Any]) -> str:
        command = self._helm_command(verb, {**image_settings(self.cluster.image), **settings})
        if verb == "install":
            command.append("--create-namespace")
        for file in values:
            command += ["--values", str(file)]
        return run(command)

    def _helm_command(self, verb: str, settings: Mapping[str, Any]) -> list[str]:
        command = [*self._helm_base(), verb, self.name, str(CHART)]
        for key, value in settings.items():
            command += ["--set-json", f"{key}={json.dumps(value)}"]
        return command

    def _kubectl(self) -> list[str]:
        cluster = self.cluster
        where = ["--kubeconfig", str(cluster.kubeconfig), "--context", cluster.context]
        return [str(cluster.kubectl), *where, "--namespace", self.namespace]

    def _helm_base(self) -> list[str]:
        cluster = self.cluster
        where = ["--kubeconfig", str(cluster.kubeconfig), "--kube-context", cluster.context]
        return [str(cluster.helm), *where, "--namespace", self.namespace]


def image_settings(image: str) -> dict[str, str]:
    """The values that name an image."""
    repository, _, tag = image.rpartition(":")
    return {"image.repository": repository, "image.tag": tag}


@dataclass(frozen=True)
class Folders:
    """The code and data folders of a run on the NFS export."""

    code: Path
    data: Path
    settings: Mapping[str, Any]  # the chart's values that name these folders


def put_on_nfs(cluster: Cluster, name: str, program: Path) -> Folders:
    """Copies a program's folder to the export, and creates an empty data folder for its run."""
    folder = cluster.nfs_folder / name
    if folder.exists():
        run(["rm", "-rf", str(folder)])  # a pod's files may belong to its user
    (folder / "data").mkdir(parents=True)
    run(["cp", "-r", str(program), str(folder / "code")])
    try:
        os.chown(folder / "data", PROGRAM_USER, PROGRAM_USER)
    except PermissionError:  # only root may change the owner
        (folder / "data").chmod(0o777)
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
