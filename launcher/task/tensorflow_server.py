"""The built-in TensorFlow server, for tasks that only serve. Runs as a child process.

It sets no signal handlers: Python runs none while the main thread is in join(), and SIGTERM ends
the process without one.
"""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    """Serves at this task's address in the ClusterSpec of TF_CONFIG, for ever."""
    import tensorflow as tf

    config = json.loads(os.environ["TF_CONFIG"])
    task = config["task"]
    server = tf.distribute.Server(
        config["cluster"], job_name=task["type"], task_index=task["index"], protocol="grpc"
    )
    print(f"serving {server.target}", flush=True)
    server.join()


if __name__ == "__main__":
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]  # the folder of this file, whose modules hide others of the same names
    main()
