"""Copies code from NFS, 1 ms away, by `cp -r`, by `rsync -a`, and by the launcher's pull.

Each run mounts the export again, because the client must have nothing cached, and writes to a new
folder. A proxy between the mount and the server, not the kernel, adds the delay.
"""

from __future__ import annotations

import atexit
import contextlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from tests.bench.delay import proxy
from tests.bench.measure import Comparison, Seconds, Side
from tests.cluster import compiled, ensure, packages
from tests.cluster.box import kernel_mounts_nfs
from tests.cluster.choose import Cluster
from tests.cluster.commands import run
from tests.cluster.components import MOUNT_PORT, NFS_PORT

REPOSITORY = Path(__file__).resolve().parents[2]
ROUND_TRIP_SECONDS = 0.001
FILES, FILE_BYTES, FOLDERS = 2000, 20_000, 40
LARGE_BYTES = 500_000_000
HANDS = {"cp -r": ["cp", "-r"], "rsync -a": ["rsync", "-a"]}
PULL = """
import sys, threading
from pathlib import Path
from launcher.code.pull import Place, pull
from launcher.shared.sources import Delivery, Source
delivery = Delivery(Source("nfs", "/", "nfs"), False, "", 60)
place = Place(Path(sys.argv[1]), None, Path(sys.argv[2]), {})
print(pull(delivery, place, "", "", threading.Event()))
"""


def comparison() -> Comparison:
    """A tree of many files, and one large file."""
    packages.require({"rsync": "rsync"})
    cluster = ensure()
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=cluster.nfs_folder))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    trees = make_trees(folder)
    path = f"{cluster.nfs_path}/{folder.name}"
    return Comparison(
        "code from NFS, 1 ms away",
        Side("cp -r /mnt/code ., rsync -a /mnt/code .", partial(by_hand, cluster, path, trees)),
        Side("the launcher's pull of the same", partial(by_tfrun, cluster, path, trees)),
        rounds=5,
    )


def make_trees(folder: Path) -> Mapping[str, str]:
    """Makes the trees to pull; returns the name of each tree's folder by the tree's description."""
    noise = random.Random(1)
    for i in range(FILES):
        file = folder / "many" / f"{i % FOLDERS}" / f"{i}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(noise.randbytes(FILE_BYTES))
    (folder / "one").mkdir()
    with (folder / "one" / "large").open("wb") as large:
        for _ in range(LARGE_BYTES // 1_000_000):
            large.write(noise.randbytes(1_000_000))
    return {f"{FILES:,} files of 20 kB": "many", "one file of 500 MB": "one"}


@contextlib.contextmanager
def mounted(cluster: Cluster, path: str) -> Iterator[Path]:
    """The export, mounted read-only over a network with a delay."""
    server, delay = cluster.nfs_server, ROUND_TRIP_SECONDS / 2
    with contextlib.ExitStack() as stack:
        servers = ((server, NFS_PORT), (server, MOUNT_PORT))
        nfs, mount = stack.enter_context(proxy(delay, *servers))
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tfrun-bench-"))
        options = f"ro,vers=3,nolock,proto=tcp,mountproto=tcp,port={nfs},mountport={mount}"
        tool = ["mount", "-t", "nfs"] if kernel_mounts_nfs() else [str(compiled.mount_nfs())]
        run([*tool, f"127.0.0.1:{path}", folder, "-o", options])
        stack.callback(run, ["umount", folder])
        yield Path(folder)


def timed(cluster: Cluster, path: str, tree: str, command: list[str]) -> float:
    """Seconds of one copy. The source and the target are added to the command."""
    with mounted(cluster, path) as mount, tempfile.TemporaryDirectory() as work:
        begin = time.perf_counter()
        subprocess.run(
            [*command, str(mount / tree), work], cwd=REPOSITORY, stdout=subprocess.PIPE, check=True
        )
        return time.perf_counter() - begin


def by_hand(cluster: Cluster, path: str, trees: Mapping[str, str]) -> Seconds:
    """The seconds of each tree with each of HANDS."""
    return {
        f"{words}, {name}": timed(cluster, path, tree, command)
        for words, tree in trees.items()
        for name, command in HANDS.items()
    }


def by_tfrun(cluster: Cluster, path: str, trees: Mapping[str, str]) -> Seconds:
    """The seconds of each tree, pulled once and listed beside each of HANDS."""
    pull = [sys.executable, "-c", PULL]
    times = {words: timed(cluster, path, tree, pull) for words, tree in trees.items()}
    return {f"{words}, {name}": times[words] for words in trees for name in HANDS}
