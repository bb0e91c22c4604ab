"""Synchronous training as TensorFlow 1 programs do it: no step is done before all workers run.

With `--filters` each session sees only the ps and its own worker; without, it waits for all.
"""

import json
import os
import sys

import tensorflow.compat.v1 as tf

LAST_STEP = 20


def main() -> None:
    tf.disable_eager_execution()
    tf.logging.set_verbosity(tf.logging.INFO)
    config = json.loads(os.environ["TF_CONFIG"])
    index = config["task"]["index"]
    cluster = tf.train.ClusterSpec(config["cluster"])
    server = tf.train.Server(cluster, job_name="worker", task_index=index)
    worker = f"/job:worker/task:{index}"
    with tf.device(tf.train.replica_device_setter(cluster=cluster, worker_device=worker)):
        step = tf.train.get_or_create_global_step()
        weight = tf.get_variable("weight", [], initializer=tf.ones_initializer())
        workers = cluster.num_tasks("worker")
        optimizer = tf.train.SyncReplicasOptimizer(
            tf.train.GradientDescentOptimizer(0.01), workers, total_num_replicas=workers
        )
        train = optimizer.minimize(tf.square(weight), global_step=step)
    # Without tokens at the beginning, the chief's first step waits for gradients of all workers.
    hook = optimizer.make_session_run_hook(index == 0, num_tokens=0)
    filters = ["/job:ps", worker] if "--filters" in sys.argv else None
    with tf.train.MonitoredTrainingSession(
        server.target,
        index == 0,
        hooks=[hook, tf.train.StopAtStepHook(last_step=LAST_STEP)],
        config=tf.ConfigProto(device_filters=filters),
        stop_grace_period_secs=1,
        log_step_count_steps=None,
    ) as session:
        while not session.should_stop():
            _, done = session.run([train, step])
    print(f"finished at {done}", flush=True)


if __name__ == "__main__":
    main()
