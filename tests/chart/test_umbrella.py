"""The chart as a dependency of an umbrella chart: all that Helm does with dependencies works."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.chart.render import CHART, MINIMAL, Rendered, merge, refusal, render, run_helm

ALL: Mapping[str, Any] = {"worker": {"replicas": 3}, "program": {"args": [1000000, "--x", 0.5]}}


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    done = run_helm("helm", "package", CHART, "--destination", folder)
    assert done.returncode == 0, done.stderr
    (package,) = folder.glob("*.tgz")
    return package


class Umbrella:
    """An umbrella chart with tfrun as its dependency, once for each mapping of `extra`."""

    def __init__(self, package: Path, folder: Path, helm: str) -> None:
        self.folder = folder / "umbrella"
        (self.folder / "charts").mkdir(parents=True)
        (self.folder / "charts" / package.name).write_bytes(package.read_bytes())
        self.helm = helm

    def __call__(self, *extra: Mapping[str, Any], values: Mapping[str, Any]) -> Path:
        dependency = {"name": "tfrun", "version": "0.1.0", "repository": "https://e.com"}
        chart = {"apiVersion": "v2", "name": "umbrella", "version": "1.0.0"}
        dependencies = {"dependencies": [dependency | dict(each) for each in extra]}
        (self.folder / "Chart.yaml").write_text(json.dumps(chart | dependencies))
        (self.folder / "values.yaml").write_text(json.dumps(dict(values)))
        return self.folder

    def render(self, values: Mapping[str, Any]) -> Rendered:
        return render(values, chart=self.folder, helm=self.helm, base={})


@pytest.fixture
def umbrella(package: Path, tmp_path: Path, helm: str) -> Umbrella:
    return Umbrella(package, tmp_path, helm)


NULLS = {"podSecurityContext": None, "securityContext": {"capabilities": None}}
IMPORT = {"import-values": [{"child": "worker", "parent": "w"}]}
CASES = [
    ("no condition", {}, {}),
    ("a condition", {"condition": "tfrun.enabled"}, {"tfrun": {"enabled": True}}),
    ("a condition without a value", {"condition": "tfrun.enabled"}, {}),
    ("a condition of the umbrella", {"condition": "train"}, {"train": True}),
    ("a condition in global", {"condition": "global.on"}, {"global": {"on": True}}),
    ("tags", {"tags": ["training"]}, {"tags": {"training": True}}),
    ("global", {}, {"global": {"imageRegistry": "e.com", "n": 1}}),
    ("import-values", IMPORT, {}),
    (
        "import-values of exports",
        {"import-values": ["ports"]},
        {"tfrun": {"exports": {"ports": {"port": 1}}}},
    ),
]


@pytest.mark.parametrize("given_by", ["a file", "the umbrella"])
@pytest.mark.parametrize(
    ("extra", "values"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_a_dependency_renders_what_the_chart_alone_renders(
    umbrella: Umbrella,
    given_by: str,
    extra: dict[str, Any],
    values: dict[str, Any],
) -> None:
    given = merge({"tfrun": merge(MINIMAL, ALL)}, values)
    from_file = given_by == "a file"
    umbrella(extra, values={} if from_file else given)
    alone = render(ALL, helm=umbrella.helm)
    assert umbrella.render(given if from_file else {}).objects == alone.objects


@pytest.mark.parametrize("extra", [{}, IMPORT], ids=["plain", "import-values"])
def test_null_removes_a_default_of_a_dependency(umbrella: Umbrella, extra: dict[str, Any]) -> None:
    umbrella(extra, values={})
    given = {"tfrun": {**MINIMAL, **NULLS}}
    assert umbrella.render(given).objects == render(NULLS, helm=umbrella.helm).objects
    # README.md says so: in the umbrella's own values.yaml Helm 4 drops null, and Helm 3 does not.
    umbrella(extra, values=given)
    kept = NULLS if umbrella.helm == "helm3" else {}
    assert umbrella.render({}).objects == render(kept, helm=umbrella.helm).objects


@pytest.mark.parametrize(
    ("extra", "values"),
    [
        ({"condition": "tfrun.enabled"}, {"tfrun": {"enabled": False}}),
        ({"tags": ["training"]}, {"tags": {"training": False}}),
        ({"condition": "train"}, {"train": False, "tfrun": {"program": {"command": []}}}),
    ],
    ids=["condition", "tags", "condition of the umbrella"],
)
def test_a_dependency_that_is_switched_off_renders_nothing(
    umbrella: Umbrella, extra: dict[str, Any], values: dict[str, Any]
) -> None:
    umbrella(extra, values={})
    assert umbrella.render(values).objects == ()


def test_two_aliases_are_two_runs_in_one_release(umbrella: Umbrella) -> None:
    aliases = ("bigModel", "small_model")
    umbrella(*({"alias": alias, "condition": f"{alias}.enabled"} for alias in aliases), values={})
    values = {alias: {**MINIMAL, "enabled": True} for alias in aliases}
    both = umbrella.render(values)
    names = [(each["kind"], each["metadata"]["name"]) for each in both.objects]
    assert len(set(names)) == len(names)
    assert both.names("StatefulSet") == [
        f"mnist-{run}-{role}" for run in ("bigmodel", "small-model") for role in ("ps", "worker")
    ]
    jobs = [o for o in both.objects if o["kind"] == "ConfigMap" and "job.json" in o["data"]]
    for job, run in zip(jobs, ("mnist-bigmodel", "mnist-small-model")):
        document = json.loads(job["data"]["job.json"])
        assert document["release"] == run
        assert document["addresses"]["host"] == f"{run}-{{role}}-{{index}}.{run}"
    for policy in (o for o in both.objects if o["kind"] == "NetworkPolicy"):
        selected = policy["spec"]["podSelector"]["matchLabels"]
        assert selected["app.kubernetes.io/instance"] == policy["metadata"]["name"]
    off = {**values, "bigModel": {"enabled": False}}
    assert len(umbrella.render(off).names("StatefulSet")) == 2


def test_the_mistakes_of_a_dependency_are_named(umbrella: Umbrella) -> None:
    chart = umbrella({"alias": "big"}, values={})
    values = {"big": {**MINIMAL, "program": {"args": [2**60]}}}
    said = refusal(values, chart=chart, helm=umbrella.helm, release="n" * 42, base={})
    assert said[0].startswith("the release name must be at most 45 characters")
    assert said[1].startswith("program.args[0] must be quoted")
