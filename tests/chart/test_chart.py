"""The chart as a whole: what holds for every object, the package, the documents."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart import generate
from tests.chart.render import (
    CHART,
    HELMS,
    MINIMAL,
    MODES,
    NAMESPACE,
    kube_version,
    launcher_files,
    refusal,
    render,
    run_helm,
)

CI_VALUES = sorted((CHART / "ci").glob("*-values.yaml"))
EXAMPLES = sorted(CHART.parents[1].glob("examples/*/values.yaml"))


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", CI_VALUES, ids=lambda path: path.stem)
def test_both_helms_render_the_same(path: Path, mode: str) -> None:
    ps = {"ps": {"replicas": 1}}
    values = {**load(path), "mode": mode, **ps}
    four, three = (render(values, helm=helm, base={}).texts for helm in HELMS)
    assert four == three


def test_each_mode_has_its_ci_values() -> None:
    assert {render(load(path), base={}).job()["mode"] for path in CI_VALUES} == set(MODES)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.parent.name)
def test_the_examples_render(path: Path, helm: str) -> None:
    job = render(load(path), helm=helm, base={}).job()
    assert job["mode"] == (path.parent.name if path.parent.name in MODES else "parameter-server")


@pytest.mark.parametrize("path", CI_VALUES, ids=lambda path: path.stem)
def test_helm_lint_finds_nothing(path: Path, helm: str) -> None:
    options = ("--strict", "--kube-version", kube_version(), "--values", path)
    done = run_helm(helm, "lint", CHART, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout
    assert "ERROR" not in done.stdout


def leaves(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def test_everything_values_change_every_key_from_its_default() -> None:
    given = dict(leaves(load(CHART / "ci" / "everything-values.yaml")))
    defaults = load(CHART / "values.yaml")
    only_one_choice = {"image.tag", "code.inline", "worker.maxReplicas"}
    for source in ("nfs", "claim", "git", "image"):
        only_one_choice |= {f"code.{source}.{key}" for key in defaults["code"][source]}
    for value in generate.leaves(generate.parse((CHART / "values.yaml").read_text())):
        if value.path not in only_one_choice:
            below = {path: v for path, v in given.items() if f"{path}.".startswith(value.path)}
            assert below, f"{value.path} is missing"
            assert below != {value.path: value.default}, f"{value.path} is the default"


@pytest.mark.parametrize("path", CI_VALUES, ids=lambda path: path.stem)
def test_every_object_has_the_standard_labels(path: Path) -> None:
    for each in render(load(path), base={}).objects:
        assert (
            each["metadata"]["labels"].items()
            >= {
                "helm.sh/chart": "tfrun-0.1.0",
                "app.kubernetes.io/name": "tfrun",
                "app.kubernetes.io/instance": "mnist",
                "app.kubernetes.io/version": "0.1.0",
                "app.kubernetes.io/managed-by": "Helm",
            }.items()
        )


def test_the_objects_of_two_releases_have_different_names() -> None:
    one, two = (
        {(o["kind"], o["metadata"]["name"]) for o in render(release=release).objects}
        for release in ("mnist", "mnist-2")
    )
    assert not one & two
    assert all(re.fullmatch("mnist(-.*)?", name) for _, name in one)


@pytest.mark.parametrize("name", ["null", "true", "on", "y"])
def test_names_that_look_like_other_scalars_stay_texts(name: str, helm: str) -> None:
    claims = {"name": "123", "mountPath": "/data", "persistentVolumeClaim": {"claimName": "1e3"}}
    secret = {
        "secret": "007",
        "image": {"path": ""},
        "archive": {"url": "https://e.com/a", "sha256": "0" * 64},
    }
    for values in (
        {"code": {"image": {"path": ""}, "claim": {"name": "456"}}},
        {"code": {"image": {"path": ""}, "claim": {"name": "1e3"}}, "volumes": [claims]},
        {"code": secret},
    ):
        rendered = render(values, release=name, helm=helm)  # checks the types
        assert name in rendered.names("Service")
        assert not [text for text in rendered.texts if re.search(r"[nN]ame: (y|on)$", text, re.M)]


IMPURE = re.compile(
    r"\b(lookup|now|date|ago|rand\w*|shuffle|uuidv4|gen\w+|derivePassword|env|expandenv"
    r"|getHostByName)\b|\.Release\.(IsUpgrade|IsInstall|Revision)|\.Capabilities"
)


def test_rendering_is_a_function_of_values() -> None:
    for path in (file for file in (CHART / "templates").rglob("*") if file.is_file()):
        text = path.read_text()
        assert "helm.sh/hook" not in text
        without_comments = re.sub(r"\{\{-? ?/\*.*?\*/ ?-?\}\}", "", text, flags=re.DOTALL)
        for action in re.findall(r"\{\{.*?\}\}", without_comments, re.DOTALL):
            calls = re.sub(r'"(\\.|[^"\\])*"|(?<=[.$])env\b', "", action)
            assert not IMPURE.search(calls), f"{path.name}: {action}"


def test_the_package_carries_the_launcher(helm: str, tmp_path: Path) -> None:
    done = run_helm(helm, "package", CHART, "--destination", tmp_path)
    assert done.returncode == 0, done.stderr
    (package,) = tmp_path.glob("*.tgz")
    with tarfile.open(package) as archive:
        assert all(member.isfile() for member in archive.getmembers())
        packed = {member.name.removeprefix("tfrun/") for member in archive.getmembers()}
    carried = {name for name in packed if name.startswith("launcher/")}
    assert carried >= {f"launcher/{path}" for path in launcher_files()}
    assert not [name for name in packed if "__pycache__" in name or name.startswith("ci/")]
    assert {"Chart.yaml", "values.yaml", "values.schema.json", "README.md"} <= packed
    assert render(helm=helm, chart=package).objects == render(helm=helm).objects


def test_a_chart_without_its_launcher_refuses_to_render(helm: str, tmp_path: Path) -> None:
    chart = tmp_path / "tfrun"
    shutil.copytree(CHART, chart, ignore=shutil.ignore_patterns("launcher"))
    (chart / "launcher").write_text("../../launcher")  # what git writes if it cannot make a link
    (said,) = refusal(helm=helm, chart=chart)
    assert said.startswith(
        "launcher.inject must be false: this copy of the chart holds no launcher"
    )
    render({"launcher": {"inject": False}}, helm=helm, chart=chart)


def notes(values: Mapping[str, Any]) -> str:
    """The notes that `helm install` prints. Helm 3 prints them only where it finds a cluster."""
    done = run_helm(
        "helm",
        *("install", "mnist", CHART, "--namespace", NAMESPACE, "--dry-run=client"),
        *("--values", "-"),
        values=json.dumps(values),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("NOTES:")[2]


def test_the_notes_give_the_commands_that_come_next() -> None:
    said = notes(MINIMAL)
    job = render().one("Job")["metadata"]["name"]
    assert f"kubectl -n {NAMESPACE} logs -f job/{job}" in said
    assert "wait --for=condition=complete" in said
    assert "--set worker.replicas=3" in said
    assert "--set run.attempt=2" in said
    assert "stay when the run has ended" not in said
    assert "GENERATION-TASK.log" not in said


@pytest.mark.parametrize(
    ("mode", "tasks", "chief"),
    [
        ("parameter-server", "1 ps, 2 worker, 1 evaluator.", "mnist-worker-0"),
        ("coordinator", "1 chief, 1 ps, 2 worker, 1 evaluator.", "mnist-chief-0"),
        ("all-reduce", "2 worker, 1 evaluator.", "mnist-worker-0"),
    ],
)
def test_the_notes_describe_the_mode_of_the_run(mode: str, tasks: str, chief: str) -> None:
    values = {**MINIMAL, "mode": mode, "evaluator": {"replicas": 1}}
    said = notes(values)
    assert f"mode {mode}; its tasks are {tasks}" in said
    assert f"logs -f {chief}\n" in said


def test_the_notes_say_where_output_is_kept() -> None:
    data = {"name": "data", "mountPath": "/data", "emptyDir": {}}
    values = {"logs": "/data/logs", "volumes": [data]}
    run = render(values).job()["run"]
    assert f"/data/logs/{run}/GENERATION-TASK.log" in notes({**MINIMAL, **values})


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"cleanup": "Keep"}, "cleanup is Keep"),
        ({"controller": {"rbac": False}}, "controller.rbac is false"),
        ({"networkPolicy": {"enabled": False}}, "networkPolicy.enabled is false"),
    ],
    ids=str,
)
def test_the_notes_warn_of_kept_pods_missing_rights_and_an_open_network(
    values: dict[str, Any], says: str
) -> None:
    assert says in notes({**MINIMAL, **values})


def test_generated_files_are_up_to_date() -> None:
    assert not generate.stale(), "run `make docs`"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1", "a needs a description"),
        ("# -- A.\na: []", "a needs items"),
        ("# -- A.\na: {}", "a needs keys"),
        ("# -- A.\na:", "a needs a type"),
        ("# @schema\n# minimum: 1\n# -- A.\na: 1", "a needs a second # @schema"),
        ("a:\n  b: 1", "a.b needs a description"),
    ],
)
def test_undocumented_values_are_refused(text: str, says: str) -> None:
    with pytest.raises(generate.GrammarError, match=says):
        generate.parse(text)


def test_the_schema_is_made_from_the_comments_in_values_yaml() -> None:
    (part,) = generate.parse(
        "# Not for readers.\n\npart:\n  # @schema\n  # minimum: 1\n  # @schema\n"
        "  # Not for readers.\n  # -- How many\n  # there are.\n  count: 2\n"
    )
    assert generate.schema((part,))["properties"]["part"] == {
        "type": "object",
        "additionalProperties": False,
        "required": ["count"],
        "properties": {
            "count": {
                "description": "How many there are.",
                "type": "integer",
                "default": 2,
                "minimum": 1,
            }
        },
    }
    assert (
        generate.table((part,)).splitlines()[-1] == "| `part.count` | `2` | How many there are. |"
    )
