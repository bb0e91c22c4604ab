"""One task as a real process without a controller: how it starts, ends and names mistakes."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.conftest import Start
from tests.unit.processes import ROOT, free_ports, message
from tests.unit.task.conftest import sh

# Ends.


@pytest.mark.parametrize(
    ("script", "code", "reason"),
    [
        ("exit 0", 0, "exit code 0"),
        ("exit 3", 3, "exit code 3"),
        ("exit 255", 255, "exit code 255"),
        ("kill -SEGV $$", 139, "killed by SIGSEGV (exit code 139)"),
        ("kill -KILL $$", 137, "killed by SIGKILL (exit code 137)"),
        ("kill -TERM $$", 143, "killed by SIGTERM (exit code 143)"),
    ],
)
def test_a_task_without_a_controller_ends_with_its_programs_code(
    start: Start, variables: dict[str, str], tmp_path: Path, script: str, code: int, reason: str
) -> None:
    launcher = sh(start, variables, f"echo one; echo two >&2; {script}")
    assert launcher.wait() == code
    assert message(tmp_path / "end.json") == {
        "phase": "Failed" if code else "Succeeded",
        "task": "worker-1",
        "exitCode": code,
        "reason": reason,
        "lastLines": ["one", "two"],
    }


@pytest.mark.parametrize(
    ("program", "code", "words"),
    [
        (
            "no-such-program",
            127,
            "program.command 'no-such-program' is not found in the image or the",
        ),
        ("./no-such-file", 127, "'./no-such-file' is not found"),
        ("./README", 126, "program.command './README' cannot be run: Permission denied"),
        ("./garbage", 126, "program.command './garbage' cannot be run: Exec format error"),
        (".", 126, "cannot be run: Permission denied"),
        ("./run.sh", 126, "Permission denied. A script needs its execute bit and #!, or its in"),
    ],
)
def test_a_program_that_cannot_start_is_named(
    start: Start, variables: dict[str, str], tmp_path: Path, program: str, code: int, words: str
) -> None:
    (tmp_path / "README").write_text("read me")
    (tmp_path / "garbage").write_text("garbage")
    (tmp_path / "garbage").chmod(0o755)
    (tmp_path / "run.sh").write_text("echo hello")
    launcher = start("task", "--", program, env=variables, cwd=tmp_path)
    assert launcher.wait() == code
    launcher.wait_for(words.replace(".", r"\."))
    assert message(tmp_path / "end.json")["exitCode"] == code


CR = "needs lines that end with LF, not CR LF (see dos2unix)"


BEGIN = "cannot be run: Exec format error. A script needs its execute bit and #!, or its interp"


@pytest.mark.parametrize(
    ("script", "code", "why"),
    [
        (b"#!/bin/sh\r\necho hello\r\n", 127, CR),
        (
            b"#!/home/anna/venv/bin/python\nprint()\n",
            127,
            "needs /home/anna/venv/bin/python, which is not found",
        ),
        (b"#! /no/such/sh -e\n", 127, "needs /no/such/sh, which is not found"),
        (b"\xef\xbb\xbf#!/bin/sh\n", 126, BEGIN),
        (b"echo hello\n", 126, BEGIN),
    ],
)
def test_a_file_that_is_there_but_cannot_be_run_says_what_is_missing(
    start: Start, variables: dict[str, str], tmp_path: Path, script: bytes, code: int, why: str
) -> None:
    (tmp_path / "run").write_bytes(script)
    (tmp_path / "run").chmod(0o755)
    launcher = start("task", "--", "./run", env=variables, cwd=tmp_path)
    assert launcher.wait() == code
    end = message(tmp_path / "end.json")
    assert str(end["reason"]).startswith(f"program.command './run' {why}")
    assert end["exitCode"] == code


def test_a_program_without_its_loader_names_the_loader(
    start: Start, variables: dict[str, str], tmp_path: Path
) -> None:
    """A program of glibc in an image with musl."""
    program = Path("/bin/true").read_bytes()
    loader = re.search(rb"/[\w./-]*/ld-[\w.-]+(?=\0)", program)
    if not loader:
        pytest.skip("needs a dynamically linked /bin/true")
    missing = loader[0][:-1] + b"X"
    (tmp_path / "run").write_bytes(program.replace(loader[0], missing))
    (tmp_path / "run").chmod(0o755)
    assert start("task", "--", "./run", env=variables, cwd=tmp_path).wait() == 127
    reason = str(message(tmp_path / "end.json")["reason"])
    assert reason.endswith(f"needs {missing.decode()}, which is not found")


def test_a_link_to_a_python_that_the_image_lacks_is_named(
    start: Start, variables: dict[str, str], tmp_path: Path
) -> None:
    """A venv that was made on another machine."""
    (tmp_path / "python").symlink_to("/usr/bin/python3.4")
    assert start("task", "--", "./python", env=variables, cwd=tmp_path).wait() == 127
    reason = str(message(tmp_path / "end.json")["reason"])
    assert reason.endswith("needs /usr/bin/python3.4, which is not found")


def test_all_mistakes_in_the_environment_are_reported_together(
    start: Start, variables: dict[str, str], tmp_path: Path
) -> None:
    wrong = {"TFRUN_POD_NAME": "mnist", "TFRUN_ROLE": "boss", "PS_REPLICAS": "0"}
    launcher = start("task", env={**variables, **wrong})
    assert launcher.wait() == 78
    launcher.wait_for("4 mistakes in the environment:")
    for name in ("TFRUN_ROLE must be", "pod's name must", "PS_REPLICAS must", "a program must"):
        launcher.wait_for(name)
    assert "Traceback" not in str(launcher)
    assert message(tmp_path / "end.json")["reason"].startswith("4 mistakes in the environment")


@pytest.mark.parametrize("arguments", [[], ["dance"], ["task", "--no-such-flag"], ["local"]])
def test_a_wrong_command_line_ends_with_64(start: Start, arguments: list[str]) -> None:
    launcher = start(*arguments, env={})
    assert launcher.wait() == 64
    launcher.wait_for("usage: launcher")


def test_a_parameter_server_that_is_away_is_named(start: Start, variables: dict[str, str]) -> None:
    (port,) = free_ports(1)
    launcher = start(
        "task", "--", "true", env={**variables, "TFRUN_PORT": str(port), "TFRUN_PEERS_TIMEOUT": "1"}
    )
    assert launcher.wait() == 69
    launcher.wait_for(rf"not reached within 1 s: 127\.0\.0\.1:{port} \(Connection refused\)")


def test_a_peer_address_that_is_no_host_name_is_named(
    start: Start, variables: dict[str, str]
) -> None:
    wrong = {"TFRUN_HOST": "a..{role}", "TFRUN_PEERS_TIMEOUT": "1"}
    launcher = start("task", "--", "true", env={**variables, **wrong})
    assert launcher.wait() == 69
    launcher.wait_for(r"a\.\.ps:\d+ \(not a host name\)")


def test_a_task_that_waits_can_be_stopped(start: Start, variables: dict[str, str]) -> None:
    (port,) = free_ports(1)
    launcher = start("task", "--", "true", env={**variables, "TFRUN_PORT": str(port)})
    launcher.wait_for("code of the image")
    launcher.signal(signal.SIGTERM)
    assert launcher.wait() == 143


# What the program gets.

SHOW = """
import json, os, sys
ours = ("TFRUN_", "TF_CONFIG", "JOB_", "TASK_")
told = {k: v for k, v in os.environ.items() if k.startswith(ours)}
print(json.dumps([sys.argv[1:], told, os.getcwd(), sys.path[1]]))
"""


def test_the_program_learns_its_task_from_arguments_and_environment(
    start: Start, variables: dict[str, str], tmp_path: Path, ps: str
) -> None:
    launcher = start(
        *("task", "--flags", "--", sys.executable, "-c", SHOW, "--steps=5", "--", "-x"),
        env=variables,
        cwd=tmp_path,
    )
    assert launcher.wait() == 0
    argv, env, cwd, path = json.loads(launcher.wait_for(r"^\[.*")[0])
    port = f"127.0.0.1:{ps}"
    assert argv == [
        *("--steps=5", "--", "-x", f"--ps_hosts={port}", f"--worker_hosts={port},{port}"),
        *("--job_name=worker", "--task_index=1"),
    ]
    assert json.loads(env.pop("TF_CONFIG"))["task"] == {"type": "worker", "index": 1}
    assert env == {
        "TFRUN_RUN": "standalone",
        "TFRUN_GENERATION": "1",
        "JOB_NAME": "worker",
        "TASK_INDEX": "1",
        "TFRUN_READY": str(tmp_path / "tfrun-work" / "ready-1"),
    }
    assert (cwd, path) == (str(tmp_path), str(tmp_path))


def test_a_parameter_server_serves_until_it_is_stopped(
    start: Start, variables: dict[str, str]
) -> None:
    (port,) = free_ports(1)
    launcher = start(
        *("task", "--", "true"),
        env={**variables, "TFRUN_POD_NAME": "mnist-ps-0", "TFRUN_PORT": str(port)},
    )
    launcher.wait_for(rf"^serving grpc://127\.0\.0\.1:{port}")
    launcher.signal(signal.SIGTERM)
    assert launcher.wait() == 143


def test_a_port_that_is_taken_fails_the_parameter_server(
    start: Start, variables: dict[str, str]
) -> None:
    launcher = start("task", "--", "true", env={**variables, "TFRUN_POD_NAME": "mnist-ps-0"})
    assert launcher.wait() == 1
    launcher.wait_for("Address already in use")


# What a pod needs.


@pytest.mark.parametrize("module", ["task.loop", "controller.loop", "task.tensorflow_server"])
def test_a_pods_modules_need_only_the_standard_library(module: str) -> None:
    """-S and -I leave nothing else to import. A task imports no large module without need."""
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        f"import launcher.__main__, launcher.{module}\n"
        "print(*sorted(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-I", "-c", program], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert not loaded & {"yaml", "psutil", "tensorflow", "launcher.local"}
    if module != "controller.loop":
        assert not loaded & {
            "asyncio",
            "launcher.controller",
            "launcher.decisions",
            "multiprocessing",
            "urllib.request",
        }


@pytest.mark.parametrize("version", ["3.9", "3.10", "3.12", "3.13"])
def test_older_and_newer_pythons_run_a_task(
    start: Start, variables: dict[str, str], version: str
) -> None:
    found = [
        *sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}")),
        *filter(None, [shutil.which(f"python{version}")]),
    ]
    if not found:
        pytest.skip(f"there is no Python {version} here")
    launcher = start("task", "--", "sh", "-c", "exit 6", env=variables, python=str(found[0]))
    assert launcher.wait() == 6
