"""Fixtures of the tests of copies and archives."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

from tests.unit.code.copies import Copier, Reads


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "lib" / "deep").mkdir(parents=True)
    (folder / "train.py").write_text("print('hello')\n")
    (folder / "lib" / "deep" / "data.bin").write_bytes(random.Random(1).randbytes(100_000))
    return folder


@pytest.fixture
def copy(source: Path, tmp_path: Path) -> Copier:
    return Copier(source, tmp_path)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


@pytest.fixture
def cancelled() -> threading.Event:
    return threading.Event()
