"""The virtual environment of the Makefile: created once, completely, by one process at a time."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import environment

# Makes a folder as environment.py does. The file `half` shows that it has begun.
MAKER = """
import sys, time
from pathlib import Path
from tests import environment

folder = Path(sys.argv[1])

def make():
    folder.mkdir()
    with folder.with_name("made").open("a") as made:
        made.write("x")
    (folder / "half").touch()  # last, because the test may kill this process once it exists
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
        assert "waiting for another make" in said
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


def test_what_cannot_be_made_whole_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "venv"

    def half() -> None:
        folder.mkdir()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        environment.once(folder, half)
    assert not folder.exists()


@pytest.mark.parametrize("version", [(3, 9), (3, 14)])
def test_a_python_without_tensorflow_is_refused(
    version: tuple[int, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        environment.missing_package(version, has_venv=True, installs=True)
    (line,) = capsys.readouterr().err.splitlines()
    assert "The make targets need Python 3.10 to 3.13; " in line
    assert "uv python install" in line


def test_a_missing_venv_module_is_installed_or_named(capsys: pytest.CaptureFixture[str]) -> None:
    missing = environment.missing_package
    assert missing((3, 10), has_venv=True, installs=False) is None
    assert missing((3, 12), has_venv=False, installs=True) == "python3.12-venv"
    with pytest.raises(SystemExit):
        missing((3, 12), has_venv=False, installs=False)
    (line,) = capsys.readouterr().err.splitlines()
    assert "As root, on Debian or Ubuntu: apt-get update && apt-get install --yes python3" in line
    assert "Without root: uv (https://docs.astral.sh/uv)" in line


@pytest.mark.parametrize(
    ("printed", "told"),
    [
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] "
            "No space left on device\n",
            "the disk is full",
        ),
        (
            "WARNING: Retrying (Retry(total=0)) after connection broken by 'NameResolutionError'\n"
            "ERROR: No matching distribution found for tensorflow-cpu==2.21.0\n",
            "no connection to the package index",
        ),
    ],
)
def test_a_known_cause_is_told_in_one_line(printed: str, told: str) -> None:
    (line,) = environment.cause("pip install", 1, printed).splitlines()
    assert told in line


def test_a_disk_that_is_full_is_told_whatever_the_command_printed() -> None:
    assert "the disk is full" in environment.cause("python -m venv", 1, "", full=True)


def test_an_unknown_cause_is_the_end_of_what_the_command_printed() -> None:
    said = environment.cause("pip install", 2, "".join(f"line {n}\n" for n in range(100)))
    assert said.startswith("pip install ended with exit code 2:\nline 85\n")
    assert said.endswith("\nline 99")


def test_a_command_shows_that_it_works_and_ends_the_program_where_it_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "HEARTBEAT_SECONDS", 0.01)
    program = "import sys, time; time.sleep(0.1); sys.exit('why')"
    with (tmp_path / "lock").open("w") as lock, pytest.raises(SystemExit):
        environment.run(lock, sys.executable, "-c", program)
    said = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"venv: still working, \d+ s", said[0])
    assert said[-1] == "why"


def test_a_folder_that_cannot_be_made_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit):
        environment.main(tmp_path / "file" / "venv", "try")
    (line,) = capsys.readouterr().err.splitlines()
    assert "set XDG_CACHE_HOME to a folder" in line
