"""Values, programs and mounts that cannot work on the real Kubernetes, and their messages."""

from __future__ import annotations

import dataclasses
import time

import pytest

from tests.cluster import ClusterError
from tests.cluster.release import Release
from tests.e2e.paced import generations
from tests.e2e.runs import (
    PROMPT_SECONDS,
    check_failed,
    everything,
    finish,
    tiny,
    wait_for_what_pods_need,
)
from tests.lines import Lines

pytestmark = pytest.mark.cluster


def test_values_that_cannot_work_are_refused_before_anything_is_created(release: Release) -> None:
    wait_for_what_pods_need(release)
    before = everything(release)
    for settings, message in (
        ({**tiny("true"), "workers": 3}, "workers"),
        ({**tiny("true"), "worker.replicas": 0}, "worker.replicas must be 1 or more"),
        ({}, "code must be exactly one source"),
        ({"code.nfs.server": "nfs", "code.nfs.path": "code"}, "code.nfs.path must be an absolute"),
    ):
        with pytest.raises(ClusterError, match=message):
            release.install([], settings)
    assert everything(release) == before


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        (["python", "missing.py"], 2, "can't open file '/tmp/missing.py'"),
        (["no-such-program"], 127, "'no-such-program' is not found"),
    ],
)
def test_a_program_that_does_not_exist_fails_the_run_at_once(
    release: Release, command: list[str], code: int, message: str
) -> None:
    release.install([], {**tiny(""), "program.command": command})
    end, log = finish(release)
    check_failed(release, end, code)
    assert message in log
    assert generations(log) == [1]


def test_an_nfs_export_that_cannot_be_mounted_is_reported_within_seconds(release: Release) -> None:
    other = dataclasses.replace(release, name="other")
    path = f"{release.cluster.nfs_path}/no-such-folder"
    nfs = {"code.nfs.server": release.cluster.nfs_server, "code.nfs.path": path}
    release.install([], nfs)
    # An address that is reserved for documentation: no server answers there.
    other.install([], {"code.nfs.server": "192.0.2.1", "code.nfs.path": "/code"})
    with Lines(release.logs(release.controller())) as log:
        begin = time.monotonic()
        log.wait_for("code.nfs.path .* there is no no-such-folder in")
        assert time.monotonic() - begin < PROMPT_SECONDS
        with Lines(other.logs(other.controller())) as other_log:
            other_log.wait_for("code.nfs.server 192.0.2.1 does not answer on port 2049")
        assert time.monotonic() - begin < PROMPT_SECONDS
        other.uninstall()
        end = release.end()
    check_failed(release, end, 66)
    assert "there is no no-such-folder" in end.message["reason"]
