"""One task as a real process, described by its environment alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.conftest import Start
from tests.unit.processes import (
    PATIENCE,
    ROOT,
    Launcher,
    environment,
    free_ports,
    lives,
    message,
    wait_until,
)

LOOP = "while :; do sleep 0.02; done"


@pytest.fixture(scope="module")
def ps() -> Iterator[str]:
    """The port of a parameter server that is there."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as server:
        yield str(server.getsockname()[1])


@pytest.fixture
def variables(ps: str, tmp_path: Path) -> dict[str, str]:
    return {
        "TFRUN_POD_NAME": "mnist-worker-1",
        "PS_REPLICAS": "1",
        "WORKER_REPLICAS": "2",
        "TFRUN_HOST": "127.0.0.1",
        "TFRUN_PORT": ps,
        "TFRUN_GRACE": "30",
        "TFRUN_TERMINATION_LOG": str(tmp_path / "end.json"),
    }


def sh(start: Start, variables: dict[str, str], script: str) -> Launcher:
    return start("task", "--", "sh", "-c", script, env=variables)


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
        ("no-such-program", 127, "program.command must name a program that the image or the code"),
        ("./no-such-file", 127, "'./no-such-file' is not found"),
        ("./README", 126, "program.command './README' cannot be run: Permission denied"),
        ("./garbage", 126, "program.command './garbage' cannot be run: Exec format error"),
        (".", 126, "cannot be run: Permission denied"),
    ],
)
def test_a_program_that_cannot_start_is_named(
    start: Start, variables: dict[str, str], tmp_path: Path, program: str, code: int, words: str
) -> None:
    (tmp_path / "README").write_text("read me")
    (tmp_path / "garbage").write_text("garbage")
    (tmp_path / "garbage").chmod(0o755)
    launcher = start("task", "--", program, env=variables, cwd=tmp_path)
    assert launcher.wait() == code
    launcher.wait_for(words.replace(".", r"\."))
    assert message(tmp_path / "end.json")["exitCode"] == code


def test_every_mistake_in_the_environment_is_told_at_once(
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


# What the program is told.

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


# Signals.


@pytest.mark.parametrize(
    ("number", "name", "code"), [(signal.SIGTERM, "TERM", 143), (signal.SIGINT, "INT", 130)]
)
def test_a_program_that_is_stopped_may_save(
    start: Start, variables: dict[str, str], tmp_path: Path, number: int, name: str, code: int
) -> None:
    launcher = sh(start, variables, f"trap 'echo saving; exit 0' {name}; echo ready; {LOOP}")
    launcher.wait_for("^ready")
    launcher.signal(number)
    assert launcher.wait() == code
    launcher.wait_for("^saving")
    end = message(tmp_path / "end.json")
    assert (end["phase"], end["exitCode"], end["reason"]) == (
        "Stopped",
        code,
        f"stopped by SIG{name}",
    )


def test_a_program_that_does_not_stop_is_killed_after_the_grace(
    start: Start, variables: dict[str, str]
) -> None:
    launcher = sh(start, {**variables, "TFRUN_GRACE": "1"}, f"trap '' TERM; echo ready; {LOOP}")
    launcher.wait_for("^ready")
    begin = time.monotonic()
    launcher.signal(signal.SIGTERM)
    assert launcher.wait() == 143
    assert 1.0 <= time.monotonic() - begin < 15.0
    launcher.wait_for("the child ended, as it was told to: killed by SIGKILL")


def test_a_second_signal_kills_the_program_without_its_grace(
    start: Start, variables: dict[str, str]
) -> None:
    launcher = sh(start, variables, f"trap 'echo asked' TERM; echo ready; {LOOP}")
    launcher.wait_for("^ready")
    launcher.signal(signal.SIGTERM)
    launcher.wait_for("^asked")
    begin = time.monotonic()
    launcher.signal(signal.SIGTERM)
    assert launcher.wait() == 143
    assert time.monotonic() - begin < 15.0  # of a grace of 30 s


def test_a_signal_reaches_the_programs_whole_process_group(
    start: Start, variables: dict[str, str]
) -> None:
    grandchild = f"sh -c \"trap 'echo grandchild; exit' TERM; echo ready; {LOOP}\""
    launcher = sh(start, variables, f"trap 'wait; exit' TERM; {grandchild} & {LOOP}")
    launcher.wait_for("^ready")
    launcher.signal(signal.SIGTERM)
    assert launcher.wait() == 143
    launcher.wait_for("^grandchild")


@pytest.mark.parametrize("name", ["HUP", "USR1", "USR2"])
def test_signals_that_do_not_stop_are_passed_on_to_the_program(
    start: Start, variables: dict[str, str], name: str
) -> None:
    launcher = sh(start, variables, f"trap 'echo got {name}; exit 5' {name}; echo ready; {LOOP}")
    launcher.wait_for("^ready")
    launcher.signal(getattr(signal, f"SIG{name}"))
    assert launcher.wait() == 5
    launcher.wait_for(f"^got {name}")


def test_a_task_that_waits_can_be_stopped(start: Start, variables: dict[str, str]) -> None:
    (port,) = free_ports(1)
    launcher = start("task", "--", "true", env={**variables, "TFRUN_PORT": str(port)})
    launcher.wait_for("code of the image")
    launcher.signal(signal.SIGTERM)
    assert launcher.wait() == 143


# What is left behind.


@pytest.mark.parametrize("end", ["exit 4", LOOP])
def test_no_process_of_a_program_is_left_after_its_end(
    start: Start, variables: dict[str, str], tmp_path: Path, end: str
) -> None:
    up = tmp_path / "up"
    up.touch()
    deaf = f"trap '' TERM HUP; echo $$; echo >> {up}; while :; do sleep 1; done"
    launcher = sh(
        start,
        {**variables, "TFRUN_GRACE": "1"},
        f'sh -c "{deaf.replace("$$", chr(92) + "$$")}" & '
        f'(setsid sh -c "{deaf.replace("$$", chr(92) + "$$")}" &); '
        f"until [ $(wc -l < {up}) = 2 ]; do sleep 0.02; done; echo ready; {end}",
    )
    launcher.wait_for("^ready")
    pids = [int(line) for line in launcher.lines if line.isdecimal()]
    assert len(pids) == 2
    if end == LOOP:
        assert all(lives(pid) for pid in pids)
        launcher.signal(signal.SIGTERM)
    assert launcher.wait() == (143 if end == LOOP else 4)
    assert not any(lives(pid) for pid in pids)


ORPHANS = """
import os, subprocess, sys, time
for _ in range(5):
    subprocess.run(["sh", "-c", "true & exec true"])
    subprocess.run(["sh", "-c", "sleep 0.05 & exit"])
def others():
    return {p for p in os.listdir("/proc") if p.isdecimal()} - {"1", str(os.getpid())}
deadline = time.monotonic() + 10
while (left := others()) and time.monotonic() < deadline:
    time.sleep(0.02)
print("parent", os.getppid(), "others", len(left), flush=True)
time.sleep(60)
"""


def test_a_launcher_that_is_process_1_reaps_orphans(
    start: Start, variables: dict[str, str]
) -> None:
    prefix = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    if not shutil.which("unshare") or subprocess.run([*prefix, "true"], check=False).returncode:
        pytest.skip("needs the right to make a PID namespace")
    launcher = start("task", "--", sys.executable, "-c", ORPHANS, env=variables, prefix=prefix)
    launcher.wait_for("^parent 1 others 0$")
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
    os.kill(int(children.read_text().split()[0]), signal.SIGTERM)
    assert launcher.wait() == 143


SLOW_READER = """
import os, pathlib, queue, threading, time
from launcher.task.child import Child
reads, ended = threading.Event(), queue.Queue()
words, here = ["sh", "-c", "echo line"], pathlib.Path("/")
child = Child(words, os.environ, here, ended.put, line=lambda _: reads.wait())
while True:
    try:
        os.kill(child.pid, 0)
    except ProcessLookupError:
        break
    time.sleep(0.01)
gone = time.monotonic()
reads.set()
assert ended.get(timeout=10).at <= gone
"""


def test_an_end_has_the_time_of_the_exit_and_not_of_the_last_line() -> None:
    """Of several failures the first is blamed: one that takes longer to tell must not lose."""
    subprocess.run([sys.executable, "-c", SLOW_READER], cwd=ROOT, timeout=PATIENCE, check=True)


# Output.


def test_output_comes_line_by_line(start: Start, variables: dict[str, str], tmp_path: Path) -> None:
    script = (
        f"echo one; echo two >&2; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; printf end"
    )
    launcher = sh(start, variables, script)
    launcher.wait_for("^one$")
    launcher.wait_for("^two$")
    assert launcher.process.poll() is None
    (tmp_path / "go").touch()
    assert launcher.wait() == 0
    launcher.wait_for("end")


def test_long_lines_and_strange_bytes_pass_as_they_are(variables: dict[str, str]) -> None:
    program = (
        "import sys; o = sys.stdout.buffer; o.write(b'x' * 300_000 + b'\\n'); "
        "o.write(bytes(range(256)) + b'\\n\\n\\r\\n'); o.flush()"
    )
    done = subprocess.run(
        [sys.executable, "-m", "launcher", "task", "--", sys.executable, "-c", program],
        env=environment(**variables),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=PATIENCE,
        check=True,
    )
    assert done.stdout == b"x" * 300_000 + b"\n" + bytes(range(256)) + b"\n\n\r\n"


@pytest.mark.parametrize("closed", ["its reader is gone", "it was closed from the start"])
def test_a_closed_stdout_does_not_stop_the_program(
    variables: dict[str, str], tmp_path: Path, closed: str
) -> None:
    script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i + 1)); done; exit 9"
    command = [sys.executable, "-m", "launcher", "task", "--", "sh", "-c", script]
    if closed == "it was closed from the start":
        command = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *command]
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as gone:
        done = subprocess.run(
            command,
            env=environment(**variables),
            cwd=ROOT,
            stdout=gone,
            stderr=gone,
            timeout=PATIENCE,
            check=False,
        )
    assert done.returncode == 9
    assert message(tmp_path / "end.json")["lastLines"][-1] == "line 19999"


# What a pod needs.


@pytest.mark.parametrize("module", ["task.loop", "controller.loop", "task.tensorflow_server"])
def test_a_pods_modules_need_the_standard_library_alone(module: str) -> None:
    """-S and -I leave nothing else to import; of it a task takes only what it uses."""
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


def test_no_file_descriptor_of_the_launcher_reaches_the_program(
    start: Start, variables: dict[str, str]
) -> None:
    launcher = sh(start, variables, "ls /proc/self/fd | wc -l")
    assert launcher.wait() == 0
    launcher.wait_for("^ *4$")  # the three, and the folder that ls reads
    wait_until(lambda: not lives(launcher.pid), "the launcher has gone")
