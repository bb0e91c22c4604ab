"""How code reaches the tasks on the real Kubernetes: whole and the same everywhere, or refused.

The NFS server and its faults are real. Workers run a program that prints which code it has.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.code import copy
from tests.cluster.box import Box
from tests.cluster.release import Folders, Release, put_on_nfs
from tests.e2e.kills import kill_container
from tests.e2e.runs import finish, task_pods, wait_until_tasks_are_gone
from tests.lines import Lines

pytestmark = pytest.mark.cluster

SHOW = Path(__file__).parent / "programs" / "show.py"
STAY: dict[str, Any] = {
    "program.command": ["python", "show.py", "stay"],
    "chiefFirst": False,
    "grace": 1,
    "restarts.limit": 0,
    "worker.resources": {},
    "ps.resources": {},
}
FILES = 300
COMING = 20
IGNORED = (".git/HEAD", "__pycache__/show.pyc", "lib/__pycache__/x.pyc", "a.log", "scratch/x")


def make_tree(folder: Path) -> None:
    """A tree with what people have in their folders, and with unusual names and files."""
    folder.mkdir()
    shutil.copy(SHOW, folder)
    (folder / ".tfrunignore").write_text("*.log\n/scratch/\n")
    for name in (b"with space", b"two\nlines", b"\xff\xfe", "größe".encode(), b"-rf"):
        (folder / os.fsdecode(name)).mkdir()
        (folder / os.fsdecode(name) / os.fsdecode(name)).write_bytes(name)
    for i in range(FILES):
        (folder / "lib" / f"{i % 7}").mkdir(parents=True, exist_ok=True)
        (folder / "lib" / f"{i % 7}" / f"{i}.py").write_text(f"{i}\n" * i)
    (folder / "empty").touch()
    (folder / "run").write_text("#!/bin/sh\n")
    (folder / "run").chmod(0o755)
    (folder / "link").symlink_to("lib/1/1.py")
    (folder / "lib" / "up").symlink_to("../run")
    (folder / "data").symlink_to("/data/elsewhere")
    with (folder / "sparse").open("wb") as sparse:
        sparse.truncate(30_000_000)
        sparse.seek(20_000_000)
        sparse.write(b"data")


def shown(folder: Path) -> str:
    """What show.py prints about a folder of this machine."""
    done = subprocess.run(
        [sys.executable, SHOW], cwd=folder, env={}, capture_output=True, text=True, check=True
    )
    return done.stdout.split()[1]


def nfs(folders: Folders) -> dict[str, Any]:
    return {key: value for key, value in folders.settings.items() if key.startswith("code.")}


def follow(release: Release, pod: str) -> Lines:
    """The log of the pod's current container, from its start."""
    release.kubectl("wait", "--for=create", f"pod/{pod}", "--timeout=60s")
    ready = "--for=jsonpath={.status.containerStatuses[0].state.running}"
    release.kubectl("wait", f"pod/{pod}", ready, "--timeout=60s")
    return Lines(release.logs(pod))


@pytest.fixture
def folders(release: Release, tmp_path: Path) -> Folders:
    make_tree(tmp_path / "tree")
    return put_on_nfs(release.cluster, release.namespace, tmp_path / "tree")


def test_a_tree_arrives_whole_and_only_edited_files_are_read_again(
    release: Release, folders: Folders
) -> None:
    whole = shown(folders.code)
    for name in IGNORED:
        (folders.code / name).parent.mkdir(exist_ok=True)
        (folders.code / name).write_text("not for tasks")
    settings = {**STAY, **nfs(folders), "restarts.limit": 1}
    release.install([], settings)
    with follow(release, "run-worker-0") as chief, follow(release, "run-worker-1") as worker:
        found = chief.wait_for(r"^shown (\w+) (\w+)$")
        assert found[1] == whole
        assert worker.wait_for("^shown .*")[0] == found[0]
        for lines in (chief, worker):
            read = lines.wait_for(r"read (\d+) of (\d+) files, .* of code\.nfs")
            assert read[1] == read[2]
        digest = found[2]

        # A restarted container finds its copy and reads no file again.
        pods = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in task_pods(release)}
        kill_container(release, "run-worker-1")
        worker.wait()
        path = "{.metadata.name} {.status.containerStatuses[0].restartCount}"
        release.wait_for(["pod", "run-worker-1"], path, " 1$", 60)
        with follow(release, "run-worker-1") as again:
            again.wait_for(r"read 0 of \d+ files, 0\.0 MB")
            assert again.wait_for("^shown .*")[0] == found[0]

            # After an edit a new attempt reads only the edited files.
            (folders.code / "lib" / "1" / "1.py").write_text("edited\n")
            (folders.code / "lib" / "new.py").write_text("new\n")
            (folders.code / "lib" / "2" / "2.py").unlink()
            before = len(chief.lines), len(again.lines)
            begin = time.monotonic()
            release.upgrade([], {**settings, "run.attempt": 2})
            edited = chief.wait_for(r"^shown (\w+) (\w+)$", before[0])
            seconds = time.monotonic() - begin
            assert again.wait_for("^shown .*", before[1])[0] == edited[0]
            for lines, at in ((chief, before[0]), (again, before[1])):
                read = lines.wait_for(r"read 2 of \d+ files", at)
                print(f"edited, running again after {seconds:.1f} s: {read.string}")
        check_that_no_edit_gets_under_a_run(release, folders, edited)
        for name in IGNORED:
            (folders.code / name).unlink()
            if (folders.code / name).parent != folders.code:
                (folders.code / name).parent.rmdir()
        assert edited[1] == shown(folders.code) != whole
        assert edited[2] != digest
        now = {p["metadata"]["name"]: p["metadata"]["uid"] for p in task_pods(release)}
        assert {**now, "run-worker-1": pods["run-worker-1"]} == pods

        # A run whose code is pinned by its digest refuses other code.
        release.upgrade([], {**settings, "code.digest": digest})
        end, _ = finish(release)
    assert (end.condition, end.exit_code) == ("Failed", 66)
    assert f"must have the digest that code.digest says, {digest}" in end.message["reason"]


def check_that_no_edit_gets_under_a_run(
    release: Release, folders: Folders, running: re.Match[str]
) -> None:
    """A new pod that finds other code than the others run waits until it finds their code."""
    file = folders.code / "lib" / "new.py"
    text = file.read_text()
    file.write_text("not now\n")
    release.kubectl("delete", "pod", "run-worker-1", "--wait=false")
    with Lines(release.logs(release.controller())) as controller:
        controller.wait_for(
            "the code of all tasks must be the same: worker-1 has [0-9a-f]{32}, the run began with "
            f"{running[2]}; worker-1 pulls it again"
        )
        file.write_text(text)
        controller.wait_for(r"generation \d+: worker-1 starts")
    with follow(release, "run-worker-1") as worker:
        assert worker.wait_for("^shown .*")[0] == running[0]


def test_a_link_or_a_file_that_cannot_be_copied_is_named(
    release: Release, folders: Folders
) -> None:
    (folders.code / "lib" / "shared").symlink_to("../../shared")
    settings = {**STAY, **nfs(folders)}
    release.install([], settings)
    end, _ = finish(release)
    assert (end.condition, end.exit_code) == ("Failed", 66)
    assert "the link lib/shared leads to ../../shared, outside of it" in end.message["reason"]

    (folders.code / "lib" / "shared").unlink()
    (folders.code / "lib" / "secret.py").touch(mode=0o600)
    release.upgrade([], {**settings, "run.attempt": 2})
    end, _ = finish(release)
    assert (end.condition, end.exit_code) == ("Failed", 66)
    source = f"{settings['code.nfs.server']}:{settings['code.nfs.path']}"
    expected = f"code.nfs {source} cannot be copied: Permission denied: user 1000 may not read "
    assert expected + "lib/secret.py" in end.message["reason"]

    # Files that come and go during the copy, like another run's checkpoints, are no error.
    (folders.code / "lib" / "secret.py").unlink()
    whole = shown(folders.code)
    wait_until_tasks_are_gone(release)
    stopped = threading.Event()
    churn = threading.Thread(target=come_and_go, args=[folders.code / "lib", stopped])
    churn.start()
    try:
        release.upgrade([], {**settings, "run.attempt": 3, "worker.replicas": 1})
        with follow(release, "run-worker-0") as chief:
            chief.wait_for(r"lib/\d+\.tmp changed while it was copied")
            stopped.set()
            assert chief.wait_for(r"^shown (\w+)")[1] == whole
    finally:
        stopped.set()
        churn.join()


def come_and_go(folder: Path, stopped: threading.Event) -> None:
    """Creates files and removes each of them a little later, until `stopped` is set."""
    for i in itertools.count():
        (folder / f"{i}.tmp").touch()
        if i >= COMING:
            (folder / f"{i - COMING}.tmp").unlink()
        if stopped.wait(0.001):
            break
    for left in folder.glob("*.tmp"):
        left.unlink()


def test_fifty_thousand_files_are_pulled_whole(
    release: Release, folders: Folders, tmp_path: Path
) -> None:
    for i in range(50_000):
        if i % 200 == 0:
            (folders.code / f"many-{i // 200}").mkdir()
        (folders.code / f"many-{i // 200}" / f"{i}").touch()
    origin = copy.Origin(folders.code, "here", "here")
    digest = copy.copy(origin, tmp_path / "work" / "code", 60, threading.Event())
    release.install([], {**STAY, **nfs(folders), "worker.replicas": 1})
    with follow(release, "run-worker-0") as chief:
        assert chief.wait_for(r"^shown \w+ (\w+)")[1] == digest
        read = chief.wait_for(r"read (\d+) of (\d+) files")
    assert int(read[1]) == int(read[2]) > 50_000


@pytest.fixture
def box(release: Release) -> Iterator[Box]:
    """The box, whose NFS server a test can stop. It is started again afterwards."""
    box = Box(name=release.cluster.kubeconfig.parent.name)
    if not box.alive():
        pytest.skip("stops the NFS server: needs the Kubernetes in a box")
    yield box
    box.nfs_start()


def test_a_pull_waits_for_an_nfs_server_that_is_away_but_not_for_ever(
    release: Release, folders: Folders, box: Box
) -> None:
    settings = {**STAY, **nfs(folders)}
    release.install([], settings)
    with follow(release, "run-worker-0") as chief:
        chief.wait_for("^shown ")
        with (folders.code / "large").open("wb") as large:
            for i in range(400):
                large.write(bytes([i % 256]) * 1_000_000)
        whole = shown(folders.code)
        begun = len(chief.lines)
        release.upgrade([], {**settings, "run.attempt": 2})
        under_way = "until ls -d /tfrun/work/code.new-*/large; do sleep 0.01; done 2>/dev/null"
        release.kubectl("exec", "run-worker-0", "--", "sh", "-c", under_way)
        box.nfs_stop()
        assert not [line for line in chief.lines[begun:] if "read" in line], (
            "the pull ended before the NFS server stopped"
        )
        box.nfs_start()
        assert chief.wait_for(r"^shown (\w+)", begun)[1] == whole

        box.nfs_stop()
        release.upgrade([], {**settings, "run.attempt": 3, "code.timeout": 5})
        end, _ = finish(release)
    server = settings["code.nfs.server"]
    assert (end.condition, end.exit_code) == ("Failed", 74)
    assert re.search(rf"{re.escape(server)} has not answered for \d+ s", end.message["reason"])
    assert f"code.nfs {server}:{settings['code.nfs.path']}" in end.message["reason"]


def test_a_run_gets_its_code_from_the_values_and_from_an_archive(
    release: Release, folders: Folders, tmp_path: Path
) -> None:
    (tmp_path / "small" / "lib").mkdir(parents=True)
    files = {"show.py": SHOW.read_text(), "lib/größe.py": "print('<&>')\n"}
    for name, text in files.items():
        (tmp_path / "small" / name).write_text(text)
    origin = copy.Origin(tmp_path / "small", "here", "here")
    digest = copy.copy(origin, tmp_path / "work" / "code", 60, threading.Event())
    settings = {**STAY, "program.command": ["python", "show.py"], "code.inline": files}
    release.install([], settings)
    end, _ = finish(release)
    assert (end.condition, end.exit_code) == ("Complete", 0)
    assert end.message["lastLines"] == [f"shown {shown(tmp_path / 'small')} {digest}"]

    file = folders.data / "code.tar.gz"
    subprocess.run(["tar", "-czf", file, "-C", tmp_path / "small", "."], check=True)
    release.kubectl("create", "secret", "generic", "login", "--from-literal=token=abc")
    volume = {key: value for key, value in folders.settings.items() if key.startswith("volumes")}
    archive = {
        **{key: value for key, value in settings.items() if key != "code.inline"},
        **volume,
        "volumes[0].name": "data",
        "volumes[0].mountPath": "/data",
        "code.archive.url": "file:///data/code.tar.gz",
        "code.archive.sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "code.secret": "login",
        "code.digest": digest,
    }
    release.upgrade([], archive)
    end, _ = finish(release)
    assert (end.condition, end.exit_code) == ("Complete", 0)
    assert end.message["lastLines"] == [f"shown {shown(tmp_path / 'small')} {digest}"]

    release.upgrade([], {**archive, "code.archive.sha256": "0" * 64})
    end, _ = finish(release)
    assert (end.condition, end.exit_code) == ("Failed", 66)
    assert "must have the SHA-256 of code.archive.sha256" in end.message["reason"]
