"""What `make package` makes: the archive that Helm installs and the wheel that pip installs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.chart.render import CHART, render

REPOSITORY = Path(__file__).resolve().parents[2]
STUB = REPOSITORY / "tests" / "unit" / "stub"  # stands in for TensorFlow

VALUES = """
program:
  command: [python, main.py]
  flags: true
worker:
  replicas: 2
"""
PROGRAM = """
import sys
from helper import greet
greet(sys.argv[1:])
"""
HELPER = """
def greet(flags):
    print("hello from", *[flag for flag in flags if flag[:10] in ("--job_name", "--task_ind")])
"""


def run(
    *command: str | Path, cwd: Path = REPOSITORY, **variables: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run("make", "package", f"DIST={folder}")
    return folder


@pytest.fixture(scope="module")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of a virtual environment that has the wheel and what it depends on."""
    venv = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", venv)
    run(venv / "bin" / "python", "-m", "pip", "install", "--quiet", *dist.glob("*.whl"))
    return venv / "bin"


def test_chart_package_and_launcher_have_one_version(dist: Path) -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = chart["version"]
    assert chart["appVersion"] == version
    assert {path.name for path in dist.iterdir()} == {
        f"tfrun-{version}.tgz",
        f"tfrun-{version}.tar.gz",
        f"tfrun-{version}-py3-none-any.whl",
    }
    assert f"\n## [{version}]" in (REPOSITORY / "CHANGELOG.md").read_text()


def test_the_packed_chart_renders_as_its_folder(dist: Path) -> None:
    (packed,) = dist.glob("*.tgz")
    for values in (CHART / "ci").glob("*-values.yaml"):
        given = yaml.safe_load(values.read_text())
        assert render(given, base={}, chart=packed).texts == render(given, base={}).texts


def test_the_wheel_holds_the_launcher_and_the_defaults(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert archive.read("launcher/values.yaml") == (CHART / "values.yaml").read_bytes()
    launcher = {
        str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "launcher").rglob("*.py")
    }
    assert names == launcher | {"launcher/values.yaml"}
    (source,) = dist.glob("*.tar.gz")
    with tarfile.open(source) as sources:
        packed = {name.partition("/")[2] for name in sources.getnames()}
    assert {"LICENSE", "README.md", "CHANGELOG.md", "charts/tfrun/values.yaml", *launcher} <= packed


def test_the_installed_command_runs_a_program(installed: Path, tmp_path: Path) -> None:
    assert "local" in run(installed / "tfrun", "--help", cwd=tmp_path).stdout
    (tmp_path / "values.yaml").write_text(VALUES)
    code = tmp_path / "program"
    code.mkdir()
    (code / "main.py").write_text(PROGRAM)
    (code / "helper.py").write_text(HELPER)
    local = ("local", "-f", "values.yaml", "--code", "program")
    said = run(installed / "tfrun", *local, cwd=tmp_path, PYTHONPATH=str(STUB)).stdout
    for index in (0, 1):
        expected = rf"worker-{index} +\| hello from --job_name=worker --task_index={index}"
        assert re.search(expected, said), said
