"""The controller's settings. No other module of it reads the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher.shared.environment import Environment
from launcher.shared.job import Job, read_job


@dataclass(frozen=True)
class KubernetesSettings:
    """The API server, the namespace of the release, and the hash in the name of this Job."""

    host: str
    port: int
    namespace: str
    hash: str


@dataclass(frozen=True)
class ControllerSettings:
    """The controller's settings; `kubernetes` is None where it must not scale."""

    job: Job
    listen: tuple[str, int]
    kubernetes: KubernetesSettings | None


def controller_settings(environ: Mapping[str, str]) -> ControllerSettings:
    """Reads the settings and job.json. Raises LauncherError(CONFIGURATION) on a mistake."""
    env = Environment(environ)
    listen = env.host_and_port("TFRUN_LISTEN")
    kubernetes = None
    if env.flag("TFRUN_KUBERNETES"):
        kubernetes = KubernetesSettings(
            host=env.required("KUBERNETES_SERVICE_HOST"),  # in every pod
            port=env.whole("KUBERNETES_SERVICE_PORT", None, 1, 65535),
            namespace=env.required("TFRUN_NAMESPACE"),
            hash=env.required("TFRUN_HASH"),
        )
    path = env.text("TFRUN_JOB")
    text = b""
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        env.mistakes.append(f"TFRUN_JOB must name a readable job.json; got {path!r}: {error}")
    env.done()
    return ControllerSettings(
        job=read_job(text),
        listen=listen,
        kubernetes=kubernetes,
    )
