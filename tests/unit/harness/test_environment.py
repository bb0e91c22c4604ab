"""The virtual environment of the Makefile: made once, whole, by one process at a time."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import environment

# Makes a folder as environment.py does; the marker says that it is at it.
MAKER = """
import sys, time
from pathlib import Path
from tests import environment

folder = Path(sys.argv[1])

def make():
    folder.mkdir()
    with folder.with_name("made").open("a") as made:
        made.write("x")
    (folder / "half").touch()  # last: who waits for it may kill this process
    deadline = time.monotonic() + 30
    while not Path(sys.argv[2]).exists() and time.monotonic() < deadline:
        time.sleep(0.01)

with folder.with_name("lock").open("w") as lock:
    environment.wait_for(lock, folder)
    environment.once(folder, make)
"""


def start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", MAKER, str(folder), str(folder.with_name("go"))]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.01)


def test_two_makes_at_once_make_one_environment(tmp_path: Path) -> None:
    folder = tmp_path / "venv"
    with start(folder) as first:
        wait_for(folder / "half")
        with start(folder) as second:
            assert second.stderr
            said = second.stderr.readline()
            (tmp_path / "go").touch()
            second.communicate(timeout=30)
        assert "waiting for it" in said
        assert first.wait(30) == second.returncode == 0
    assert (tmp_path / "made").read_text() == "x"


def test_an_interrupted_environment_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "venv"
    with start(folder) as first:
        wait_for(folder / "half")
        first.kill()
    (tmp_path / "go").touch()
    assert not (folder / "ready").exists()
    with start(folder) as second:
        assert second.wait(30) == 0
    assert (folder / "ready").exists()
    assert (tmp_path / "made").read_text() == "xx"


@pytest.mark.parametrize("version", [(3, 9), (3, 14)])
def test_a_python_without_tensorflow_is_refused(
    version: tuple[int, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        environment.missing_package(version, has_venv=True, installs=True)
    assert "Python 3.10 to 3.13 is needed" in capsys.readouterr().err


def test_a_missing_venv_module_is_installed_or_named(capsys: pytest.CaptureFixture[str]) -> None:
    missing = environment.missing_package
    assert missing((3, 10), has_venv=True, installs=False) is None
    assert missing((3, 12), has_venv=False, installs=True) == "python3.12-venv"
    with pytest.raises(SystemExit):
        missing((3, 12), has_venv=False, installs=False)
    assert "apt-get install --yes python3.12-venv" in capsys.readouterr().err
