"""What a child's output shows: its step, whether it trains, whether it hangs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from launcher.task.watch import Watch


@pytest.mark.parametrize(
    ("line", "step", "total_steps"),
    [
        ("step 900", 900, None),
        ("step 900/2000 loss 0.1", 900, 2000),
        ("INFO: Step: 900 of 2000", 900, 2000),
        ("global_step=900, loss=0.25", 900, None),
        ("step #12", 12, None),
        ("STEP 7 / 9", 7, 9),
        ("step " + "9" * 15, 999_999_999_999_999, None),
        ("step 1,050", 1050, None),
        ("step 999,999,999,999,999", 999_999_999_999_999, None),
        ("step 1,050/2,000,000: loss 0.1", 1050, 2_000_000),
        ("tfrun: step 900", 900, None),
        ("I1125 18:00:00.1 140 train.py:9] tfrun: step 900/2000", 900, 2000),
        # TensorFlow 1: LoggingTensorHook, Supervisor, slim, the distributed examples.
        ("INFO:tensorflow:loss = 225.84201, step = 0", 0, None),
        ("INFO:tensorflow:loss = 13.055806, step = 100 (0.272 sec)", 100, None),
        ("INFO:tensorflow:loss = 2.62153, step = 1, precision = 0.0703125", 1, None),
        (
            "INFO:tensorflow:global_step = 101, train loss = 0.14, test loss = 0.5 (3.9 sec)",
            101,
            None,
        ),
        ("INFO:tensorflow:Recording summary at step 500.", 500, None),
        ("INFO:tensorflow:global step 482: loss: 0.8154 (15.70 sec/step)", 482, None),
        ("INFO:tensorflow:Global Step 4: Streaming Accuracy: 0.0 (4.15 sec/step)", 4, None),
        ("1481.9: Worker 0: training step 1202 done (global step: 601)", 601, None),
        (" training step 1202 done (global step: 601): 0.3 0.4 0.0120", 601, None),
        (
            "INFO:tensorflow:Worker 0: 2016-04-13 01:58:40.342404: step 0, loss = 12.97"
            "(0.0 examples/sec; 65.428  sec/batch)",
            0,
            None,
        ),
        # absl and clu, Horovod, Lightning, PyTorch's tutorials, JSON.
        (
            "I1013 22:26:42.807687 139814213846848 triggers.py:223] Step: 100, 11.514 steps/sec",
            100,
            None,
        ),
        ("Step #10\tLoss: 0.345678", 10, None),
        ("Epoch #1\tStep #20\tLoss: 0.345678 (5.0 steps/sec)", 20, None),
        ("Epoch 4, global step 515: 'val_loss' reached 2.66996 (best 2.66996)", 515, None),
        (
            "Epoch 0:  50%|████   | 1007/2015 [04:26<04:26, v_num=Epoch 0, global step 51:"
            " 'val_accuracy' reached 0.35548, saving model to '/out/epoch=0-step=52.ckpt' as top 3",
            51,
            None,
        ),
        ("Epoch [1/5], Step [100/600], Loss: 0.2345", 100, 600),
        ('{"step": 500, "loss": 0.25}', 500, None),
        ("{'loss': 0.3, 'train_step': 7}", 7, None),
    ],
)
def test_a_step_is_read_as_programs_print_it(
    tmp_path: Path, line: str, step: int | None, total_steps: int | None
) -> None:
    watch = Watch(tmp_path / "ready", None)
    watch.line(line)
    assert (watch.global_step, watch.total_steps) == (step, total_steps)


LOOK_ALIKES = [
    "took one step in 0.5 s",
    "steps 5",
    "step",
    "epoch 3",
    # TensorFlow's C++, where a step is one call of session.run.
    "W0000 local_rendezvous.cc:404] Local rendezvous is aborting with status: "
    "ABORTED: Step 52941691906340391 cancelled.",
    "tensorflow.python.framework.errors_impl.AbortedError: Step 144115188075855872",
    "Step was cancelled by an explicit call to `Session::Close()`.",
    "W tensorflow/core/grpc_worker_service.cc:510] RecvTensor cancelled for 20222572366662797",
    # TensorFlow 1: StepCounterHook, GlobalStepWaiterHook, CheckpointSaverHook, Estimator.
    "INFO:tensorflow:global_step/sec: 363.078",
    "INFO:tensorflow:Waiting for global step 500 before starting training.",
    "INFO:tensorflow:Saving checkpoints for 1000 into /tmp/model/model.ckpt.",
    "INFO:tensorflow:Loss for final step: 7.6925917.",
    "INFO:tensorflow:Loss for final step: 7.",
    # Keras, tqdm, Lightning.
    "Epoch 1/10",
    "  12/1563 ━━━━━━━━━━━━━━━━━━━━ 3s 2ms/step - accuracy: 0.1 - loss: 2.3",
    "1563/1563 [==============================] - 3s 2ms/step - loss: 1.2",
    "469/469 - 2s - 4ms/step - accuracy: 0.9106",
    " 45%|████▌     | 45/100 [00:01<00:01, 38.2it/s]",
    "Epoch 0:  22%|██▏       | 4/18 [00:17<01:02,  4.47s/it, loss=10.072, v_num=193315]",
    "`Trainer.fit` stopped: `max_steps=1000` reached.",
    "saving model to '/out/epoch=0-step=52.ckpt'",
    # Times, settings and parts of words.
    "time per step: 12",
    "2ms/step 900",
    "step 0.5 s",
    "step 12ms",
    "step 1,000,000,000,000,000",  # more than a report can hold
    "step: 50%",
    "max step 2000",
    "train until step 2000",
    "max_step: 2000",
    "decay_step=500",
    "--step=5",
    "step_id=5",
    "timestep 12",
    "footstep 3",
]


@pytest.mark.parametrize("line", LOOK_ALIKES)
def test_what_only_looks_like_a_step_is_not_read(tmp_path: Path, line: str) -> None:
    watch = Watch(tmp_path / "ready", None)
    watch.line(line)
    assert (watch.global_step, watch.total_steps) == (None, None)


def test_a_program_that_says_its_step_to_tfrun_is_understood(tmp_path: Path) -> None:
    watch = Watch(tmp_path / "ready", None)
    for line in ("step 1", "tfrun: step 600/2000", "step 1202", "evaluate: step 5/9"):
        watch.line(line)
    assert (watch.global_step, watch.total_steps) == (600, 2000)


@pytest.mark.parametrize(
    ("line", "epoch"),
    [
        ("Epoch 3/10", "3 of 10"),  # Keras
        ("Epoch 00005: early stopping", "5"),
        ("Epoch 5: val_loss improved from inf to 0.31, saving model to a.keras", "5"),
        ("Epoch 0:  22%|██▏       | 4/18 [00:17<01:02,  4.47s/it, v_num=3]", "0"),  # Lightning
        ("Epoch 4, global step 515: 'val_loss' reached 2.66996 (best 2.66996)", "4"),
        ("[epoch 2 of 8] loss 0.3", "2 of 8"),
        ("Epoch [1/5], Step [100/600], Loss: 0.2345", "1 of 5"),
        ("Epoch #1\tStep #20\tLoss: 0.345678 (5.0 steps/sec)", "1"),  # Horovod
        ("Restoring model weights from the end of the best epoch: 3.", ""),
        ("seconds since the epoch 1764093600.5", ""),
        ("num_epoch=10", ""),
        ("epochs: 10", ""),
        ("max epoch 10", ""),
    ],
)
def test_an_epoch_is_read_as_programs_print_it(tmp_path: Path, line: str, epoch: str) -> None:
    watch = Watch(tmp_path / "ready", None)
    watch.line(line)
    assert watch.epoch == epoch


def test_the_total_is_remembered(tmp_path: Path) -> None:
    watch = Watch(tmp_path / "ready", None)
    for line in ("step 1 of 9", "loss 0.5", "step 2"):
        watch.line(line)
    assert (watch.global_step, watch.total_steps) == (2, 9)


@pytest.mark.parametrize(
    ("line", "up"),
    [
        ("step 1", True),
        ("Epoch 1/5", True),
        ("loss: 0.31", True),
        (
            "CreateSession still waiting for response from worker: /job:worker/replica:0/task:1",
            True,
        ),
        ("CreateSession still waiting for response from worker: /job:ps/replica:0/task:0", False),
        ("INFO:tensorflow:Done running local_init_op.", True),
        ("INFO:tensorflow:Running local_init_op.", False),
        ("loading 500 images", False),
        ("model with 3 layers", False),
        ("epoch", False),
    ],
)
def test_a_program_is_up_once_its_output_shows_training(
    tmp_path: Path, line: str, up: bool
) -> None:
    watch = Watch(tmp_path / "ready", None)
    assert not watch.up()
    watch.line(line)
    assert watch.up() == up


def test_a_program_that_makes_the_ready_file_is_up(tmp_path: Path) -> None:
    watch = Watch(tmp_path / "ready", None)
    (tmp_path / "ready").touch()
    assert watch.up()


@pytest.mark.parametrize("change", ["new", "written again", "gone", "first"])
def test_a_new_checkpoint_shows_that_a_program_is_up(tmp_path: Path, change: str) -> None:
    folder = tmp_path / "checkpoints"
    if change != "first":
        folder.mkdir()
        (folder / "model-1").write_text("1")
    watch = Watch(tmp_path / "ready", folder)
    assert not watch.up(), "the old checkpoint is not its own"
    if change == "new":
        (folder / "model-2").touch()
    elif change == "gone":
        (folder / "model-1").unlink()
    elif change == "first":
        folder.mkdir()
        (folder / "model-1").touch()
    else:
        time.sleep(0.02)
        (folder / "model-1").write_text("2")
    assert watch.up()


def test_files_beside_the_checkpoints_do_not_show_that_a_program_is_up(tmp_path: Path) -> None:
    """A chief writes summaries before it restores its model, and an evaluator writes its own."""
    watch = Watch(tmp_path / "ready", tmp_path / "checkpoints")
    (tmp_path / "checkpoints" / "eval").mkdir(parents=True)
    (tmp_path / "checkpoints" / "events.out.tfevents.1790000000.worker-0").touch()
    assert not watch.up()


def test_any_output_is_progress_apart_from_what_tensorflow_repeats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its last step a program may evaluate for hours, and draw a bar that has no end."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    watch = Watch(tmp_path / "ready", None)
    quiet = []
    for line in (
        "Restored step 1",
        None,
        "evaluating batch 7",
        "Restored step 1",
        "",  # a line without its end
        "CreateSession still waiting for response from worker: /job:ps/replica:0/task:0",
        "INFO:tensorflow:Waiting for model to be ready.  Ready_for_local_init_op:  None",
        "INFO:tensorflow:global_step/sec: 0",
        "INFO:tensorflow:Recording summary at step 1.",
        "INFO:tensorflow:global_step/sec: 0.5",
    ):
        now += 1
        if line is not None:
            watch.line(line)
        quiet.append(watch.quiet())
    assert quiet == [0, 1, 0, 0, 0, 1, 2, 3, 4, 0]
