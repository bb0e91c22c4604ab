"""Shows the state of a run: the controller's status, or how the Job ended.

`run` is the subcommand, `show` formats a status. `run` asks through kubectl, with the user's own
configuration and rights: `kubectl exec` asks from inside the controller's pod, so no port has to be
open to the user.
"""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from launcher.controller.status import PATH
from launcher.shared.exits import End, ExitCode, LauncherError, Phase, describe, from_wait
from launcher.shared.log import say

WATCH_SECONDS = 1.0
TIMEOUT_SECONDS = 10.0
# Runs in the controller's pod, which does not have this package. Its arguments are the port and, to
# repeat the question, the seconds between two answers.
ASK = f"""
import http.client, sys, time
try:
    while True:
        port, seconds = int(sys.argv[1]), {TIMEOUT_SECONDS}
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
        connection.request("GET", "{PATH}")
        print(connection.getresponse().read().decode(), flush=True)
        connection.close()
        if len(sys.argv) < 3:
            break
        time.sleep(float(sys.argv[2]))
except (OSError, http.client.HTTPException) as error:
    sys.exit(f"the controller does not answer: {{error}}")
""".strip()


def show(found: Mapping[str, Any]) -> list[str]:
    """The lines of a status: the run first, then each task."""
    if "end" in found:
        return [_ended(found["end"])]
    ago = found["progressAgo"]
    lines = [
        f"{found['release']}: {found['phase']}, generation {found['generation']}, "
        f"restarts {found['restarts']} of {found['restartLimit']}, "
        f"run {found['run']} for {found['seconds']} s"
        + ("" if ago is None else f", progress {ago} s ago")
    ]
    if found.get("cause"):
        lines.append(f"  the cause of the last restart: {found['cause']}")
    width = max(len(task["task"]) for task in found["tasks"])
    for task in found["tasks"]:
        line = f"  {task['task']:<{width}}  {task['state']}"
        line += f", epoch {task['epoch']}" if task["epoch"] else ""
        if task["globalStep"] is not None:
            line += f", step {task['globalStep']}"
            line += f" of {task['totalSteps']}" if task["totalSteps"] else ""
        if task["exitCode"]:
            line += f", exit code {task['exitCode']}"
        if task["ago"] is not None and task["ago"] > 30:
            line += f", silent for {task['ago']} s"
        lines.append(line)
    return lines


def _ended(end: Mapping[str, Any]) -> str:
    phase, exit_code = end.get("phase", "Ended"), end.get("exitCode", "?")
    return f"{phase}: {end.get('reason', '')} (exit code {exit_code})"


def run(
    release: str, kubectl: Sequence[str], address: str | None, as_json: bool, watch: bool
) -> End:
    """Prints the status of a release, or of the controller at an address.

    With `watch` it goes on and prints every change. Raises LauncherError if nothing answers.
    """
    before: object = None
    statuses = _asked(address, watch) if address else _through(release, kubectl, watch)
    for found in statuses:
        lines = [json.dumps(found)] if as_json else show(found)
        # Passing time alone is no change.
        seen = json.dumps({**found, "seconds": 0, "progressAgo": 0, "tasks": _timeless(found)})
        if seen != before:
            before = seen
            sys.stdout.write("\n".join(lines) + "\n")
            sys.stdout.flush()
    return End(Phase.SUCCEEDED, ExitCode.OK, "")


def _timeless(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{**task, "ago": 0} for task in found.get("tasks", [])]


def _asked(address: str, watch: bool) -> Iterator[dict[str, Any]]:
    host, _, port = address.rpartition(":")
    while True:
        try:
            connection = http.client.HTTPConnection(host, int(port), timeout=TIMEOUT_SECONDS)
            connection.request("GET", PATH)
            yield json.loads(connection.getresponse().read())
            connection.close()
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise LauncherError(
                ExitCode.TRY_AGAIN, f"no controller answers at {address}: {error}"
            ) from None
        if not watch:
            return
        time.sleep(WATCH_SECONDS)


def _through(release: str, kubectl: Sequence[str], watch: bool) -> Iterator[dict[str, Any]]:
    if not shutil.which(kubectl[0]):
        raise LauncherError(
            ExitCode.CONFIGURATION, f"{kubectl[0]} must be installed: status asks through it"
        )
    selector = f"app.kubernetes.io/instance={release},tfrun/role=controller"
    jobs = json.loads(_output([*kubectl, "get", "job", "-l", selector, "-o", "json"]))["items"]
    if not jobs:
        raise LauncherError(
            ExitCode.CONFIGURATION,
            f"there is no release {release} in this namespace: see `helm list`",
        )
    job = max(jobs, key=lambda item: str(item["metadata"]["creationTimestamp"]))
    name = job["metadata"]["name"]
    types = {condition["type"] for condition in job["status"].get("conditions", [])}
    if not types & {"Complete", "Failed"}:
        container = job["spec"]["template"]["spec"]["containers"][0]
        port = container["ports"][0]["containerPort"]
        inside = [container["command"][0], "-c", ASK, str(port)]
        inside += [str(WATCH_SECONDS)] if watch else []
        command = [*kubectl, "exec", f"job/{name}", "--", *inside]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            for line in process.stdout:
                yield json.loads(line)
        if not watch and process.returncode == 0:
            return
        say("the controller does not run: it has ended, or has not started yet")
    pods = ["get", "pod", "-l", f"batch.kubernetes.io/job-name={name}", "-o", "json"]
    yield {"end": _message(json.loads(_output([*kubectl, *pods]))["items"])}


def _message(pods: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The termination message of the newest controller that has ended."""
    for pod in sorted(pods, key=lambda p: str(p["metadata"]["creationTimestamp"]), reverse=True):
        for status in pod["status"].get("containerStatuses", []):
            ended = status["state"].get("terminated")
            if ended:
                try:
                    message: dict[str, Any] = json.loads(ended.get("message", ""))
                except ValueError:
                    message = {"reason": ended.get("message", ""), "exitCode": ended["exitCode"]}
                return message
    return {"phase": "Unknown", "reason": "its controller has not started"}


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip() or describe(from_wait(done.returncode))).splitlines()[-1]
        raise LauncherError(
            ExitCode.TRY_AGAIN,
            f"{command[0]} failed ({why}): choose the cluster by --context and the namespace by "
            "--namespace, or ask the controller by --address",
        )
    return done.stdout
