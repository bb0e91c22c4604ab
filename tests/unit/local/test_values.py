"""The values of a local run: read and merged as Helm does, each mistake named by its key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.local.helm_yaml import documents
from launcher.local.values import (
    _merge,
    _text,
    job_document,
    job_from,
    left_out,
    read_values,
    task_env,
)
from launcher.shared.exits import ExitCode, LauncherError
from launcher.shared.sources import SOURCES


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
        ("program: {args: [9007199254740993]}", "program.args[0] must be quoted: Helm rounds numb"),
        ("program: {env: {A: -1e30}}", "program.env.A must be quoted"),
        ("program: {env: {TF_CONFIG: x}}", "program.env must be without TF_CONFIG"),
        ("a: [2024-01-01, .inf]", "must be a readable YAML file: JSON has no number like .inf"),
        ("a: &a [*a]", "must be a readable YAML file: it is nested too deeply"),
        ("~: 1", "must be a readable YAML file: a key must be a text"),
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
    ("text", "value"),
    [
        ("{1: 2, y: 3, 1.5: 4, 0x10: 5}", {"1": 2, "true": 3, "1.5": 4, "16": 5}),
        ("{a: 1, a: 2}", {"a": 2}),
        ("{a: 1, <<: {a: 2}}", {"a": 2}),
        ("{<<: {a: 2}, a: 1}", {"a": 1}),
        ("{<<: [{a: 1}, {a: 2, b: 3}]}", {"a": 1, "b": 3}),
        ("!!set {a, b}", {"a": None, "b": None}),
        ("[&x 16:9, *x]", ["16:9", "16:9"]),
    ],
)
def test_yaml_is_read_as_helm_reads_it(text: str, value: Any) -> None:
    """Helm 3.21 and 4.2 gave these values."""
    assert list(documents(text.encode())) == [value]


def values_of(folder: Path, *texts: str) -> dict[str, Any]:
    for i, text in enumerate(texts):
        (folder / f"{i}.yaml").write_text(text, encoding="utf-8")
    mistakes: list[str] = []
    values = read_values([folder / f"{i}.yaml" for i in range(len(texts))], mistakes)
    assert mistakes == []
    return values


def test_files_are_merged_before_the_defaults_as_helm_does(tmp_path: Path) -> None:
    read = values_of(tmp_path, "restarts: null", "restarts: {limit: 7}\n---\ngrace: 9")
    assert read["restarts"] == {"limit": 7, "permanentCodes": [2, 126, 127], "refill": 3600}
    assert read["grace"] == 9


def test_a_number_may_be_written_in_any_way(tmp_path: Path) -> None:
    read = values_of(tmp_path, "grace: 1e2\nworker: {replicas: 3.0}\nenabled: on\nglobal: {a: 1}")
    assert (read["grace"], read["worker"]["replicas"]) == (100, 3)
    assert all(type(each) is int for each in (read["grace"], read["worker"]["replicas"]))


def test_env_sets_the_variables_that_need_no_cluster() -> None:
    secret = {"secretKeyRef": {"name": "s", "key": "k"}}
    given = [
        {"name": "A", "value": "1"},
        {"name": "KEY", "valueFrom": secret},
        {"name": "B", "value": "$(A) $(KEY) $(C) $$(A)"},
        {"name": "C"},
    ]
    mistakes: list[str] = []
    env, elsewhere = task_env({"env": given}, {"KEY": "k", "C": "shell"}, mistakes)
    assert (env, elsewhere) == ({"A": "1", "B": "1 k $(C) $(A)", "C": ""}, ["KEY"])
    assert mistakes == []


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"name": "A", "value": 1}, "env[1] must be a mapping with name and value, both strings"),
        ({"value": "a"}, "env[1] must be a mapping with name"),
        ("A=1", "env[1] must be a mapping"),
        ({"name": "TFRUN_ROLE", "value": "a"}, "env[1].name must be another name"),
        ({"name": "HOME", "value": "a"}, "env[1].name must be another name"),
        ({"name": "X", "value": "a"}, "env[1].name must be unique"),
    ],
)
def test_a_wrong_env_is_named_with_the_charts_messages(item: Any, words: str) -> None:
    mistakes: list[str] = []
    task_env({"env": [{"name": "X"}, item]}, {}, mistakes)
    assert len(mistakes) == 1
    assert mistakes[0].startswith(words)


def test_each_value_takes_effect_or_is_named(tmp_path: Path) -> None:
    """Takes each value of everything-values.yaml alone, beside the least that a run needs."""
    chart = Path(__file__).parents[3] / "charts" / "tfrun"
    everything = yaml.safe_load((chart / "ci" / "everything-values.yaml").read_text())
    everything["worker"]["maxReplicas"] = 8
    everything["image"]["tag"] = "x"
    defaults = yaml.safe_load((chart / "values.yaml").read_text())

    def effect(values: dict[str, Any]) -> Any:
        read = values_of(tmp_path, yaml.safe_dump(values))
        mistakes: list[str] = []
        document = {**job_document(read, tmp_path, mistakes), "run": ""}
        return document, task_env(read, {}, mistakes), left_out(read), mistakes

    def check(values: dict[str, Any], default: dict[str, Any], *above: str) -> None:
        for key, value in values.items():
            path = (*above, key)
            if isinstance(default.get(key), dict) and default[key]:
                check(value, default[key], *path)
            elif value != default.get(key) and path[:2] not in sources:
                given = value
                for part in reversed(path):
                    given = {part: given}
                assert effect(given) != effect({}), f"{'.'.join(path)} has no effect"

    sources = [("code", source) for source in SOURCES]  # --code replaces them
    check(everything, defaults)


def test_what_has_no_effect_is_named_by_its_key(tmp_path: Path) -> None:
    given = "{image: {tag: x}, worker: {replicas: 3, pod: {a: b}}, volumes: [], cleanup: Delete}"
    assert left_out(values_of(tmp_path, given)) == ["image", "worker.pod"]
    given = "{code: {secret: s}, port: 1, global: {a: 1}, securityContext: null, env: [{name: A}]}"
    names = ["code.secret", "securityContext", "port", "global"]
    assert left_out(values_of(tmp_path, given)) == names


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
