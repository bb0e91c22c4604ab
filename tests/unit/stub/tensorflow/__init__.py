"""A stub of TensorFlow, so that fast tests need not import the real one.

It has only the server that `launcher.task.tensorflow_server` needs. The server takes STUB_SECONDS
to start, listens, and answers nothing.
"""

import os
import signal
import socket
import time
from typing import Any


class _Server:
    def __init__(
        self, cluster: dict[str, list[str]], job_name: str, task_index: int, protocol: str
    ) -> None:
        time.sleep(float(os.environ.get("STUB_SECONDS", "0")))
        host, _, port = cluster[job_name][task_index].rpartition(":")
        self.target = f"{protocol}://{host}:{port}"
        self._socket = socket.create_server((host, int(port)))

    def join(self) -> None:
        signal.pause()


class distribute:  # noqa: N801
    Server: Any = _Server
