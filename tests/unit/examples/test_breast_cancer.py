"""The breast-cancer example's flags, rows and figures; none of these needs TensorFlow."""

from __future__ import annotations

import importlib.util
import itertools
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

np = pytest.importorskip("numpy")  # only the example needs it

PROGRAM = Path(__file__).parents[3] / "examples" / "breast-cancer" / "train.py"
CLUSTER = ["--ps_hosts=a:1", "--worker_hosts=b:1,c:1", "--checkpoint_dir=checkpoints"]
TF_CONFIG = {
    "cluster": {"ps": ["a:1"], "worker": ["b:1", "c:1"]},
    "task": {"type": "worker", "index": 1},
}


def load_program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("breast_cancer_train", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


program = load_program()


def refuse(capsys: pytest.CaptureFixture[str], *argv: str, tf_config: str = "") -> list[str]:
    """The program's messages about these flags, one a line."""
    with pytest.raises(SystemExit) as end:
        program.parse_flags(list(argv), tf_config)
    assert end.value.code == 2
    _, _, mistakes = capsys.readouterr().err.partition("error: ")
    return [line.strip() for line in mistakes.strip().splitlines()]


def test_no_flags_train_in_one_process() -> None:
    flags, task = program.parse_flags([])
    assert (task.distributed, task.chief, task.workers) == (False, True, 1)
    assert flags.data.name == "breast_cancer.csv"


def test_flags_name_the_task() -> None:
    _, task = program.parse_flags([*CLUSTER, "--job_name=worker", "--task_index=1"])
    assert task == program.Task("worker", 1, ("a:1",), ("b:1", "c:1"))
    assert (task.distributed, task.chief, task.workers) == (True, False, 2)


def test_tf_config_names_the_task() -> None:
    _, task = program.parse_flags(["--checkpoint_dir=checkpoints"], json.dumps(TF_CONFIG))
    assert task == program.Task("worker", 1, ("a:1",), ("b:1", "c:1"))


def test_flags_win_over_tf_config() -> None:
    argv = [*CLUSTER, "--job_name=worker", "--task_index=0"]
    _, task = program.parse_flags(argv, json.dumps(TF_CONFIG))
    assert task.index == 0


@pytest.mark.parametrize("tf_config", ["", "{}", '{"cluster": {}}', '{"task": {"type": "worker"}}'])
def test_tf_config_without_a_cluster_is_one_process(tf_config: str) -> None:
    _, task = program.parse_flags([], tf_config)
    assert not task.distributed


def test_a_ps_needs_no_files() -> None:
    argv = ["--ps_hosts=a:1", "--worker_hosts=b:1", "--job_name=ps", "--task_index=0", "--data=no"]
    _, task = program.parse_flags(argv)
    assert task.job == "ps"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--epochs=none"], "--epochs must be an integer of at least 1; got 'none'"),
        (["--batch_size=0"], "--batch_size must be an integer of at least 1; got '0'"),
        (["--learning_rate=nan"], "--learning_rate must be a number of at least 0; got 'nan'"),
        (["--learning_rate=inf"], "--learning_rate must be a number of at least 0; got 'inf'"),
        (["--epoch=3"], "--epoch=3 is unknown"),
        (["--data=nowhere.csv"], "--data cannot be read: nowhere.csv not found."),
        (["--data", str(PROGRAM)], "--data cannot be read: could not convert"),
        (
            ["--export_dir", str(PROGRAM.parent)],
            "--export_dir must be a folder that is new, empty or a",
        ),
        (["--ps_hosts=a:1"], "--worker_hosts (or TF_CONFIG's cluster.worker) must list"),
        (["--worker_hosts=b:1"], "--ps_hosts (or TF_CONFIG's cluster.ps) must list"),
        (CLUSTER, "--job_name (or TF_CONFIG's task type) must be ps or worker; got None"),
        ([*CLUSTER, "--job_name=worker"], "--task_index (or TF_CONFIG's task index) must be given"),
        (
            [*CLUSTER, "--job_name=worker", "--task_index=2"],
            "--task_index (or TF_CONFIG's task index) must be below 2, the number of worker hosts",
        ),
        (
            ["--ps_hosts=a", "--worker_hosts=b:1", "--job_name=ps", "--task_index=0"],
            "a host must be host:port; got a",
        ),
        (
            ["--ps_hosts=a:1", "--worker_hosts=a:1", "--job_name=ps", "--task_index=0"],
            "a host must be listed once; got a:1 2 times",
        ),
        (
            ["--ps_hosts=a:1", "--worker_hosts=b:1", "--job_name=worker", "--task_index=0"],
            "--checkpoint_dir must be given with a cluster",
        ),
    ],
)
def test_a_wrong_flag_is_named(
    capsys: pytest.CaptureFixture[str], argv: list[str], said: str
) -> None:
    assert any(mistake.startswith(said) for mistake in refuse(capsys, *argv))


@pytest.mark.parametrize(
    "tf_config",
    [
        "not JSON",
        "[]",
        '{"cluster": []}',
        '{"cluster": {"ps": 1}}',
        '{"cluster": {"ps": ["a:1"], "worker": ["b:1"]}, "task": []}',
        '{"cluster": {"ps": ["a:1"], "worker": ["b:1"]}, "task": {"type": [], "index": "x"}}',
    ],
)
def test_a_broken_tf_config_is_reported(capsys: pytest.CaptureFixture[str], tf_config: str) -> None:
    (mistake,) = refuse(capsys, tf_config=tf_config)
    assert mistake.startswith("TF_CONFIG must be JSON with a cluster and a task; got ")


def test_a_task_of_a_chief_job_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    jobs = {"ps": ["a:1"], "worker": ["b:1"], "chief": ["c:1"]}
    config = {"cluster": jobs, "task": {"type": "chief", "index": 0}}
    assert refuse(capsys, tf_config=json.dumps(config)) == [
        "TF_CONFIG's cluster must have the jobs ps and worker; got chief",
        "--job_name (or TF_CONFIG's task type) must be ps or worker; got chief",
    ]


def test_all_mistakes_are_reported_together(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--epochs=0", "--seed=-1", "--worker_hosts=b:1", "--job_name=worker", "--task_index=1"]
    assert len(refuse(capsys, *argv, "--data=nowhere.csv", "--what=1")) == 7


def test_the_split_is_stratified_complete_and_always_the_same() -> None:
    data = program.load_data(PROGRAM.with_name("breast_cancer.csv"))
    assert data.features.shape == (455, 30)
    assert data.held_out_features.shape == (114, 30)
    assert data.labels.mean() == pytest.approx(data.held_out_labels.mean(), abs=0.01)
    rows = np.concatenate([data.features, data.held_out_features])
    assert len(np.unique(rows, axis=0)) == 569
    again = program.load_data(PROGRAM.with_name("breast_cancer.csv"))
    assert (again.held_out_features == data.held_out_features).all()


@pytest.mark.parametrize("text", ["x,y\n", "x,y\n1,2\n", "x,y\nnan,0\n1,1\n", "y\n0\n1\n"])
@pytest.mark.filterwarnings("ignore:loadtxt")
def test_a_csv_without_labelled_rows_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "data.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match="the last of each row a label"):
        program.load_data(path)


@pytest.mark.parametrize(
    ("epochs", "rows", "batch_size", "steps"), [(1, 1, 32, 1), (2, 64, 32, 4), (3, 455, 32, 43)]
)
def test_the_number_of_steps_is_the_total_of_all_workers(
    epochs: int, rows: int, batch_size: int, steps: int
) -> None:
    assert program.count_steps(epochs, rows, batch_size) == steps


@pytest.mark.parametrize("batch_size", [1, 3, 5, 12])
def test_batches_are_full_and_see_each_row_once_an_epoch(batch_size: int) -> None:
    rows = np.arange(5) * 2
    batches = program.make_batches(rows, batch_size, [1, 0])
    epochs = np.concatenate(list(itertools.islice(batches, 5))).reshape(-1, 5)
    assert len(epochs) == batch_size
    assert (np.sort(epochs, axis=1) == rows).all()


def test_batches_differ_between_epochs_and_workers() -> None:
    rows = np.arange(50)
    worker0, worker1 = (program.make_batches(rows, 50, [1, index]) for index in (0, 1))
    first = next(worker0)
    assert (first != next(worker0)).any()
    assert (first != next(worker1)).any()


@pytest.mark.parametrize(
    ("probabilities", "auc", "accuracy"),
    [
        ([0.9, 0.8, 0.2, 0.1], 1.0, 1.0),
        ([0.1, 0.2, 0.8, 0.9], 0.0, 0.0),
        ([0.7, 0.7, 0.7, 0.7], 0.5, 0.5),
        ([0.9, 0.4, 0.6, 0.1], 0.75, 0.5),
    ],
)
def test_auc_and_accuracy_are_computed_from_probabilities(
    probabilities: list[float], auc: float, accuracy: float
) -> None:
    labels, values = np.array([1.0, 1.0, 0.0, 0.0]), np.array(probabilities)
    assert program.compute_auc(labels, values) == auc
    assert program.compute_accuracy(labels, values) == accuracy
