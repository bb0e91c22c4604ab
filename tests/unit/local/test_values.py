"""The values of a local run: read and merged as Helm does, each mistake named by its key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.local.values import _merge, _text, job_document, job_from, read_values
from launcher.shared.exits import ExitCode, LauncherError


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "must be a readable YAML file"),
        ("- a\n- b\n", "must hold a mapping of values"),
        ("program: train.py", 'program must be a mapping; got "train.py"'),
        ("program: null", "program.command must be a list"),
        ("mode: ring", "1 mistake in the values:\n  mode must be one of parameter-server"),
        ("{mode: all-reduce, evaluator: {replicas: 2}}", "evaluator.replicas must be a whole"),
        ("worker: null", "worker.replicas must be a whole number from 1 to 100000; got null"),
        ("worker: {replicas: null}", "worker.replicas must be a whole number"),
        (
            "worker: {maxReplicas: 1}",
            "worker.maxReplicas must be 0, or at least worker.replicas (2): it is how many workers "
            "the ClusterSpec lists; got 1",
        ),
        ("3: 4", "3 must be left out: it is not a known key"),
    ],
)
def test_wrong_values_are_named_with_the_charts_messages(
    tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "values.yaml").write_text(text)
    mistakes: list[str] = []
    with pytest.raises(LauncherError, match=re.escape(words)) as error:
        job_from(
            job_document(read_values([tmp_path / "values.yaml"], mistakes), tmp_path, mistakes),
            1,
            mistakes,
        )
    assert error.value.exit_code is ExitCode.CONFIGURATION


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ({"archive": {"url": "https://e.com/a", "sha256": "a" * 64}}, "code.archive https://e"),
        ({"git": {"url": "https://e.com/a", "ref": "a" * 40}}, "code.git https://e.com/a at aaaa"),
        ({"image": {"path": "/app"}}, "code.image /app"),
        ({"inline": {"a": "b"}, "requirements": True, "digest": "a" * 32}, "code.inline"),
    ],
)
def test_a_source_in_the_values_is_read(tmp_path: Path, code: dict[str, Any], told: str) -> None:
    (tmp_path / "values.yaml").write_text(yaml.safe_dump({"code": code}))
    mistakes: list[str] = []
    document = job_document(read_values([tmp_path / "values.yaml"], mistakes), None, mistakes)
    assert document["code"] == {**code, "timeout": 120, "refresh": "OnRequest"}
    assert str(job_from(document, 1, mistakes).source).startswith(told)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ({}, "--code must name the folder of the program: only a cluster mounts"),
        ({"claim": {"name": "c"}}, "only a cluster mounts code.nfs and code.claim"),
        ({"git": {"url": "u"}}, "code.git.url must be an https, http, ssh or file address"),
        ({"inline": {"a": "b"}, "image": {"path": "/a"}}, "code must be exactly one source"),
        (
            {"git": {"url": "https://e.com/a", "ref": "a" * 40}, "secret": "login"},
            "--code must name the folder of the program: only a cluster has Secrets",
        ),
    ],
)
def test_a_wrong_source_in_the_values_is_named(
    tmp_path: Path, code: dict[str, Any], words: str
) -> None:
    (tmp_path / "values.yaml").write_text(yaml.safe_dump({"code": code}))
    mistakes: list[str] = []
    document = job_document(read_values([tmp_path / "values.yaml"], mistakes), None, mistakes)
    with pytest.raises(LauncherError, match=re.escape(words)):
        job_from(document, 1, mistakes)


@pytest.mark.parametrize(
    ("below", "above", "merged"),
    [
        ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
        ({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}}, {"a": {"x": 1, "y": 3}}),
        ({"a": {"x": 1, "y": 2}}, {"a": {"y": None}}, {"a": {"x": 1}}),
        ({"a": {"x": 1}}, {"a": None}, {}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": {"x": 1}}, {"a": 5}, {"a": {"x": 1}}),
        ({"a": 5}, {"a": {"x": 1}}, {"a": {"x": 1}}),
        ({"a": 1}, {"a": False}, {"a": False}),
    ],
)
def test_values_are_merged_as_helm_does(
    below: dict[str, Any], above: dict[str, Any], merged: dict[str, Any]
) -> None:
    assert _merge(below, above) == merged


@pytest.mark.parametrize(
    ("scalar", "text"),
    [
        (True, "true"),
        (20, "20"),
        (-1.5, "-1.5"),
        (1.0, "1"),
        (0.001, "0.001"),
        (0.0, "0"),
        (1e-05, "0.00001"),
        (1e-07, "1e-7"),
        (1.5e21, "1.5e+21"),
        (1e6, "1000000"),
        ("1e-5", "1e-5"),
        (None, None),
        (["a"], ["a"]),
    ],
)
def test_scalars_are_written_as_the_chart_writes_them(scalar: Any, text: Any) -> None:
    assert _text(scalar) == text
