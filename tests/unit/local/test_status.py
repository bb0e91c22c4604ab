"""`launcher status`: the lines that it prints, and how it asks the controller by kubectl."""

from __future__ import annotations

import contextlib
import http.server
import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launcher.controller.status import PATH, document
from launcher.decisions import state as decisions_state
from launcher.decisions import step
from launcher.local import status
from launcher.shared.exits import ExitCode, LauncherError
from launcher.shared.protocol import ChildReport
from tests.unit.controller.states import RUNNING, state
from tests.unit.jobs import job


def test_the_lines_show_the_run_its_tasks_and_the_last_cause() -> None:
    found = document(
        state(RUNNING, generation=3, charges=(50.0,), cause="ps-0: exit code 1", moved_at=98.0),
        100.0,
    )
    assert status.show(found) == [
        "mnist: leading, generation 3, restarts 1 of 2, run 0123456789ab for 60 s, "
        "progress 2 s ago",
        "  the cause of the last restart: ps-0: exit code 1",
        "  ps-0      not heard from",
        "  worker-0  not heard from",
        "  worker-1  running, epoch 2 of 3, step 5 of 9",
    ]


@pytest.mark.parametrize(
    ("can_start", "said"), [(True, "waiting to join"), (False, "pulling the code")]
)
def test_a_task_that_waits_to_join_is_shown(can_start: bool, said: str) -> None:
    small = job(replicas={"ps": 1, "worker": 1})
    found = document(state(can_start=can_start, job=small), 100.0)
    assert status.show(found)[3] == f"  worker-1  {said}"


def test_the_lines_show_a_failed_and_silent_task() -> None:
    found = document(state(ChildReport(3, 42)), 200.0)
    assert status.show(found)[3] == "  worker-1  failed, exit code 42, silent for 105 s"


def test_the_end_of_a_run_is_one_line() -> None:
    end = {"phase": "Failed", "reason": "worker-1 failed: exit code 42", "exitCode": 42}
    assert status.show({"end": end}) == ["Failed: worker-1 failed: exit code 42 (exit code 42)"]


def test_a_run_without_reports_is_shown() -> None:
    begun, _ = step.step(state(seats={}), decisions_state.Tick(), 41.0)
    assert status.show(document(begun, 41.0))[0].startswith("mnist: leading")


# A script replaces kubectl. It runs the command of `kubectl exec` for real, but without the
# launcher, because a controller's pod does not carry the package `local`.


PROXY = "http_proxy=http://127.0.0.1:1"  # some companies' images set such a proxy


def kubectl(folder: Path, jobs: list[Any], pods: list[Any]) -> list[str]:
    (folder / "jobs").write_text(json.dumps({"items": jobs}))
    (folder / "pods").write_text(json.dumps({"items": pods}))
    script = folder / "kubectl"
    script.write_text(
        f"""#!/bin/sh
        cd {folder}
        case "$1 $2" in
            "get job") cat jobs ;;
            "get pod") cat pods ;;
            "exec job/mnist-controller-2") cd /; shift 3; exec env -i {PROXY} "$@" ;;
            *) echo "no such thing" >&2; exit 1 ;;
        esac
        """
    )
    script.chmod(0o755)
    return [str(script)]


def controller(number: int, condition: str = "", port: int = 1) -> dict[str, Any]:
    command = [sys.executable, "-m", "launcher", "controller"]
    container = {"command": command, "ports": [{"containerPort": port}]}
    return {
        "metadata": {
            "name": f"mnist-controller-{number}",
            "creationTimestamp": f"2026-01-0{number}T00:00:00Z",
        },
        "spec": {"template": {"spec": {"containers": [container]}}},
        "status": {"conditions": [{"type": condition}]} if condition else {},
    }


def pod(day: int, message: str, code: int = 42) -> dict[str, Any]:
    ended = {"terminated": {"message": message, "exitCode": code}}
    return {
        "metadata": {"creationTimestamp": f"2026-01-0{day}T00:00:00Z"},
        "status": {"containerStatuses": [{"state": ended}]},
    }


@contextlib.contextmanager
def answering(*documents: dict[str, Any]) -> Iterator[int]:
    """The port of a controller that answers with each of these documents once, and then stops."""
    left = list(documents)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == PATH
            body = json.dumps(left.pop(0)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            if not left:
                server.socket.close()

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:

        def serve() -> None:
            for _ in documents:
                server.handle_request()

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.server_port
        thread.join()


# What kubectl 1.34 prints without a cluster, shortened.
NO_CLUSTER = """E1125 20:29:55.92 6846 memcache.go:265] "Unhandled Error" err="couldn't get ..."
E1125 20:29:55.93 6846 memcache.go:265] "Unhandled Error" err="couldn't get ..."
The connection to the server localhost:8080 was refused - did you specify the right host or port?
"""


def test_kubectl_without_a_cluster_is_told_in_one_line(tmp_path: Path) -> None:
    script = tmp_path / "kubectl"
    script.write_text(f"#!/bin/sh\ncat >&2 <<'E'\n{NO_CLUSTER}E\nexit 1\n")
    script.chmod(0o755)
    with pytest.raises(LauncherError) as error:
        status.run("mnist", [str(script)], None, as_json=False, watch=False)
    assert error.value.exit_code is ExitCode.TRY_AGAIN
    assert error.value.reason == (
        f"{script} failed (The connection to the server localhost:8080 was refused - did you "
        "specify the right host or port?): choose the cluster by --context and the namespace by "
        "--namespace, or ask the controller by --address"
    )


def test_the_newest_controller_is_asked_in_its_own_pod(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with answering(document(state(RUNNING), 100.0)) as port:
        command = kubectl(tmp_path, [controller(1, "Complete"), controller(2, port=port)], [])
        status.run("mnist", command, None, as_json=False, watch=False)
    assert (
        capfd.readouterr().out.splitlines()[-1] == "  worker-1  running, epoch 2 of 3, step 5 of 9"
    )


def test_watch_prints_each_change_until_the_controller_is_gone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "WATCH_SECONDS", 0.01)
    later = replace(RUNNING, global_step=6)
    told = [document(state(child), 100.0) for child in (RUNNING, RUNNING, later)]
    with answering(*told) as port:
        command = kubectl(tmp_path, [controller(2, port=port)], [])
        status.run("mnist", command, None, as_json=False, watch=True)
    printed = capfd.readouterr()
    steps = [line for line in printed.out.splitlines() if "running" in line]
    assert steps == [f"  worker-1  running, epoch 2 of 3, step {step} of 9" for step in (5, 6)]
    assert "the controller does not answer: " in printed.err
    assert "the controller does not run: it has ended, or has not started yet" in printed.err


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ('{"phase": "Failed", "reason": "why", "exitCode": 42}', "Failed: why (exit code 42)"),
        ("what Python says", "Ended: what Python says (exit code 42)"),
    ],
)
def test_the_end_is_read_from_the_termination_message(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], message: str, said: str
) -> None:
    pods = [pod(1, '{"reason": "an older one"}'), pod(2, message)]
    command = kubectl(tmp_path, [controller(2, "Failed")], pods)
    status.run("mnist", command, None, as_json=False, watch=False)
    assert capfd.readouterr().out.splitlines() == [said]


def test_a_controller_that_has_not_started_is_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status.run("mnist", kubectl(tmp_path, [controller(2)], []), None, as_json=False, watch=False)
    assert "Unknown: its controller has not started" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("jobs", "command", "code", "words"),
    [
        ([], None, ExitCode.CONFIGURATION, "there is no release mnist in this namespace"),
        ([], ["no-such-kubectl"], ExitCode.CONFIGURATION, "no-such-kubectl must be installed"),
        ([], ["false"], ExitCode.TRY_AGAIN, r"^false failed \(exit code 1\): choose the "),
    ],
)
def test_a_missing_release_or_kubectl_is_named(
    tmp_path: Path, jobs: list[Any], command: list[str] | None, code: ExitCode, words: str
) -> None:
    with pytest.raises(LauncherError, match=words) as error:
        status.run("mnist", command or kubectl(tmp_path, jobs, []), None, False, False)
    assert error.value.exit_code is code
