"""Train a small breast-cancer classifier with a coordinator, parameter servers and workers.

This is TensorFlow's ParameterServerStrategy: the chief runs this program and hands out the steps;
the workers compute them and the parameter servers keep the variables. The chief saves now and
then, continues from its last checkpoint, and at the end evaluates and exports the model.

TF_CONFIG says which task this is. A ps or a worker serves until it is killed.
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
import threading
import time
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
class Data:
    """The rows to train on, and the rows held out to evaluate on."""

    features: np.ndarray
    labels: np.ndarray
    held_out_features: np.ndarray
    held_out_labels: np.ndarray


# --- flags ---------------------------------------------------------------------------------------


def parse_flags(argv: list[str], tf_config: str) -> tuple[argparse.Namespace, str]:
    """Read the flags and the kind of this task; a mistake ends the program with exit code 2."""
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
    add_number(training, "--epochs", 500, 1, "passes over the training rows, by all workers")
    add_number(training, "--batch_size", 32, 1, "rows of one step")
    add_number(training, "--learning_rate", 0.01, 0, "step size of the gradient descent")
    add_number(training, "--hidden_units", 16, 1, "width of the hidden layer")
    add_number(training, "--seed", 1, 0, "of the initial weights")
    add_number(
        training,
        "--log_every_steps",
        200,
        1,
        "steps between two lines of progress, two looks at SIGTERM",
    )

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
        help="folder where the chief saves and continues from; durable, required",
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
        job = str(json.loads(tf_config)["task"]["type"])
    except (ValueError, TypeError, KeyError):
        parser.error(f"TF_CONFIG must be JSON with a cluster and a task; got {tf_config!r}")
    if job not in ("chief", "ps", "worker"):
        parser.error(f"TF_CONFIG's task must be the chief, a ps or a worker; got {job}")
    if job == "chief" and flags.checkpoint_dir is None:
        parser.error("--checkpoint_dir must be given to the chief")
    if job == "chief":
        try:
            load_data(flags.data)
        except (OSError, ValueError) as error:
            parser.error(f"--data cannot be read: {error}")
    return flags, job


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

    def make_weights(inputs: int, outputs: int) -> Any:
        limit = math.sqrt(6 / (inputs + outputs))
        return tf.Variable(rng.uniform(-limit, limit, [inputs, outputs]), dtype=tf.float32)

    model = tf.Module()
    model.hidden_weights = make_weights(data.features.shape[1], hidden_units)
    model.hidden_biases = tf.Variable(tf.zeros([hidden_units]))
    model.weights = make_weights(hidden_units, 1)
    model.biases = tf.Variable(tf.zeros([1]))
    return model


def compute_logits(model: Any, features: Any, data: Data) -> Any:
    """What the network makes of raw features: their mean and spread are constants in it."""
    mean, spread = data.features.mean(axis=0), data.features.std(axis=0)
    layer = (features - mean) / np.maximum(spread, 1e-6)
    layer = tf.nn.relu(tf.matmul(layer, model.hidden_weights) + model.hidden_biases)
    return tf.squeeze(tf.matmul(layer, model.weights) + model.biases, axis=1)


# --- training ------------------------------------------------------------------------------------


def train(flags: argparse.Namespace, data: Data, stop: threading.Event) -> int:
    """Hand out steps until the last one, or until stop is set, and return the step reached."""
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    strategy = tf.distribute.ParameterServerStrategy(resolver)
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    ps, workers = (resolver.cluster_spec().num_tasks(job) for job in ("ps", "worker"))
    print(f"chief: {len(data.labels)} rows, {workers} workers, {ps} ps")

    with strategy.scope():  # variables made here are on the ps
        model = build_model(data, flags.hidden_units, flags.seed)
    step = tf.Variable(0, dtype=tf.int64)  # outside the scope: on the chief
    # The chief writes the files, so a ps needs no volume.
    options = tf.train.CheckpointOptions(experimental_io_device="/job:chief/task:0/device:CPU:0")
    manager = tf.train.CheckpointManager(
        tf.train.Checkpoint(model=model, step=step), str(flags.checkpoint_dir), max_to_keep=3
    )
    if manager.latest_checkpoint:
        manager.checkpoint.restore(manager.latest_checkpoint, options).assert_consumed()

    def make_dataset() -> Any:
        """Endless batches; every worker makes and shuffles its own."""
        rows = tf.data.Dataset.from_tensor_slices((data.features, data.labels))
        return rows.shuffle(len(data.labels)).repeat().batch(flags.batch_size)

    @tf.function
    def train_step(batches: Any) -> Any:
        """One step of one worker, at the same time as the others."""
        features, labels = next(batches)
        with tf.GradientTape() as tape:
            logits = compute_logits(model, features, data)
            loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits))
        variables = model.trainable_variables
        for variable, gradient in zip(variables, tape.gradient(loss, variables)):
            variable.assign_sub(flags.learning_rate * gradient)
        return loss

    batches = iter(coordinator.create_per_worker_dataset(make_dataset))
    last_step = math.ceil(flags.epochs * len(data.labels) / flags.batch_size)
    reached = saved = int(step)
    print(f"start: step {reached}/{last_step}")
    saved_at = time.monotonic()
    while reached < last_step and not stop.is_set():
        begin = time.monotonic()
        steps = min(flags.log_every_steps, last_step - reached)
        losses = [coordinator.schedule(train_step, args=(batches,)) for _ in range(steps)]
        coordinator.join()  # another worker repeats the steps of a lost one
        reached = int(step.assign_add(steps))
        now = time.monotonic()
        loss = losses[-1].fetch()
        print(f"step {reached}/{last_step} loss {loss:.4f} ({steps / (now - begin):.0f} steps/s)")
        if now - saved_at >= flags.checkpoint_secs:
            manager.save(reached, options=options)
            saved, saved_at = reached, now
    if reached > saved:
        manager.save(reached, options=options)
    return reached


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


def serve() -> None:
    """Serve as a ps or a worker until killed."""
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    place = (resolver.task_type, resolver.task_id)
    tf.distribute.Server(resolver.cluster_spec(), *place, protocol="grpc").join()


def main(argv: list[str]) -> int:
    """Run one task: serve, or train and evaluate as the chief."""
    flags, job = parse_flags(argv, os.environ.get("TF_CONFIG", ""))
    if job != "chief":
        import_tensorflow()
        serve()
    stop = watch_sigterm()
    flags.export_dir = flags.export_dir or flags.checkpoint_dir / "model"
    data = load_data(flags.data)
    import_tensorflow()
    step = train(flags, data, stop)
    if stop.is_set():
        print(f"stopped: step {step}, saved in {flags.checkpoint_dir}")
        return STOPPED
    evaluate(flags, data)
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.exit(main(sys.argv[1:]))
