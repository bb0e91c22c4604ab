"""The child of one task as a real process: its signals, what it leaves behind, its output."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.unit.conftest import Start
from tests.unit.processes import PATIENCE, ROOT, environment, lives, message, wait_until
from tests.unit.task.conftest import LOOP, sh

# Signals.


@pytest.mark.parametrize(
    ("number", "name", "code"), [(signal.SIGTERM, "TERM", 143), (signal.SIGINT, "INT", 130)]
)
def test_a_program_that_is_stopped_can_save(
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
    assert time.monotonic() - begin < 15.0  # the grace is 30 s


SAVES = """
import signal, sys
def save(number, frame):
    # Reads the data that only its loader has.
    print("saved", loader(), flush=True)
    sys.exit(7)
{loader}
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
while True:
    signal.pause()
"""
# Loaders without a handler, as those of tf.data and of PyTorch: SIGTERM ends them.
PROCESS = """
import multiprocessing
def load(asked, rows):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    rows.put("up")
    while asked.get():
        rows.put("row")
context = multiprocessing.get_context("fork")
asked, rows = context.Queue(), context.Queue()
context.Process(target=load, args=[asked, rows], daemon=True).start()
assert rows.get() == "up"
def loader():
    asked.put(True)
    return rows.get(timeout=20)
"""
POOL = """
from concurrent.futures import ProcessPoolExecutor
pool = ProcessPoolExecutor(2, initializer=signal.signal, initargs=[signal.SIGTERM, signal.SIG_DFL])
def loader():
    return pool.submit(str.strip, " row ").result()
assert loader() == "row"
"""


@pytest.mark.parametrize("loader", [PROCESS, POOL], ids=["a process", "a pool"])
@pytest.mark.parametrize("wrapped", [False, True], ids=["program", "in a shell script"])
def test_a_program_can_save_with_what_its_loaders_give(
    start: Start, variables: dict[str, str], tmp_path: Path, loader: str, wrapped: bool
) -> None:
    program = tmp_path / "train.py"
    program.write_text(SAVES.format(loader=loader))
    words = [sys.executable, str(program)]
    if wrapped:
        script = tmp_path / "run.sh"
        script.write_text(f"set -e\necho hello\n{shlex.join(words)}\necho after\n")
        words = ["sh", str(script)]
    launcher = start("task", "--", *words, env=variables)
    launcher.wait_for("^ready")
    launcher.signal(signal.SIGTERM)
    assert launcher.wait() == 143
    launcher.wait_for("^saved row")
    launcher.wait_for(f"the child ended.*exit code {143 if wrapped else 7}")


# A program in a shell; the shell's end, and what the program gets.
WORKS = f"sh -c \"trap 'echo saving; sleep 0.2; echo saved; exit 6' TERM; echo ready; {LOOP}\""
SHELLS = {
    "exec": (f"exec {WORKS}", 6),
    "one command": (WORKS, 143),
    "a command before it": (f"true; {WORKS}", 143),
    "a command after it": (f"{WORKS}; echo after", 143),
    "a pipe": (f"{WORKS} | tee /dev/null", 143),
    "a shell in a shell": ("{shell} -c '{shell} {script}; true'; true", 143),
    "a trap that waits": (f"trap 'echo trapped' TERM; {WORKS}; exit 9", 9),
    "a trap for its exit": (f"trap 'echo cleaned' EXIT; {WORKS}; exit 9", 143),
    "a trap that passes it on": (
        f"trap 'kill $pid; wait $pid' TERM; {WORKS} & pid=$!; wait $pid; exit 9",
        9,
    ),
}


@pytest.mark.parametrize("shell", ["dash", "bash"])
@pytest.mark.parametrize("case", SHELLS)
def test_a_program_in_a_shell_can_save(
    start: Start, variables: dict[str, str], tmp_path: Path, shell: str, case: str
) -> None:
    if not shutil.which(shell):
        pytest.skip(f"needs {shell}")
    text, code = SHELLS[case]
    script = tmp_path / "run.sh"
    if "{script}" in text:
        (tmp_path / "inner.sh").write_text(f"echo inner; {WORKS}\n")
        text = text.format(shell=shell, script=tmp_path / "inner.sh")
    script.write_text(text + "\n")
    late = case == "a trap that waits"  # then the program gets the signal after half of the grace
    grace = 8 if late else 30
    launcher = start("task", "--", shell, str(script), env={**variables, "TFRUN_GRACE": str(grace)})
    launcher.wait_for("^ready")
    begin = time.monotonic()
    launcher.signal(signal.SIGTERM)
    assert launcher.wait() == 143
    for word in ("saving", "saved"):
        assert launcher.lines.count(word) == 1
    assert (time.monotonic() - begin >= grace / 2) == late
    # bash runs the last command in its own process.
    launcher.wait_for(f"the child ended.*exit code ({code}|6)\\b")


def test_what_a_killed_program_leaves_has_the_rest_of_the_grace_and_no_more(
    start: Start, variables: dict[str, str]
) -> None:
    deaf = f"sh -c \"trap 'echo asked' TERM; echo ready; {LOOP}\"; true"
    launcher = sh(start, {**variables, "TFRUN_GRACE": "2"}, deaf)
    launcher.wait_for("^ready")
    begin = time.monotonic()
    launcher.signal(signal.SIGTERM)
    assert launcher.wait() == 143
    launcher.wait_for("^asked")
    assert 2.0 <= time.monotonic() - begin < 15.0


def test_what_reads_from_a_pipe_ends_after_its_writer(
    start: Start, variables: dict[str, str]
) -> None:
    """A program whose reader is gone could not print while it saves."""
    writer = f"sh -c \"trap 'sleep 0.3; echo saved; exit' TERM; echo ready; {LOOP}\""
    launcher = sh(start, variables, f"{writer} | cat; true")
    launcher.wait_for("^ready")
    launcher.signal(signal.SIGTERM)
    assert launcher.wait() == 143
    launcher.wait_for("^saved")


def test_a_program_that_reads_from_a_pipe_is_stopped_too(
    start: Start, variables: dict[str, str]
) -> None:
    reader = f"sh -c \"trap 'echo saved; exit' TERM; echo ready; {LOOP}\""
    launcher = sh(start, {**variables, "TFRUN_GRACE": "4"}, f"yes | {reader}; true")
    launcher.wait_for("^ready")
    launcher.signal(signal.SIGTERM)
    assert launcher.wait() == 143
    launcher.wait_for("^saved")


@pytest.mark.parametrize("name", ["HUP", "USR1", "USR2"])
def test_signals_that_do_not_stop_are_passed_on_to_the_program(
    start: Start, variables: dict[str, str], name: str
) -> None:
    launcher = sh(start, variables, f"trap 'echo got {name}; exit 5' {name}; echo ready; {LOOP}")
    launcher.wait_for("^ready")
    launcher.signal(getattr(signal, f"SIG{name}"))
    assert launcher.wait() == 5
    launcher.wait_for(f"^got {name}")


# A stand-in for TensorFlow: its own test is in tests/e2e/test_modes_local.py.
CAUGHT = """
import mmap, os, signal, sys, threading, time
case, caught = sys.argv[1], []
def wait():
    while not caught:
        time.sleep(0.02)
def log(thread):
    print(f"W0000 00:00:1795638893.275913 {thread:7} preemption_notifier.cc:90] SIGTERM caught at "
          "2026-11-25T20:34:53.275912111+00:00", flush=True)
def listen():
    wait()
    if case != "before the stop":
        log(os.getppid() if case == "in another process" else threading.get_native_id())
threading.Thread(target=listen, daemon=True).start()
signal.signal(signal.SIGTERM, lambda *_: caught.append(True))
if case == "with JAX":
    with open("jaxlib.so", "wb+") as file:
        file.truncate(4096)
        library = mmap.mmap(file.fileno(), 4096)
if case == "before the stop":
    log(os.getpid())
print("ready", flush=True)
wait()
time.sleep(60 if case == "goes on" else 1)
sys.exit(5)
"""
STOP = """
import os, pathlib, queue, sys
from launcher.task.child import Child
ready, ended, here = queue.Queue(), queue.Queue(), pathlib.Path(sys.argv[1])
child = Child(sys.argv[3:], os.environ, here, ended.put, line=ready.put)
while ready.get(timeout=60) != "ready":
    pass
child.stop(60, waits=sys.argv[2] == "waits")
sys.exit(ended.get(timeout=60).exit_code)
"""


@pytest.mark.parametrize(
    ("case", "waits", "code"),
    [
        ("goes on", False, 137),
        ("in the program", True, 5),  # the pod leaves
        ("in another process", False, 5),
        ("before the stop", False, 5),
        ("with JAX", False, 5),
    ],
)
def test_a_program_is_not_waited_for_when_tensorflow_has_caught_the_signal(
    tmp_path: Path, case: str, waits: bool, code: int
) -> None:
    program = [sys.executable, "-c", CAUGHT, case]
    done = subprocess.run(
        [sys.executable, "-c", STOP, str(tmp_path), "waits" if waits else "", *program],
        cwd=ROOT,
        timeout=PATIENCE,
    )
    assert done.returncode == code


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


def test_no_file_descriptor_of_the_launcher_reaches_the_program(
    start: Start, variables: dict[str, str]
) -> None:
    launcher = sh(start, variables, "ls /proc/self/fd | wc -l")
    assert launcher.wait() == 0
    launcher.wait_for("^ *4$")  # the three standard ones, and the folder that ls reads
    wait_until(lambda: not lives(launcher.pid), "the launcher has gone")


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
    """The earliest failure is the cause, so slow output must not make a failure look later."""
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


def test_a_bar_is_passed_on_while_its_line_has_no_end(
    variables: dict[str, str], tmp_path: Path
) -> None:
    """Keras and tqdm draw for a whole epoch before the line ends."""
    log = tmp_path / "log"
    script = f"printf '\\r10%%'; until grep -q 10% {log}; do sleep 0.02; done; echo; echo seen"
    program = [sys.executable, "-m", "launcher", "task", "--", "sh", "-c", script]
    with log.open("wb") as out:
        subprocess.run(
            program,
            env=environment(**variables),
            cwd=ROOT,
            stdout=out,
            timeout=PATIENCE,
            check=True,
        )
    assert log.read_bytes() == b"\r10%\nseen\n"


OUTPUT = """
import os, pathlib, queue, sys
from launcher.task.child import Child
lines, ended = [], queue.Queue()
Child(["sh", "-c", sys.argv[1]], os.environ, pathlib.Path("/"), ended.put, line=lines.append)
print(ended.get(timeout=10).last_lines, lines, file=sys.stderr)
"""


def test_output_without_a_line_feed_is_life() -> None:
    script = "printf '\\r10%%'; sleep 0.2; printf '\\r20%%'; sleep 0.2; printf '\\rout of memory'"
    done = subprocess.run(
        [sys.executable, "-c", OUTPUT, script],
        cwd=ROOT,
        timeout=PATIENCE,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "\n10%\n20%\nout of memory\n"
    assert done.stderr == "('out of memory',) ['', '10%', '', '20%', '', 'out of memory']\n"


@pytest.mark.parametrize("end", ["end", "end\r"])
def test_a_last_line_without_its_end_does_not_continue_in_the_next_message(
    variables: dict[str, str], end: str
) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "launcher",
            "task",
            "--",
            "sh",
            "-c",
            f"sleep 0.5; printf '{end}'; exit 3",
        ],
        env=environment(**variables),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=PATIENCE,
        check=False,
    )
    assert f"\n{end}\n".encode() in done.stdout


MID_LINE = """
import os, queue, sys, time
from pathlib import Path
from launcher.shared import log
from launcher.task.child import Child
ended = queue.Queue()
script = "printf 50%%; while [ ! -e go ]; do sleep 0.02; done; echo ...100%"
Child(["sh", "-c", script], dict(os.environ), Path.cwd(), ended.put)
while not log.mid_line:
    time.sleep(0.02)
log.say("one")
log.say("two")
Path("go").touch()
ended.get(timeout=60)
log.say("three")
"""


@pytest.mark.parametrize("streams", [1, 2])
def test_the_launcher_writes_no_line_into_one_of_the_program(tmp_path: Path, streams: int) -> None:
    """The kubelet keeps the two streams apart; `launcher local` and a terminal do not."""
    done = subprocess.run(
        [sys.executable, "-c", MID_LINE],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if streams == 1 else subprocess.PIPE,
        timeout=PATIENCE,
        text=True,
        check=True,
    )
    said, program = done.stderr or done.stdout, ["50%", "...100%"]
    if streams == 2:
        assert done.stdout == "".join(program) + "\n"
        program = []
    lines = [line.partition(" tfrun: ")[2] or line for line in said.splitlines()]
    assert lines == [*program[:1], "one", "two", *program[1:], "three"]


def test_long_lines_and_arbitrary_bytes_pass_unchanged(variables: dict[str, str]) -> None:
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
