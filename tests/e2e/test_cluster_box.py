"""The Kubernetes in a box starts, serves NFS, recovers from kills, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import ClusterError, binaries, image
from tests.cluster.box import TOOLS, Box
from tests.cluster.cgroups import cgroup_mounts
from tests.cluster.plan import NFS_EXPORT

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(os.geteuid() != 0, reason="the Kubernetes in a box needs root"),
]

# A box beside the one that other tests and people use.
BOX = Box(name="test", tensorflow=False)
START = f"from tests.cluster.box import Box; {BOX!r}.up()"
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "probe"},
    "spec": {
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "volumeMounts": [{"name": "nfs", "mountPath": "/nfs"}]}],
        "volumes": [{"name": "nfs", "nfs": {"path": NFS_EXPORT}}],
    },
}


@pytest.fixture(autouse=True)
def _no_box_afterwards() -> Iterator[None]:
    BOX.down()
    yield
    BOX.down()


def traces() -> dict[str, set[str]]:
    """What a box changes on this machine: mounts, links, cgroups and iptables rules."""
    links = json.loads(subprocess.check_output(["ip", "-json", "link"]))
    groups = [root / BOX.cgroup for root in cgroup_mounts("cgroup", "cgroup2")]
    rules = subprocess.check_output(["iptables", "--table", "nat", "--list-rules"], text=True)
    return {
        "mounts": set(Path("/proc/mounts").read_text().splitlines()),
        "links": {link["ifname"] for link in links if link["ifname"] == BOX.link},
        "cgroups": {str(group) for group in groups if group.exists()},
        "rules": set(rules.splitlines()),
    }


def namespace(pid: int | str) -> str:
    """A process's PID namespace."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return "gone"


def kubectl(*words: str, stdin: str = "") -> str:
    command = [str(binaries.tool("kubectl")), f"--kubeconfig={BOX.kubeconfig}", *words]
    return subprocess.run(command, input=stdin, text=True, check=True, capture_output=True).stdout


def test_the_box_runs_a_pod_with_an_nfs_volume_and_leaves_nothing() -> None:
    before = traces()
    begin = time.monotonic()
    plan = BOX.up()
    first = time.monotonic() - begin
    assert BOX.up() == plan
    assert time.monotonic() - begin < 1.5 * first, "a running box must not start again"
    process = BOX.process()
    assert process
    inside = namespace(process.pid)

    pod = json.loads(json.dumps(POD))
    pod["spec"]["containers"][0]["image"] = image.pause().name
    pod["spec"]["volumes"][0]["nfs"]["server"] = plan.node.ip
    kubectl("apply", "-f", "-", stdin=json.dumps(pod))
    kubectl("wait", "--for=condition=Ready", "pod/probe", "--timeout=30s")

    BOX.down()
    assert traces() == before
    assert inside not in {namespace(pid) for pid in os.listdir("/proc") if pid.isdigit()}


def test_the_box_starts_after_a_start_that_was_killed() -> None:
    before = traces()
    process = subprocess.Popen([sys.executable, "-c", START], stderr=subprocess.PIPE, text=True)
    assert process.stderr
    for line in process.stderr:
        if "etcd:" in line:  # half-way: processes run, but the API server does not answer yet
            process.kill()
            break
    process.wait()
    process.stderr.close()

    BOX.up()
    assert kubectl("get", "nodes", "--output=name").split() == ["node/node-1"]
    BOX.down()
    assert traces() == before


def test_the_box_starts_again_after_its_first_process_was_killed() -> None:
    BOX.up()
    process = BOX.process()
    assert process
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    BOX.up()
    assert BOX.process() != process
    assert kubectl("get", "nodes", "--output=name").split() == ["node/node-1"]


def test_two_starts_at_once_make_one_box() -> None:
    starts = [
        subprocess.Popen([sys.executable, "-c", START], stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate()[1] for process in starts]
    assert [process.returncode for process in starts] == [0, 0]
    assert sum("starting the Kubernetes" in text for text in said) == 1


def test_a_component_that_fails_is_named_with_its_last_lines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = traces()
    for tool in binaries.tools(*TOOLS).iterdir():
        (tmp_path / tool.name).symlink_to(tool)
    broken = tmp_path / "etcd"
    broken.unlink()
    broken.write_text("#!/bin/sh\necho no space left for this test\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(binaries, "tools", lambda *_: tmp_path)
    with pytest.raises(ClusterError, match=r"(?s)etcd ended with 3.*no space left for this test"):
        BOX.up()
    assert traces() == before


FILES = """
import os, pathlib, sys, time
os.setgid(1000); os.setuid(1000)
os.chdir(sys.argv[1])
new = pathlib.Path("run"); new.mkdir(); os.chdir(new)
file = pathlib.Path("checkpoint")
file.with_suffix(".tmp").write_bytes(b"1" * 3_000_000)
file.with_suffix(".tmp").rename(file)
assert file.read_bytes() == b"1" * 3_000_000
assert (file.stat().st_uid, file.stat().st_gid) == (1000, 1000)
with open("events", "ab") as events:
    for _ in range(10):
        events.write(b"x" * 100); events.flush()
        os.fsync(events.fileno())
with open("events", "ab") as events:
    events.write(b"y")
assert os.path.getsize("events") == 1001
file.write_text("short"); assert file.read_text() == "short"
os.truncate(file, 2); assert file.read_text() == "sh"
os.symlink("checkpoint", "latest"); assert os.readlink("latest") == "checkpoint"
os.chmod(file, 0o640); assert file.stat().st_mode & 0o777 == 0o640
os.utime(file, (1, 2)); assert file.stat().st_mtime == 2
held = open("held", "w+"); held.write("still"); held.flush()
os.unlink("held"); held.seek(0); assert held.read() == "still"; held.close()
try: open(file, "x")
except FileExistsError: pass
else: raise SystemExit("opened what exists")
try: open("../of-root", "w")
except PermissionError: pass
else: raise SystemExit("wrote what is root's")
assert os.statvfs(".").f_blocks > 0
# close() does not wait until the file system has let go of a file that was removed while open.
while any(name.startswith(".fuse_hidden") for name in os.listdir(".")): time.sleep(0.01)
assert sorted(os.listdir(".")) == ["checkpoint", "events", "latest"], os.listdir(".")
"""


def inside(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(BOX.enter(*command), capture_output=True, text=True, timeout=30)


def test_the_nfs_server_supports_the_file_operations_of_an_ordinary_user() -> None:
    plan = BOX.up()
    source, folder = f"{plan.node.ip}:{NFS_EXPORT}", "/run/nfs-test"
    export = BOX.nfs_folder
    for leftover in export.glob("*"):
        subprocess.run(["rm", "-rf", leftover], check=True)
    (export / "of-root").write_text("root's")
    (export / "of-root").chmod(0o644)
    inside("mkdir", folder)
    done = inside("mount", "-t", "nfs", source, folder)
    assert done.returncode == 0, done.stderr
    done = inside("python3", "-c", FILES, folder)
    assert done.returncode == 0, done.stderr
    assert (export / "run/checkpoint").read_text() == "sh"

    # The box sees what the machine writes. A read waits until the server is back.
    (export / "new").write_text("from outside")
    assert inside("cat", f"{folder}/new").stdout == "from outside"
    BOX.nfs_stop()
    waiting = subprocess.Popen(BOX.enter("cat", f"{folder}/new"), stdout=subprocess.PIPE, text=True)
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.communicate(timeout=2)
    BOX.nfs_start()
    assert waiting.communicate(timeout=20)[0] == "from outside"

    assert inside("umount", folder).returncode == 0
    assert inside("mount", "-t", "nfs", "-o", "ro", source, folder).returncode == 0
    assert "Read-only file system" in inside("touch", f"{folder}/x").stderr
    assert inside("umount", folder).returncode == 0


def test_a_failed_nfs_mount_names_its_cause() -> None:
    plan = BOX.up()
    folder = "/run/nfs-test"
    inside("mkdir", folder)
    start = time.monotonic()
    for source in (f"{plan.node.ip}:/missing", f"{plan.host_ip}:/export", "192.0.2.1:/export"):
        done = inside("mount", "-t", "nfs", source, folder)
        assert done.returncode == 32
        assert source in done.stderr
    assert time.monotonic() - start < 30
