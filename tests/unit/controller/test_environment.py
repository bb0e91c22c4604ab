"""What a controller reads from its environment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.controller.environment import controller_settings
from launcher.shared.exits import LauncherError
from tests.unit.jobs import document, job


def test_a_controller_reads_its_job(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(json.dumps(document()))
    settings = controller_settings(
        {
            "TFRUN_JOB": str(tmp_path / "job.json"),
            "TFRUN_LISTEN": "0.0.0.0:2220",
            "TFRUN_KUBERNETES": "true",
            "TFRUN_NAMESPACE": "research",
            "TFRUN_HASH": "0123abcd",
            "KUBERNETES_SERVICE_HOST": "fd00::1",
            "KUBERNETES_SERVICE_PORT": "443",
        }
    )
    assert settings.job == job()
    assert settings.listen == ("0.0.0.0", 2220)
    assert settings.kubernetes
    assert (settings.kubernetes.host, settings.kubernetes.port) == ("fd00::1", 443)


def test_all_mistakes_in_a_controllers_environment_are_reported_together() -> None:
    with pytest.raises(LauncherError) as error:
        controller_settings({"TFRUN_JOB": "/no/such", "TFRUN_KUBERNETES": "true"})
    told = error.value.reason
    assert told.startswith("6 mistakes in the environment:")
    for name in (
        "LISTEN",
        "JOB must name a readable job.json; got '/no/such'",
        "NAMESPACE",
        "HASH",
    ):
        assert f"TFRUN_{name}" in told
    assert "KUBERNETES_SERVICE_HOST must be set" in told
