"""`make demo` as a person runs it: what it prints, its exit code, and what it leaves behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.cluster import Cluster
from tests.cluster.demo import NAME, NAMESPACE
from tests.cluster.release import Release
from tests.e2e.conftest import EXAMPLE
from tests.lines import Lines

pytestmark = pytest.mark.cluster
TRAINS = "generation 1: all tasks start"


@pytest.fixture
def demo(cluster: Cluster) -> Release:
    """The demo's release. All tests share it, and none removes what a demo leaves behind."""
    return Release(cluster, NAMESPACE, NAME)


def start(cluster: Cluster, code: Path | None = None) -> Lines:
    command = [sys.executable, "-m", "tests.cluster.demo"]
    if os.environ.get("TFRUN_CONTEXT"):
        command += ["--context", cluster.context]
    if code:
        command += ["--code", str(code)]
    # A session of its own, because the Ctrl-C of a terminal reaches a whole process group.
    return Lines(
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    )


def check_result(lines: Sequence[str]) -> None:
    found = {line.split()[0]: line.split()[-1] for line in lines if line.startswith("  ")}
    assert any(line.startswith("  evaluation: accuracy 0.9") for line in lines)
    assert (Path(found["model"]) / "saved_model.pb").exists()
    assert (Path(found["checkpoint"]) / "checkpoint").exists()
    assert any(line.startswith("try next") for line in lines)


def edited(folder: Path, old: str, new: str) -> Path:
    """A copy of the example in which `new` replaces `old`."""
    shutil.copytree(EXAMPLE, folder)
    program = folder / "train.py"
    text = program.read_text()
    assert text.count(old) == 1
    program.write_text(text.replace(old, new))
    return folder


def test_the_demo_trains_twice_in_a_row(demo: Release, tmp_path: Path) -> None:
    with start(demo.cluster) as said:
        assert said.wait() == 0, str(said)
    check_result(said.lines)
    assert len([line for line in said.lines if TRAINS in line]) == 1

    quick = edited(tmp_path / "quick", '"--epochs", 500', '"--epochs", 60')
    with start(demo.cluster, quick) as said:
        assert said.wait() == 0, str(said)
    check_result(said.lines)
    # A new training, not the first demo's model. A worker that is in the middle of a step when the
    # last one is reached, or that starts then, makes one step more than was asked for.
    (step,) = {
        int(n) for n in re.findall(r"^  evaluation: .* step (\d+)$", str(said), re.MULTILINE)
    }
    assert 854 <= step <= 858


def test_a_broken_program_ends_the_demo_with_its_code(demo: Release, tmp_path: Path) -> None:
    broken = edited(
        tmp_path / "broken",
        '    flags, task = parse_flags(argv, os.environ.get("TF_CONFIG", ""))\n',
        '    print("about to break")\n    sys.exit(2)\n',
    )
    with start(demo.cluster, broken) as said:
        assert said.wait() == 2, str(said)
    assert "    about to break" in said.lines
    assert said.lines[-1].startswith("demo: the job has failed: worker-")
    assert "exit code 2" in said.lines[-1]


def test_control_c_removes_the_release(demo: Release) -> None:
    with start(demo.cluster) as said:
        said.wait_for(TRAINS)
        os.killpg(said.process.pid, signal.SIGINT)
        assert said.wait() == 130, str(said)
    assert said.lines[-1] == "demo: interrupted: removing the release"
    kinds = "pod,service,configmap,statefulset,job,role,rolebinding,serviceaccount,networkpolicy"
    assert demo.get(kinds) == []
    assert "Traceback" not in str(said)
