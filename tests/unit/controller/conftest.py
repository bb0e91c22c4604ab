"""Fixtures of the controller's tests: a fake Kubernetes API server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from launcher.controller import kubernetes
from tests.unit.controller.api_server import FakeApiServer


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The service account that the kubelet mounts into a pod."""
    monkeypatch.setattr(kubernetes, "ACCOUNT", tmp_path)
    (tmp_path / "token").write_text("first")
    return tmp_path


@pytest.fixture
def api(account: Path) -> Iterator[FakeApiServer]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(account / "ca.crt"))
    server = FakeApiServer(authority)
    yield server
    server.close()
