"""Train a small breast-cancer classifier, alone or with parameter servers and workers.

This is TensorFlow's asynchronous between-graph training: every worker runs this program, builds the
same graph, keeps its variables on the parameter servers and trains on its own share of the rows.
Worker 0 is the chief: it alone initialises, saves, evaluates and exports.

    python train.py                                          # one process, a laptop
    python train.py --ps_hosts=a:2222 --worker_hosts=b:2222,c:2222 --job_name=worker --task_index=0

A TF_CONFIG environment variable can replace the four cluster flags.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

tf: Any = None  # set by import_tensorflow: it takes seconds, so flags are checked first

HELD_OUT = 5  # every fifth row is held out from training
SPLIT_SEED = 0  # independent of --seed, so that every run is evaluated on the same rows
STOP_SECONDS = 5  # for the chief to save a checkpoint after SIGTERM
STOPPED = 128 + signal.SIGTERM  # the exit code after SIGTERM, as if the signal had ended it


@dataclass(frozen=True)
class Task:
    """Which task of which cluster this process is; without a cluster it is the only one."""

    job: str = "worker"
    index: int = 0
    ps_hosts: tuple[str, ...] = ()
    worker_hosts: tuple[str, ...] = ()

    @property
    def distributed(self) -> bool:
        """Whether other processes belong to the training."""
        return bool(self.worker_hosts)

    @property
    def chief(self) -> bool:
        """Whether this is the one worker that initialises, saves, evaluates and exports."""
        return self.job == "worker" and self.index == 0

    @property
    def workers(self) -> int:
        """How many workers share the rows."""
        return max(1, len(self.worker_hosts))


@dataclass(frozen=True)
class Data:
    """The rows to train on, and the rows held out to evaluate on."""

    features: np.ndarray
    labels: np.ndarray
    held_out_features: np.ndarray
    held_out_labels: np.ndarray


# --- flags ---------------------------------------------------------------------------------------


def parse_flags(argv: list[str], tf_config: str = "") -> tuple[argparse.Namespace, Task]:
    """Read the flags and this process's task; report all mistakes and exit with code 2."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n")[0],
        usage="%(prog)s [--help] [FLAG=VALUE ...]",
        allow_abbrev=False,
    )
    mistakes: list[str] = []

    def add_number(group: Any, flag: str, default: Any, least: float, text: str) -> None:
        kind = float if isinstance(default, float) else int

        def convert(value: str) -> Any:  # collects mistakes, because argparse stops at the first
            try:
                number = kind(value)
            except ValueError:
                number = math.nan
            if not least <= number < math.inf:
                noun = "a number" if kind is float else "an integer"
                mistakes.append(f"{flag} must be {noun} of at least {least}; got {value!r}")
                return default
            return number

        if default is not None:
            text += f" (default: {default})"
        group.add_argument(flag, type=convert, default=default, metavar="N", help=text)

    cluster = parser.add_argument_group("cluster (none of these and no TF_CONFIG: one process)")
    cluster.add_argument("--ps_hosts", help="comma-separated host:port of each parameter server")
    cluster.add_argument("--worker_hosts", help="comma-separated host:port of each worker")
    cluster.add_argument("--job_name", help="the job of this process: ps or worker")
    add_number(cluster, "--task_index", None, 0, "place of this process in its job's list")

    training = parser.add_argument_group("training")
    add_number(training, "--epochs", 500, 1, "passes over the training rows, by all workers")
    add_number(training, "--batch_size", 32, 1, "rows of one step")
    add_number(training, "--learning_rate", 0.01, 0, "step size of the gradient descent")
    add_number(training, "--hidden_units", 16, 1, "width of the hidden layer")
    add_number(training, "--seed", 1, 0, "of the initial weights and of the order of the rows")
    add_number(training, "--log_every_steps", 200, 1, "own steps between two lines of progress")

    files = parser.add_argument_group("files")
    files.add_argument(
        "--data",
        type=Path,
        default=Path(__file__).resolve().with_name("breast_cancer.csv"),
        help="CSV: a header, then rows of numbers, the last one the label, 0 or 1 "
        "(default: breast_cancer.csv beside this program)",
    )
    files.add_argument(
        "--checkpoint_dir",
        type=Path,
        help="folder to save to and to continue from; durable, required with a cluster "
        "(default for one process: a new temporary folder)",
    )
    add_number(files, "--checkpoint_secs", 10, 1, "seconds between two checkpoints")
    files.add_argument(
        "--export_dir",
        type=Path,
        help="folder that becomes the SavedModel; TensorFlow Serving wants a number for its name "
        "(default: model in the checkpoint folder)",
    )

    flags, unknown = parser.parse_known_args(argv)
    mistakes += [f"{flag} is unknown" for flag in unknown]
    task, more = find_task(flags, tf_config)
    mistakes += more
    if task.job == "worker":
        mistakes += find_file_mistakes(flags, task)
    if mistakes:
        parser.error("\n  ".join(["", *mistakes]))
    return flags, task


def find_task(flags: argparse.Namespace, tf_config: str) -> tuple[Task, list[str]]:
    """Find this process's task, from the flags or else TF_CONFIG, and what is wrong with it."""
    cluster_flags = (flags.ps_hosts, flags.worker_hosts, flags.job_name, flags.task_index)
    if any(value is not None for value in cluster_flags):
        jobs = {
            "ps": [host for host in (flags.ps_hosts or "").split(",") if host],
            "worker": [host for host in (flags.worker_hosts or "").split(",") if host],
        }
        job, index = flags.job_name, flags.task_index
    else:
        try:
            config = json.loads(tf_config or "{}")
            jobs = {
                name: [str(host) for host in hosts]
                for name, hosts in config.get("cluster", {}).items()
            }
            job, index = (config.get("task", {}).get(key) for key in ("type", "index"))
            index = None if index is None else int(index)
        except (ValueError, TypeError, AttributeError):
            return Task(), [f"TF_CONFIG must be JSON with a cluster and a task; got {tf_config}"]
        if not jobs:
            return Task(), []
    task = Task(job or "", index or 0, tuple(jobs.get("ps", ())), tuple(jobs.get("worker", ())))
    return task, find_cluster_mistakes(jobs, job, index)


def find_cluster_mistakes(
    jobs: dict[str, list[str]], job: str | None, index: int | None
) -> list[str]:
    """What is wrong with a cluster, or with this process's task in it."""
    mistakes = []
    for name in dict.fromkeys(["ps", "worker", *jobs]):
        if name not in ("ps", "worker"):
            mistakes.append(f"TF_CONFIG's cluster must have the jobs ps and worker; got {name}")
        elif not jobs.get(name):
            mistakes.append(f"--{name}_hosts (or TF_CONFIG's cluster.{name}) must list host:port")
    listed = [host for hosts in jobs.values() for host in hosts]
    for host in dict.fromkeys(listed):
        address, _, port = host.rpartition(":")
        if not (address and port.isdecimal() and 0 < int(port) < 65536):
            mistakes.append(f"a host must be host:port; got {host}")
        if listed.count(host) > 1:
            mistakes.append(f"a host must be listed once; got {host} {listed.count(host)} times")
    if job not in ("ps", "worker"):
        mistakes.append(f"--job_name (or TF_CONFIG's task type) must be ps or worker; got {job}")
    elif index is None:
        mistakes.append("--task_index (or TF_CONFIG's task index) must be given")
    elif jobs.get(job) and not 0 <= index < len(jobs[job]):
        mistakes.append(
            f"--task_index (or TF_CONFIG's task index) must be below {len(jobs[job])}, "
            f"the number of {job} hosts; got {index}"
        )
    return mistakes


def find_file_mistakes(flags: argparse.Namespace, task: Task) -> list[str]:
    """What would go wrong with the files, possibly hours later."""
    mistakes = []
    try:
        data = load_data(flags.data)
        if task.workers > len(data.labels):
            mistakes.append(f"--data must have a training row for each of {task.workers} workers")
    except (OSError, ValueError) as error:
        mistakes.append(f"--data cannot be read: {error}")
    if task.distributed and flags.checkpoint_dir is None:
        mistakes.append(
            "--checkpoint_dir must be given with a cluster: "
            "without it the only copy of the model is in the memory of the parameter servers"
        )
    export = flags.export_dir or (flags.checkpoint_dir and flags.checkpoint_dir / "model")
    if export and export.exists():
        model = (export / "saved_model.pb").exists()
        empty = export.is_dir() and not any(export.iterdir())
        if export.is_mount() or not (model or empty):  # it will be renamed and replaced
            mistakes.append(
                "--export_dir must be a folder that is new, empty or a SavedModel, "
                f"and no mount point; got {export}"
            )
    return mistakes


# --- data ----------------------------------------------------------------------------------------


def load_data(path: Path) -> Data:
    """Read the CSV and hold out every fifth row of each label, always the same rows."""
    rows = np.loadtxt(path, delimiter=",", skiprows=1, dtype=np.float32, ndmin=2)
    labels = rows[:, -1]
    if rows.shape[1] < 2 or set(labels) != {0, 1} or not np.isfinite(rows).all():
        raise ValueError(f"{path} must hold finite numbers, the last of each row a label, 0 or 1")
    order = np.random.default_rng(SPLIT_SEED).permutation(len(rows))
    order = order[np.argsort(labels[order], kind="stable")]
    held_out = rows[order[::HELD_OUT]]
    training = rows[np.delete(order, np.s_[::HELD_OUT])]
    return Data(training[:, :-1], training[:, -1], held_out[:, :-1], held_out[:, -1])


def count_steps(epochs: int, rows: int, batch_size: int) -> int:
    """The steps of the whole training, shared by all workers."""
    return math.ceil(epochs * rows / batch_size)


def make_batches(rows: np.ndarray, batch_size: int, seed: list[int]) -> Iterator[np.ndarray]:
    """Endless batches of the rows, shuffled again after each pass over all rows."""
    rng = np.random.default_rng(seed)
    queue = rng.permutation(rows)
    while True:
        while len(queue) < batch_size:
            queue = np.concatenate([queue, rng.permutation(rows)])
        yield queue[:batch_size]
        queue = queue[batch_size:]


def compute_accuracy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The share of rows whose probability is on the correct side of one half."""
    return float(np.mean((probabilities > 0.5) == (labels > 0.5)))


def compute_auc(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The chance that a row of label 1 gets a higher probability than a row of label 0."""
    ones, zeros = probabilities[labels > 0.5, None], probabilities[labels <= 0.5]
    return float(np.mean((ones > zeros) + 0.5 * (ones == zeros)))


# --- TensorFlow ----------------------------------------------------------------------------------


def import_tensorflow() -> None:
    """Import TensorFlow as `tf`, quiet unless the user has set its log level."""
    global tf
    quiet = "TF_CPP_MIN_LOG_LEVEL" not in os.environ
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # its notice ignores the log level
    tf = importlib.import_module("tensorflow.compat.v1")
    tf.logging.set_verbosity(tf.logging.ERROR if quiet else tf.logging.INFO)
    tf.disable_eager_execution()


def start_server(task: Task) -> Any:
    """Start this task's TensorFlow server; it lasts as long as the process."""
    cluster = {"ps": list(task.ps_hosts), "worker": list(task.worker_hosts)}
    return tf.train.Server(cluster, job_name=task.job, task_index=task.index)


def build_logits(features: Any, data: Data, hidden_units: int) -> Any:
    """One hidden layer over raw features: their mean and spread are constants of the graph."""
    mean, spread = data.features.mean(axis=0), data.features.std(axis=0)
    width = data.features.shape[1]
    layer = (features - mean) / np.maximum(spread, 1e-6)
    for name, inputs, outputs in (("hidden", width, hidden_units), ("output", hidden_units, 1)):
        with tf.variable_scope(name):
            weights = tf.get_variable("weights", [inputs, outputs])
            biases = tf.get_variable("biases", [outputs], initializer=tf.zeros_initializer())
        layer = tf.matmul(layer, weights) + biases
        if name == "hidden":
            layer = tf.nn.relu(layer)
    return tf.squeeze(layer, axis=1)


def train(flags: argparse.Namespace, task: Task, data: Data, stop: threading.Event) -> int:
    """Train until the last step, or until stop is set, and return the global step reached."""
    last_step = count_steps(flags.epochs, len(data.labels), flags.batch_size)
    if not task.chief and read_step(flags.checkpoint_dir) >= last_step:
        return last_step  # the training is over, and the chief may be gone

    master, config = "", tf.ConfigProto()
    if task.distributed:
        master = start_server(task).target
        # Without filters a session waits for every listed worker, also for a finished one.
        config.device_filters.extend(["/job:ps", f"/job:worker/task:{task.index}"])

    tf.set_random_seed(flags.seed)
    device = f"/job:worker/task:{task.index}"
    with tf.device(tf.train.replica_device_setter(len(task.ps_hosts), worker_device=device)):
        step = tf.train.create_global_step()
        features = tf.placeholder(tf.float32, [None, data.features.shape[1]])
        labels = tf.placeholder(tf.float32, [None])
        logits = build_logits(features, data, flags.hidden_units)
        loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits))
        tf.summary.scalar("loss", loss)
        optimizer = tf.train.GradientDescentOptimizer(flags.learning_rate)
        with tf.control_dependencies([optimizer.minimize(loss, global_step=step)]):
            next_step = step.read_value()
        # In the device scope, so that the chief writes the files and a ps needs no volume. Not
        # sharded, so that they fit any number of ps.
        saver = tf.train.Saver(max_to_keep=3, save_relative_paths=True)

    shard = np.arange(task.index, len(data.labels), task.workers)
    feeds = (
        {features: data.features[rows], labels: data.labels[rows]}
        for rows in make_batches(shard, flags.batch_size, [flags.seed, task.index])
    )
    print(f"worker {task.index} of {task.workers}: {len(shard)} rows, {len(task.ps_hosts)} ps")
    if not task.chief:  # wait for the chief here: the session below looks only every 30 s
        manager = tf.train.SessionManager(
            ready_op=tf.report_uninitialized_variables(), recovery_wait_secs=1
        )
        manager.wait_for_session(master, config).close()
    with tf.train.MonitoredTrainingSession(
        master,
        is_chief=task.chief,
        checkpoint_dir=str(flags.checkpoint_dir),
        scaffold=tf.train.Scaffold(saver=saver),
        hooks=[tf.train.StopAtStepHook(last_step=last_step)],
        save_checkpoint_secs=flags.checkpoint_secs,
        save_summaries_steps=flags.log_every_steps,
        config=config,
    ) as session:
        # Reads the step without training, so that the hook sees whether training has ended.
        reached = int(session.run(step, next(feeds)))
        print(f"start: step {reached}/{last_step}")
        logged_step, logged_time, own_steps = reached, time.monotonic(), 0
        while not session.should_stop() and not stop.is_set():
            before = reached
            reached, batch_loss = session.run([next_step, loss], next(feeds))
            own_steps += 1
            if reached < before:
                print(f"restored: step {reached}/{last_step}, from {before}")
                logged_step = min(logged_step, reached)
            if own_steps % flags.log_every_steps == 0 or reached >= last_step:
                now = time.monotonic()
                speed = (reached - logged_step) / (now - logged_time)
                print(f"step {reached}/{last_step} loss {batch_loss:.4f} ({speed:.0f} steps/s)")
                logged_step, logged_time = reached, now
    return int(reached)


def read_step(checkpoint_dir: Path) -> int:
    """The global step of the last checkpoint, -1 without one."""
    checkpoint = tf.train.latest_checkpoint(str(checkpoint_dir))
    return int(tf.train.load_variable(checkpoint, "global_step")) if checkpoint else -1


def evaluate(flags: argparse.Namespace, data: Data) -> None:
    """Restore the last checkpoint, evaluate it on the held-out rows and export it."""
    checkpoint = tf.train.latest_checkpoint(str(flags.checkpoint_dir))
    with tf.Graph().as_default(), tf.Session() as session:
        features = tf.placeholder(tf.float32, [None, data.features.shape[1]], name="features")
        probability = tf.sigmoid(build_logits(features, data, flags.hidden_units))
        tf.train.Saver().restore(session, checkpoint)
        predicted = session.run(probability, {features: data.held_out_features})
        accuracy = compute_accuracy(data.held_out_labels, predicted)
        auc = compute_auc(data.held_out_labels, predicted)
        print(
            f"evaluation: accuracy {accuracy:.4f} auc {auc:.4f} rows {len(predicted)} "
            f"step {read_step(flags.checkpoint_dir)}"
        )
        export_model(session, features, probability, flags.export_dir)
    print(f"model: {flags.export_dir}")
    print(f"checkpoint: {checkpoint}")


def export_model(session: Any, features: Any, probability: Any, folder: Path) -> None:
    """Write the SavedModel to a temporary folder and rename it: nobody sees half a model."""
    new, old = (folder.with_name(f".{folder.name}.{suffix}") for suffix in ("new", "old"))
    for leftover in (new, old):  # from an earlier process that was killed while it exported
        shutil.rmtree(leftover, ignore_errors=True)
    tf.saved_model.simple_save(
        session, str(new), inputs={"features": features}, outputs={"probability": probability}
    )
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


# --- the program ---------------------------------------------------------------------------------


def watch_sigterm() -> threading.Event:
    """An event that SIGTERM sets; STOP_SECONDS later the process is ended.

    A thread reads the signal from a pipe, because Python runs handlers only in the main thread,
    and not while that waits inside TensorFlow, for example for a parameter server that is gone.
    """
    stop = threading.Event()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    signal.signal(signal.SIGTERM, lambda *_: None)

    def wait() -> None:
        while os.read(reader, 1) != bytes([signal.SIGTERM]):
            pass
        stop.set()
        time.sleep(STOP_SECONDS)
        os._exit(STOPPED)

    threading.Thread(target=wait, daemon=True).start()
    return stop


def main(argv: list[str]) -> int:
    """Run one task: serve, or train; the chief then evaluates."""
    flags, task = parse_flags(argv, os.environ.get("TF_CONFIG", ""))
    stop = watch_sigterm() if task.chief else threading.Event()
    import_tensorflow()
    if task.job == "ps":
        start_server(task).join()

    if flags.checkpoint_dir is None:
        flags.checkpoint_dir = Path(tempfile.mkdtemp(prefix="breast-cancer-"))
    if flags.export_dir is None:
        flags.export_dir = flags.checkpoint_dir / "model"
    data = load_data(flags.data)
    step = train(flags, task, data, stop)
    if stop.is_set():
        print(f"stopped: step {step}, saved in {flags.checkpoint_dir}")
        return STOPPED
    if task.chief:
        evaluate(flags, data)
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.exit(main(sys.argv[1:]))
