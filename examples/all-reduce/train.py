"""Train a small breast-cancer classifier on workers that keep the same variables.

This is TensorFlow's MultiWorkerMirroredStrategy: every worker runs this program, computes its part
of each batch, and all of them add up their gradients, so that any number of workers takes the same
steps. Worker 0 is the chief: it alone saves, evaluates and exports.

    python train.py    # one process, a laptop

TF_CONFIG says who the workers are and which one this is.
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
STOP_SECONDS = 5  # for the last step and its checkpoint after SIGTERM
STOPPED = 128 + signal.SIGTERM  # the exit code after SIGTERM, as if the signal had ended it


@dataclass(frozen=True)
class Data:
    """The rows to train on, and the rows held out to evaluate on."""

    features: np.ndarray
    labels: np.ndarray
    held_out_features: np.ndarray
    held_out_labels: np.ndarray


# --- flags ---------------------------------------------------------------------------------------


def parse_flags(argv: list[str], tf_config: str = "") -> tuple[argparse.Namespace, int]:
    """Read the flags and this worker's index; a mistake ends the program with exit code 2."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n")[0],
        usage="%(prog)s [--help] [FLAG=VALUE ...]",
        allow_abbrev=False,
    )

    def add_number(group: Any, flag: str, default: Any, least: float, text: str) -> None:
        kind = type(default)

        def convert(value: str) -> Any:
            try:
                number = kind(value)
            except ValueError:
                number = math.nan
            if not least <= number < math.inf:
                noun = "a number" if kind is float else "an integer"
                raise argparse.ArgumentTypeError(f"must be {noun} of at least {least}; got {value}")
            return number

        text += f" (default: {default})"
        group.add_argument(flag, type=convert, default=default, metavar="N", help=text)

    training = parser.add_argument_group("training")
    add_number(training, "--epochs", 500, 1, "passes over the training rows")
    add_number(training, "--batch_size", 32, 1, "rows of one step, shared by all workers")
    add_number(training, "--learning_rate", 0.01, 0, "step size of the gradient descent")
    add_number(training, "--hidden_units", 16, 1, "width of the hidden layer")
    add_number(training, "--seed", 1, 0, "of the initial weights and of the order of the rows")
    add_number(training, "--log_every_steps", 200, 1, "steps between two lines of progress")

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
        help="folder where worker 0 saves and continues from; durable, required with a cluster "
        "(default for one process: a new temporary folder)",
    )
    add_number(files, "--checkpoint_secs", 10, 1, "seconds between two checkpoints")
    files.add_argument(
        "--export_dir",
        type=Path,
        help="folder that becomes the SavedModel; TensorFlow Serving wants a number for its name "
        "(default: model in the checkpoint folder)",
    )
    flags = parser.parse_args(argv)
    try:
        task = json.loads(tf_config or "{}").get("task", {"type": "worker", "index": 0})
        job, index = str(task["type"]), int(task["index"])
    except (ValueError, TypeError, KeyError, AttributeError):
        parser.error(f"TF_CONFIG must be JSON with a cluster and a task; got {tf_config}")
    if job != "worker":
        parser.error(f"TF_CONFIG's task must be a worker; got {job}")
    if tf_config and flags.checkpoint_dir is None:
        parser.error("--checkpoint_dir must be given with a cluster")
    try:
        load_data(flags.data)
    except (OSError, ValueError) as error:
        parser.error(f"--data cannot be read: {error}")
    return flags, index


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


def compute_accuracy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The share of rows whose probability is on the correct side of one half."""
    return float(np.mean((probabilities > 0.5) == (labels > 0.5)))


def compute_auc(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The chance that a row of label 1 gets a higher probability than a row of label 0."""
    ones, zeros = probabilities[labels > 0.5, None], probabilities[labels <= 0.5]
    return float(np.mean((ones > zeros) + 0.5 * (ones == zeros)))


# --- the model -----------------------------------------------------------------------------------


def import_tensorflow() -> None:
    """Import TensorFlow as `tf`, quiet unless the user has set its log level."""
    global tf
    quiet = "TF_CPP_MIN_LOG_LEVEL" not in os.environ
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # its notice ignores the log level
    tf = importlib.import_module("tensorflow")
    tf.get_logger().setLevel("ERROR" if quiet else "INFO")


def build_model(data: Data, hidden_units: int, seed: int) -> Any:
    """The variables of a network with one hidden layer."""
    rng = np.random.default_rng(seed)

    def make_variable(value: np.ndarray) -> Any:
        # Every replica assigns the same, because the gradients were added up before.
        same = tf.VariableAggregation.ONLY_FIRST_REPLICA
        return tf.Variable(value, dtype=tf.float32, aggregation=same)

    def make_weights(inputs: int, outputs: int) -> Any:
        limit = math.sqrt(6 / (inputs + outputs))
        return make_variable(rng.uniform(-limit, limit, [inputs, outputs]))

    model = tf.Module()
    model.hidden_weights = make_weights(data.features.shape[1], hidden_units)
    model.hidden_biases = make_variable(np.zeros([hidden_units]))
    model.weights = make_weights(hidden_units, 1)
    model.biases = make_variable(np.zeros([1]))
    return model


def compute_logits(model: Any, features: Any, data: Data) -> Any:
    """What the network makes of raw features: their mean and spread are constants in it."""
    mean, spread = data.features.mean(axis=0), data.features.std(axis=0)
    layer = (features - mean) / np.maximum(spread, 1e-6)
    layer = tf.nn.relu(tf.matmul(layer, model.hidden_weights) + model.hidden_biases)
    return tf.squeeze(tf.matmul(layer, model.weights) + model.biases, axis=1)


# --- training ------------------------------------------------------------------------------------


def train(
    flags: argparse.Namespace, data: Data, strategy: Any, index: int, stop: threading.Event
) -> tuple[int, bool]:
    """Train until the last step, or until any worker is told to stop.

    Returns the step that all have reached, and whether one of them was told to stop.
    """
    replicas = strategy.num_replicas_in_sync
    print(f"worker {index}: {replicas} replicas share {len(data.labels)} rows")
    with strategy.scope():
        model = build_model(data, flags.hidden_units, flags.seed)
    step = tf.Variable(0, dtype=tf.int64)
    manager = tf.train.CheckpointManager(
        tf.train.Checkpoint(model=model, step=step), str(flags.checkpoint_dir), max_to_keep=3
    )
    if index == 0 and manager.latest_checkpoint:
        manager.checkpoint.restore(manager.latest_checkpoint).assert_consumed()
    start = int(follow_chief(strategy, model, step))

    @tf.function
    def train_step(features: Any, labels: Any, stops: Any) -> Any:
        """One step of all: the loss of the whole batch, and how many replicas were told to stop."""

        def take(features: Any, labels: Any, stops: Any) -> Any:
            with tf.GradientTape() as tape:
                logits = compute_logits(model, features, data)
                losses = tf.nn.sigmoid_cross_entropy_with_logits(labels, logits)
                loss = tf.reduce_sum(losses) / flags.batch_size  # this replica's part of the loss
            variables = model.trainable_variables
            own = [loss, tf.identity(stops), *tape.gradient(loss, variables)]
            loss, stops, *gradients = add_up(own)
            for variable, gradient in zip(variables, gradients):
                variable.assign_sub(flags.learning_rate * gradient)
            return loss, stops

        results = strategy.run(take, args=(features, labels, stops))
        return [strategy.experimental_local_results(result)[0] for result in results]

    def share_out(values: np.ndarray) -> Any:
        """Each replica's part of a batch; empty where there are more replicas than rows."""
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(values[context.replica_id_in_sync_group :: replicas])
        )

    last_step = math.ceil(flags.epochs * len(data.labels) / flags.batch_size)
    print(f"start: step {start}/{last_step}")
    reached = logged_step = start
    stopped = False
    saved_at = logged_at = time.monotonic()
    batches = make_batches(len(data.labels), flags.batch_size, flags.seed, start)
    while reached < last_step and not stopped:
        rows = next(batches)
        stops = tf.constant(float(stop.is_set()))
        loss, stops = train_step(
            share_out(data.features[rows]), share_out(data.labels[rows]), stops
        )
        stopped = bool(stops > 0)
        reached += 1
        step.assign(reached)
        now = time.monotonic()
        if reached % flags.log_every_steps == 0 or reached == last_step:
            speed = (reached - logged_step) / (now - logged_at)
            print(f"step {reached}/{last_step} loss {loss:.4f} ({speed:.0f} steps/s)")
            logged_step, logged_at = reached, now
        ends = stopped or reached == last_step
        if index == 0 and (ends or now - saved_at >= flags.checkpoint_secs):
            manager.save(reached)  # every worker has all variables, so this one can save alone
            saved_at = now
    return reached, stopped


def make_batches(rows: int, batch_size: int, seed: int, step: int) -> Iterator[np.ndarray]:
    """Endless batches of rows from a step on, shuffled again after each pass over all rows.

    They depend only on the seed and the step: every worker has the same batches, and a run that
    continues has the batches that it would have had.
    """
    number, seen = divmod(step * batch_size, rows)
    queue = np.random.default_rng([seed, number]).permutation(rows)[seen:]
    while True:
        while len(queue) < batch_size:
            number += 1
            more = np.random.default_rng([seed, number]).permutation(rows)
            queue = np.concatenate([queue, more])
        yield queue[:batch_size]
        queue = queue[batch_size:]


def follow_chief(strategy: Any, model: Any, step: Any) -> Any:
    """Give all workers what worker 0 has restored, and return its step.

    They do not read the checkpoint themselves: a network file system may show each worker a
    different latest checkpoint.
    """

    def take() -> Any:
        first = tf.distribute.get_replica_context().replica_id_in_sync_group == 0
        own = [tf.where(first, v, tf.zeros_like(v)) for v in model.trainable_variables]
        for variable, value in zip(model.trainable_variables, add_up(own)):
            variable.assign(value)
        return add_up(tf.where(first, step, 0))

    return strategy.experimental_local_results(tf.function(strategy.run)(take))[0]


def add_up(values: Any) -> Any:
    """The sum over the replicas, on each replica; for a list, its sums."""
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)


def evaluate(flags: argparse.Namespace, data: Data) -> None:
    """Restore the last checkpoint, evaluate it on the held-out rows and export it."""
    path = tf.train.latest_checkpoint(str(flags.checkpoint_dir))
    model, step = build_model(data, flags.hidden_units, flags.seed), tf.Variable(0, dtype=tf.int64)
    tf.train.Checkpoint(model=model, step=step).restore(path).expect_partial()

    @tf.function(input_signature=[tf.TensorSpec([None, data.features.shape[1]], name="features")])
    def serve(features: Any) -> Any:
        return {"probability": tf.sigmoid(compute_logits(model, features, data))}

    predicted = serve(data.held_out_features)["probability"].numpy()
    accuracy = compute_accuracy(data.held_out_labels, predicted)
    auc = compute_auc(data.held_out_labels, predicted)
    print(
        f"evaluation: accuracy {accuracy:.4f} auc {auc:.4f} rows {len(predicted)} step {int(step)}"
    )
    export_model(model, serve, flags.export_dir)
    print(f"model: {flags.export_dir}")
    print(f"checkpoint: {path}")


def export_model(model: Any, serve: Any, folder: Path) -> None:
    """Write the SavedModel to a temporary folder and rename it: nobody sees half a model."""
    new, old = (folder.with_name(f".{folder.name}.{suffix}") for suffix in ("new", "old"))
    for leftover in (new, old):  # from an earlier process that was killed while it exported
        shutil.rmtree(leftover, ignore_errors=True)
    tf.saved_model.save(model, str(new), signatures=serve)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


# --- the program ---------------------------------------------------------------------------------


def watch_sigterm() -> threading.Event:
    """An event that SIGTERM sets; STOP_SECONDS later the process is ended.

    A thread reads the signal from a pipe, because Python runs handlers only in the main thread,
    and not while that waits inside TensorFlow, for example for a worker that is gone.
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
    """Train together with the others; the chief then evaluates."""
    flags, index = parse_flags(argv, os.environ.get("TF_CONFIG", ""))
    if flags.checkpoint_dir is None:
        flags.checkpoint_dir = Path(tempfile.mkdtemp(prefix="breast-cancer-"))
    if flags.export_dir is None:
        flags.export_dir = flags.checkpoint_dir / "model"
    data = load_data(flags.data)
    import_tensorflow()
    strategy = tf.distribute.MultiWorkerMirroredStrategy()  # waits for all workers
    stop = watch_sigterm()  # after the strategy, which sets its own handler
    step, stopped = train(flags, data, strategy, index, stop)
    if stopped:
        print(f"stopped: step {step}, saved in {flags.checkpoint_dir}")
        return STOPPED
    if index == 0:
        evaluate(flags, data)
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.exit(main(sys.argv[1:]))
