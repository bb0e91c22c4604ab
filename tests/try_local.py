"""`make try`: trains the breast-cancer example as processes on this machine, without Kubernetes.

Its environment contains only the dependency group `try`, without the tools of the tests.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from launcher.shared.process import start
from tests.result import EXAMPLE, NotLearntError, result

REPOSITORY = EXAMPLE.parents[1]
TASKS = ("ps-0", "worker-0", "worker-1")  # as in the example's values.yaml
EPOCHS = 300
EPOCHS_WITH_KILL = 500  # enough for the killed task to be back before the training ends
NEXT = [
    "make try KILL=worker-1  # kill a worker's program: it restarts and continues",
    "make try KILL=ps-0      # kill the parameter server: all tasks restart from the checkpoint",
    "$EDITOR examples/breast-cancer/train.py && make try  # train with your change",
    "make demo               # train on a real Kubernetes",
]


class Kill:
    """Kills the program of one task while it trains, and keeps the lines about the recovery."""

    def __init__(self, task: str, checkpoints: Path) -> None:
        self.task = task
        # A ps prints no steps. worker-1 starts last, so its first step shows that all tasks train.
        self.trainer = task if task.startswith("worker") else "worker-1"
        self.checkpoints = checkpoints
        self.pid: int | None = None
        self.step = ""
        self.killed = self.recovered = False
        self.recovery: list[str] = []

    def see(self, line: str) -> None:
        """Reads a line of the run's output. Kills once the task trains and a checkpoint exists."""
        name, text = split(line)
        if self.killed:
            told = name == "controller" and re.search(r": (lost |the cause)|: .* start", text)
            restored = re.match(r"(start|restored): step", text)
            if not self.recovered and (told or restored):
                self.recovery.append(line)
                self.recovered = name == self.trainer
            return
        started = re.search(r": started .*\(process (\d+)\)$", text)
        if started and name == self.task:
            self.pid = int(started[1])
        step = re.match(r"step \d+/\d+", text)
        if step and name == self.trainer:
            self.step = step[0]
        if self.pid and self.step and any(self.checkpoints.glob("model.ckpt-[1-9]*.index")):
            with contextlib.suppress(ProcessLookupError):  # the program has just ended
                os.kill(self.pid, signal.SIGKILL)
                self.killed = True
                say(f"killed the program of {self.task}, process {self.pid}, at {self.step}")


def main(argv: Sequence[str]) -> int:
    """Trains, and returns the run's exit code, or 1 if the model is not good enough."""
    parser = argparse.ArgumentParser(prog="make try", description=__doc__)
    parser.add_argument("--kill", metavar="TASK", help="kill this task's program while it trains")
    task = parser.parse_args(argv).kill
    if task and task not in TASKS:
        say(f"KILL must be one of {', '.join(TASKS)}; got {task}")
        return 2
    try:
        folder = Path(tempfile.mkdtemp(prefix="tfrun-try-"))
        values = write_values(folder, EPOCHS_WITH_KILL if task else EPOCHS)
    except OSError as error:
        say(f"{error}: set TMPDIR to a folder that has space and that you can write to")
        return 1
    return train(folder, values, Kill(task, folder / "checkpoint") if task else None)


def write_values(folder: Path, epochs: int) -> Path:
    """Writes the values that this machine needs in addition to the example's; JSON is YAML."""
    args = [
        f"--checkpoint_dir={folder / 'checkpoint'}",
        f"--export_dir={folder / 'model'}",
        f"--epochs={epochs}",
        "--checkpoint_secs=1",
        "--log_every_steps=250",
    ]
    values = folder / "values.json"
    values.write_text(json.dumps({"program": {"args": args}}))
    return values


def train(folder: Path, values: Path, kill: Kill | None) -> int:
    """Runs `launcher local` to its end, and prints the result."""
    example = EXAMPLE.relative_to(REPOSITORY)
    command = [sys.executable, "-m", "launcher", "local", "-f", f"{example}/values.yaml"]
    command += ["-f", str(values), "--code", str(example)]
    say(f"checkpoints and the model go to {folder}")
    say(f"running {shlex.join(command)}")
    begin = time.monotonic()
    code, stopped, lines = follow(command, kill)
    seconds = time.monotonic() - begin
    if stopped:
        shutil.rmtree(folder, ignore_errors=True)
        say(f"interrupted: all processes have ended, and {folder} is removed")
        return code
    if code:
        say(f"the run has failed with exit code {code}, see above; its files are in {folder}")
        return code
    chief = [text for name, text in map(split, lines) if name == "worker-0"]
    trained = f"trained in {seconds:.0f} s on this machine, with 1 ps and 2 workers"
    try:
        told = result(chief, trained, folder, NEXT)
    except NotLearntError as error:
        say(str(error))
        return 1
    if kill and not kill.killed:
        say(f"the training ended before {kill.task} could be killed")
        return 1
    if kill and not kill.recovered:
        say(f"the training ended before {kill.task} trained again")
        return 1
    if kill:
        print(f"\nafter {kill.task} was killed at {kill.step}")
        print(*(f"  {line}" for line in kill.recovery), sep="\n")
    print(told)
    return 0


def follow(command: Sequence[str], kill: Kill | None) -> tuple[int, bool, list[str]]:
    """Runs a command and prints its output.

    Returns its exit code, whether it was stopped, and its lines.
    """
    stops: list[int] = []
    process = None

    def stop(number: int, _: object) -> None:
        stops.append(number)
        if process:
            process.send_signal(number)

    # The command runs in its own session, so a Ctrl-C reaches it only through `stop`, once.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    # TensorFlow prints oneDNN's notice at every log level, so we turn oneDNN off.
    process = start(command, {"TF_ENABLE_ONEDNN_OPTS": "0", **os.environ}, REPOSITORY)
    lines = []
    with process:
        assert process.stdout
        try:
            for early in stops:
                process.send_signal(early)
            for raw in process.stdout:
                lines.append(raw.decode(errors="replace").rstrip())
                print(lines[-1], flush=True)
                if kill:
                    kill.see(lines[-1])
        except BaseException:  # for example, the reader of our output has gone
            process.terminate()
            raise
    return process.returncode, bool(stops), lines


def split(line: str) -> tuple[str, str]:
    """The name of the process and its text, from a line of `launcher local`."""
    name, _, text = line.partition("|")
    return name.strip(), text.removeprefix(" ")


def say(text: str) -> None:
    """Prints one line of progress."""
    print(f"try: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
