"""Trains with MultiWorkerMirroredStrategy for ever, and handles no signal.

With the argument `save`, it saves on SIGTERM as TensorFlow's guide shows.
"""

from __future__ import annotations

import sys
import time

import tensorflow as tf

strategy = tf.distribute.MultiWorkerMirroredStrategy()
with strategy.scope():
    step = tf.Variable(0, dtype=tf.int64, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)


def add() -> None:
    one = tf.constant(1, tf.int64)
    context = tf.distribute.get_replica_context()
    step.assign_add(context.all_reduce(tf.distribute.ReduceOp.SUM, one))


train = tf.function(lambda: strategy.run(add))
handler = None
if sys.argv[2:] == ["save"]:
    checkpoint = tf.train.Checkpoint(step=step)
    handler = tf.distribute.experimental.PreemptionCheckpointHandler(
        strategy.cluster_resolver, checkpoint, sys.argv[1]
    )

print(f"start: step {step.numpy()}", flush=True)
while True:
    handler.run(train) if handler else train()
    time.sleep(0.02)
    if step.numpy() % 20 == 0:
        print(f"step {step.numpy()}", flush=True)
