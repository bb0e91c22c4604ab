"""The run's controller: HTTP, clock and Kubernetes calls around the decisions.

One event loop takes all decisions, one after the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from launcher.controller import leadership, nfs_probe, status
from launcher.controller.environment import ControllerSettings
from launcher.controller.http import RefusedError, Request, Server
from launcher.controller.kubernetes import Kubernetes, StatefulSet, SupersededError, insist
from launcher.controller.progress import Progress
from launcher.decisions import directive, step
from launcher.decisions.state import (
    Begin,
    Effect,
    Event,
    Finish,
    Heard,
    NoCode,
    RunPhase,
    Say,
    State,
    Tick,
    reports,
    runs,
)
from launcher.shared.exits import End, ExitCode, LauncherError, Phase, end_of, signalled
from launcher.shared.identity import Task
from launcher.shared.job import Job
from launcher.shared.log import say
from launcher.shared.protocol import (
    HOLD_SECONDS,
    PATH,
    Action,
    Directive,
    Holds,
    Leader,
    Report,
    decode_report,
    encode_directive,
)

TICK_SECONDS = 1.0
BUSY_TICK_SECONDS = 0.05
DIAGNOSE_SECONDS = 4.0  # between two probes of code.nfs while no task has reported
MISSING_SECONDS = 30.0  # how long a folder may stay missing before the run fails
FAREWELL_SECONDS = 2.0  # for tasks to hear of the end; Kubernetes removes their pods anyway
KEPT_FAREWELL_SECONDS = 10.0  # plus grace, where pods stay: only the controller stops the tasks
# Exit codes after which the chart's Job restarts the controller: its own failure, SIGKILL and
# SIGTERM. A run that ends with one of them must not restart the controller.
RETRIED = frozenset({ExitCode.BUG, signalled(signal.SIGKILL), signalled(signal.SIGTERM)})


def run(settings: ControllerSettings) -> End:
    """Leads the run to its end, or until the controller is stopped."""
    return asyncio.run(_until_stopped(settings))


async def _until_stopped(settings: ControllerSettings) -> End:
    leading = asyncio.ensure_future(lead(settings))
    stopped_by = 0

    def stop(number: int) -> None:
        nonlocal stopped_by
        stopped_by = number
        leading.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        return await leading
    except asyncio.CancelledError:
        reason = f"the controller was stopped by {signal.Signals(stopped_by).name}"
        return End(Phase.STOPPED, signalled(stopped_by), reason)


async def lead(settings: ControllerSettings) -> End:
    """Leads while the Service selects this controller; 143 if it does and another one leads."""
    there, led = settings.kubernetes, False
    kubernetes = Kubernetes(there, settings.job.release) if there else None
    while True:
        if kubernetes:
            await leadership.gain(kubernetes, led)
        controller = _Controller(settings, kubernetes)
        try:
            return await controller.lead()
        except SupersededError:
            reason = "another controller leads this run"
            say(reason)
        if not kubernetes or (leading := await insist(kubernetes.leading)) == kubernetes.hash:
            # The Job restarts this one.
            return End(Phase.STOPPED, signalled(signal.SIGTERM), reason)
        await controller.hand_over(leading)
        led = True


def exit_code(end: End) -> int:
    """The controller's exit code: the run's own, or 1 if the Job would restart the controller."""
    return 1 if end.phase is Phase.FAILED and end.exit_code in RETRIED else end.exit_code


class _Controller:
    def __init__(self, settings: ControllerSettings, kubernetes: Kubernetes | None) -> None:
        self.settings = settings
        self.job: Job = settings.job
        self.kubernetes = kubernetes
        self.id = (kubernetes.hash if kubernetes else "") + os.urandom(4).hex()
        self.state = State(self.job, self.job, Leader(0, self.id))
        self.instructions = directive.instructions(self.state)
        self.found: dict[str, StatefulSet] = {}
        self.progress = Progress()
        self.effects: asyncio.Queue[Effect] = asyncio.Queue()
        self.fault: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        # Tasks learn the end only when it is recorded, so that a later controller finds it.
        self.end_recorded = False
        self.farewell: set[Task] = set()  # tasks that know the end and have stopped
        self.server = Server(self._answer, self._fail)
        self.waiting: dict[Task, asyncio.Event] = {}
        self.encoded: dict[Holds, bytes] = {}

    async def lead(self) -> End:
        """How the run ended. Raises SupersededError if another controller leads."""
        host, port = self.settings.listen
        try:
            await self.server.listen(host, port)
        except OSError as error:
            raise LauncherError(
                ExitCode.CONFIGURATION, f"the controller cannot listen on {host}:{port}: {error}"
            ) from None
        besides = [asyncio.ensure_future(task) for task in (self._tick(), self._diagnose())]
        if self.kubernetes:
            besides.append(asyncio.ensure_future(leadership.keep(self.kubernetes)))
        for task in besides:
            task.add_done_callback(self._check)
        following = asyncio.ensure_future(self._follow())
        try:
            await asyncio.wait([following, self.fault], return_when=asyncio.FIRST_COMPLETED)
            return (following if following.done() else self.fault).result()
        finally:
            following.cancel()
            for task in besides:
                task.cancel()
            self.server.close()
            self._wake()

    def _check(self, task: asyncio.Future[Any]) -> None:
        """Ends the controller when one of its background tasks has failed."""
        error = None if task.cancelled() else task.exception()
        if error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        ended = isinstance(error, SupersededError) and self.end_recorded
        if not ended and not self.fault.done():
            self.fault.set_exception(error)

    async def _follow(self) -> End:
        self._step(await self._begin())
        while self.state.phase is not RunPhase.YIELDED:
            effect = await self.effects.get()
            if isinstance(effect, Say):
                say(effect.text)
            elif isinstance(effect, Finish):
                await self._finish(effect.end)
                return effect.end
            elif self.kubernetes:
                leader, replicas = self.state.leader, effect.replicas
                try:
                    await insist(self.kubernetes.scale, effect.role, leader, replicas)
                except LauncherError as error:
                    if not reports(self.state):
                        raise
                    say(error.reason)  # forming.say_missing asks again
        raise SupersededError

    async def _begin(self) -> Begin:
        """Claims the StatefulSets, and reads the counts and records that they hold."""
        leader = Leader(time.time_ns() // 1_000_000 if self.kubernetes else 0, self.id)
        while self.kubernetes:
            for role in self.job.replicas:
                self.found[role] = await insist(self.kubernetes.claim, role, leader)
            newest = max(item.leader for item in self.found.values())
            if newest == leader:
                break
            leader = Leader(newest.number + 1, self.id)  # the clock of one of the two is wrong
        ended = self._on_record()
        pods = {role: item.replicas for role, item in self.found.items()}
        revisions = {role: item.revision for role, item in self.found.items()}
        age = 0.0 if ended else await self._age(leader)
        end = replace(end_of(ended), found=True) if ended else None
        return Begin(leader.number, pods, revisions, age, end)

    def _on_record(self) -> Mapping[str, Any] | None:
        """How this run ended, if a StatefulSet records that."""
        ends = [end for item in self.found.values() for end in item.ends]
        return next((end for end in ends if end.get("run") == self.job.run), None)

    async def _age(self, leader: Leader) -> float:
        """How many seconds ago the run began, from a record that its first controller makes."""
        if not self.kubernetes:
            return 0.0
        role = next(iter(self.job.replicas))  # the record is on the StatefulSet of one role
        begin, now = self.found[role].begin, time.time()
        at = begin.get("at")
        if begin.get("run") == self.job.run and isinstance(at, (int, float)):
            return max(0.0, now - at)
        await insist(self.kubernetes.begin, role, leader, {"run": self.job.run, "at": now})
        return 0.0

    async def _tick(self) -> None:
        while True:
            busy = self.state.forming or self.state.chief_due_at is not None
            await asyncio.sleep(BUSY_TICK_SECONDS if busy else TICK_SECONDS)
            self._step(Tick())

    async def _diagnose(self) -> None:
        """Logs faults of code.nfs while no task reports; ends the run if its path stays missing."""
        source = self.job.source
        said, missing_since = "", None
        while source.kind == "nfs":
            await asyncio.sleep(DIAGNOSE_SECONDS)
            if reports(self.state):
                return
            found = await asyncio.get_running_loop().run_in_executor(
                None, nfs_probe.diagnose, source.server, source.path
            )
            if found.text != said:
                said = found.text
                say(said or f"{source} is available now")
            now = time.monotonic()
            if found.finding is not nfs_probe.Finding.MISSING:
                missing_since = None
            elif missing_since is None:
                missing_since = now
            elif self.state.phase is RunPhase.STARTING:
                continue  # Kubernetes does not answer yet, so the end cannot be recorded
            elif now - missing_since >= MISSING_SECONDS:
                self._step(NoCode(found.text))
                return

    def _step(self, event: Event) -> None:
        before = self.state
        self.state, effects = step.step(before, event, time.monotonic())
        for effect in effects:
            self.effects.put_nowait(effect)
        if self.state is before:
            return
        instructions = directive.instructions(self.state)
        if instructions != self.instructions:
            self.instructions = instructions
            self.encoded.clear()
            self._wake()

    def _wake(self) -> None:
        """Wakes the requests that are held open."""
        for changed in self.waiting.values():
            changed.set()

    # The end.

    async def _finish(self, end: End) -> None:
        record = self._on_record() or {
            "run": self.job.run,
            **end.record(),
            "codeDigest": self.state.digest or "",
        }
        if self.kubernetes:
            jobs = {*str(record.get("jobs", "")).split(), self.kubernetes.hash}
            record = {**record, "jobs": " ".join(sorted(jobs))}
        say(_last_words(end, self.job.run))
        gone = await self._record(record)
        self.end_recorded = True
        self._wake()
        await self._farewell(gone)

    async def _record(self, record: Mapping[str, Any]) -> bool:
        """Records the end in every StatefulSet, in the change that scales it to zero.

        Returns whether Kubernetes removes all pods.
        """
        free = self.job.cleanup == "Delete"
        gone = free and self.kubernetes is not None
        for role, item in self.found.items():
            assert self.kubernetes
            ends = [*(end for end in item.ends if end.get("run") != record["run"]), record]
            try:
                await insist(self.kubernetes.end, role, self.state.leader, ends, free)
            except LauncherError as error:  # the run has ended nevertheless
                gone = False
                say(f"{error.reason}. The end is not recorded there, and its pods stay")
        return gone

    async def hand_over(self, leading: str) -> None:
        """Removes all pods if the controller that leads now has ended: it would not do that."""
        if not any(item.ended_by(leading) for item in self.found.values()):
            return
        assert self.kubernetes
        say(f"the run of the controller {leading} has ended, so no pods are needed")
        with contextlib.suppress(SupersededError):
            for role in self.found:
                await insist(self.kubernetes.scale, role, self.state.leader, 0)

    async def _farewell(self, gone: bool) -> None:
        """Gives the tasks time to learn of the end and to stop."""
        seconds = FAREWELL_SECONDS if gone else KEPT_FAREWELL_SECONDS + self.job.grace
        tasks = set(reports(self.state) if gone else self.state.job.tasks)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.farewell >= tasks:
            await asyncio.sleep(0.02)

    # Requests: reports of tasks, and the status for people.

    async def _answer(self, request: Request) -> bytes:
        if request.path == status.PATH and request.method == "GET":
            return json.dumps(status.document(self.state, time.monotonic())).encode()
        if request.path != PATH:
            raise RefusedError(404, f"the only paths are {PATH} and {status.PATH}")
        if request.method != "POST":
            raise RefusedError(405, f"{PATH} takes POST")
        try:
            report = decode_report(request.body)
        except LauncherError as error:
            raise RefusedError(400, error.reason) from None
        task = report.task
        superseded = self.waiting.pop(task, None)
        if superseded:
            superseded.set()
        self._step(Heard(report))
        holds = report.holds
        ended = holds and holds.action is Action.END and holds.run == self.job.run
        if ended and not runs(report):
            self.farewell.add(task)
        if task == self.job.mode.chief:
            line = self.progress.line(report, time.monotonic())
            if line:
                say(line)
        wanted = self._directive(report)
        if wanted is None and report.long_poll and not self.server.closing:
            wanted = await self._hold(report)
        if wanted is None:
            return encode_directive(None)
        key = wanted.holds()
        if key not in self.encoded:
            self.encoded[key] = encode_directive(wanted)
        return self.encoded[key]

    async def _hold(self, report: Report) -> Directive | None:
        """Holds a request open until its task gets a directive, for at most HOLD_SECONDS."""
        task, until = report.task, time.monotonic() + HOLD_SECONDS
        changed = self.waiting[task] = asyncio.Event()
        wanted = None
        with contextlib.suppress(asyncio.TimeoutError):
            while wanted is None and not self.server.closing:
                await asyncio.wait_for(changed.wait(), until - time.monotonic())
                if self.server.closing or self.waiting.get(task) is not changed:
                    return None  # the controller ends, or a newer request of this task has come
                changed.clear()
                wanted = self._directive(report)
        if self.waiting.get(task) is changed:
            del self.waiting[task]
        return wanted

    def _directive(self, report: Report) -> Directive | None:
        wanted = directive.directive(self.instructions, report)
        if wanted and wanted.action is Action.END and not self.end_recorded:
            return None
        return wanted


def _last_words(end: End, run: str) -> str:
    if end.found:
        text = f"run {run} has ended already: {end.phase.value}: {end.reason}\n"
        return text + "to train again, raise run.attempt"
    text = f"the run has {end.phase.value.lower()}: {end.reason}"
    if end.last_lines:
        text += f"\nthe last lines of {end.task}:\n" + "\n".join(f"  {x}" for x in end.last_lines)
    return text
