"""Renders the chart and answers questions about the result.

`render(values)` runs the real `helm template` and checks every object against the Kubernetes API's
own schemas, which refuse unknown fields: each test that renders checks that too.
`refusal(values)` returns the messages of a chart that refuses its values.
"""

from __future__ import annotations

import copy
import functools
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from tests.cluster import binaries

CHART = Path(__file__).resolve().parents[2] / "charts" / "tfrun"
HELMS = ("helm", "helm3")
RELEASE = "mnist"
NAMESPACE = "research"
MINIMAL: Mapping[str, Any] = {"code": {"image": {"path": "/app"}}}
MODES = ("parameter-server", "coordinator", "all-reduce")

Object = dict[str, Any]


@dataclass(frozen=True)
class Rendered:
    """The objects of a release, and the texts that they were parsed from."""

    release: str
    texts: tuple[str, ...]
    objects: tuple[Object, ...]

    def names(self, kind: str) -> list[str]:
        return sorted(o["metadata"]["name"] for o in self.objects if o["kind"] == kind)

    def one(self, kind: str, name: str | None = None) -> Object:
        """The only object of a kind, or the one of that name."""
        found = [
            o
            for o in self.objects
            if o["kind"] == kind and (name is None or o["metadata"]["name"] == name)
        ]
        assert len(found) == 1, f"{kind} {name or ''}: there are {self.names(kind)}"
        return copy.deepcopy(found[0])  # renders are cached, and tests change what they get

    def statefulset(self, role: str) -> Object:
        return self.one("StatefulSet", f"{self.release}-{role}")

    def roles(self) -> list[str]:
        """The roles of the release, in alphabetical order."""
        return [name.removeprefix(f"{self.release}-") for name in self.names("StatefulSet")]

    def task_pod(self, role: str = "worker") -> Object:
        """The pod template of a role."""
        template: Object = self.statefulset(role)["spec"]["template"]
        return template

    def controller_pod(self) -> Object:
        template: Object = self.one("Job")["spec"]["template"]
        return template

    def pods(self) -> list[Object]:
        """Every pod template of the release."""
        return [*(self.task_pod(role) for role in self.roles()), self.controller_pod()]

    def job_json(self) -> str:
        """The text of job.json, which the controller reads."""
        text: str = self.one("ConfigMap", self.one("Job")["metadata"]["name"])["data"]["job.json"]
        return text

    def job(self) -> Any:
        return json.loads(self.job_json())

    def launcher_files(self, side: str) -> dict[str, str]:
        """The launcher's files as the kubelet lays them out in a pod of a side, by path."""
        pod = self.controller_pod() if side == "controller" else self.task_pod()
        (volume,) = (v for v in pod["spec"]["volumes"] if v["name"] == "tfrun-launcher")
        files: dict[str, str] = {}
        for source in volume["projected"]["sources"]:
            data = self.one("ConfigMap", source["configMap"]["name"])["data"]
            items = source["configMap"]["items"]
            assert {item["key"] for item in items} == data.keys()
            files |= {item["path"]: data[item["key"]] for item in items}
        return files


def launcher_files() -> dict[str, str]:
    """Every file of the launcher in this checkout, by its path in the package."""
    folder = (CHART / "launcher").resolve()  # a symbolic link
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.py")}


def container(pod: Object) -> Object:
    """The only container of a pod template."""
    (only,) = pod["spec"]["containers"]
    found: Object = only
    return found


def environment(pod: Object, **known: str) -> dict[str, str]:
    """A container's environment; `known` stands in for what Kubernetes fills in."""
    return {
        variable["name"]: variable.get("value", known.get(variable["name"], ""))
        for variable in container(pod)["env"]
    }


def render(
    values: Mapping[str, Any] | None = None,
    *,
    helm: str = "helm",
    release: str = RELEASE,
    chart: Path = CHART,
    base: Mapping[str, Any] = MINIMAL,
) -> Rendered:
    """Renders the chart with `values` over `base`, the least that it needs."""
    return _render(json.dumps(merge(base, values or {})), helm, release, chart)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merges values as Helm does: mappings by key, everything else replaced."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        merged[key] = merge(below, value) if both and below is not None else value
    return merged


def run_helm(
    helm: str, *arguments: str | Path, values: str = ""
) -> subprocess.CompletedProcess[str]:
    """Runs Helm; `values` is a values file's text, for commands that are given `--values -`."""
    return subprocess.run(
        [_tool(helm), *arguments], input=values, capture_output=True, text=True, check=False
    )


@functools.cache
def _tool(name: str) -> Path:
    return binaries.tool(name)


def kube_version() -> str:
    """The Kubernetes version to render for: that of the schemas."""
    return binaries.pinned(binaries.KUBERNETES)


def template(
    helm: str, release: str, values: str, chart: Path = CHART
) -> subprocess.CompletedProcess[str]:
    target = ("--namespace", NAMESPACE, "--kube-version", kube_version())
    return run_helm(helm, "template", release, chart, *target, "--values", "-", values=values)


@functools.cache
def _render(values: str, helm: str, release: str, chart: Path) -> Rendered:
    done = template(helm, release, values, chart)
    assert done.returncode == 0, done.stderr
    parsed = {
        text.strip(): yaml.load(text, Loader=StrictLoader)  # noqa: S506 - a safe loader
        for text in f"\n{done.stdout}".split("\n---\n")
        if text.strip()
    }
    for each in parsed.values():
        validate(each)
    return Rendered(release, tuple(parsed), tuple(parsed.values()))


def refusal(
    values: Mapping[str, Any] | None = None,
    *,
    helm: str = "helm",
    release: str = RELEASE,
    chart: Path = CHART,
    base: Mapping[str, Any] = MINIMAL,
) -> list[str]:
    """The chart's messages about the values, one for each mistake."""
    done = template(helm, release, json.dumps(merge(base, values or {})), chart)
    assert done.returncode != 0, "the chart renders values that it must refuse"
    found = [line[2:] for line in done.stderr.splitlines() if line.startswith("- ")]
    assert found, done.stderr
    return found


class StrictLoader(yaml.CSafeLoader):
    """Refuses a key that is given twice, which other YAML loaders silently accept."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        assert not twice, f"given twice: {twice}{node.start_mark}"
        return super().construct_mapping(node, deep)


def validate(manifest: Object) -> None:
    """Checks an object as a strict API server does."""
    errors = [
        f"{manifest['kind']} {manifest['metadata']['name']}: {error.json_path}: {error.message}"
        for error in _validator(manifest["apiVersion"], manifest["kind"]).iter_errors(manifest)
    ]
    assert not errors, "\n".join(errors)


@functools.cache
def _validator(api_version: str, kind: str) -> jsonschema.Draft7Validator:
    schemas = _openapi()["components"]["schemas"]
    group, _, version = api_version.rpartition("/")
    wanted = {"group": group, "version": version, "kind": kind}
    (name,) = (
        name
        for name, schema in schemas.items()
        if wanted in schema.get("x-kubernetes-group-version-kind", [])
    )
    reference = {"$ref": f"#/components/schemas/{name}"}
    return jsonschema.Draft7Validator({"allOf": [reference], "components": {"schemas": schemas}})


@functools.cache
def _openapi() -> Any:
    return json.loads(binaries.openapi().read_text())
