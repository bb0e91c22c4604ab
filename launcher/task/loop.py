"""The story of one task: directive -> code -> peers -> child -> its end -> one exit code.

Everything that happens (a directive, a signal, a preparation is done, the child has ended) is an
event in one queue. After each event the task compares what it has with what the directive asks
for, takes the next step, and reports.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Optional, Union

from launcher.code.pull import Place, Pulled, pull
from launcher.shared import cluster_spec, signals
from launcher.shared.exits import Code, End, LauncherError, Phase, describe, signalled
from launcher.shared.identity import Task
from launcher.shared.job import Job
from launcher.shared.log import say
from launcher.shared.protocol import Action, ChildReport, Directive, Leader, Report
from launcher.task import invocation, peers
from launcher.task.child import Child, Ended
from launcher.task.connections import connected
from launcher.task.crash_marker import left_behind, mark
from launcher.task.environment import TaskSettings
from launcher.task.link import Link
from launcher.task.watch import Watch

STOPPING = (signal.SIGTERM, signal.SIGINT)
FORWARDED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
LEAVE_SECONDS = 0.2  # between two looks at whether the chief has left its server
UP_SECONDS = 0.2  # between two looks at whether the chief's session is up
PROGRESS_SECONDS = 5.0  # between two reports of the chief's step


@dataclass(frozen=True)
class _Signal:
    number: int


@dataclass(frozen=True)
class _Prepared:
    """A preparation for a directive is over: the code was pulled, or else the peers reached."""

    directive: Directive
    pulled: Pulled | None
    failure: LauncherError | None


@dataclass(frozen=True)
class _Wake:
    """Nothing has happened for a while."""


_Event = Union[_Signal, Directive, _Prepared, Ended, _Wake]
_Preparation = Callable[[threading.Event], Optional[Pulled]]


def run(settings: TaskSettings, environ: Mapping[str, str]) -> End:
    """Plays the task's part until it is stopped; with no controller until its program ends."""
    return _Story(settings, environ).play()


class _Story:
    def __init__(self, settings: TaskSettings, environ: Mapping[str, str]) -> None:
        self.settings = settings
        self.environ = environ
        self.events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        # What is said of this generation's child, or of the one that the last launcher died with.
        self.latest = left_behind(settings.work) if settings.controller else None
        self._mark(None)
        if self.latest:
            say(f"generation {self.latest.generation}: the last child was {self.latest.reason}")
        self.report = Report(
            task=settings.task,
            incarnation=os.urandom(16).hex(),
            sequence=0,
            address=settings.address,
            revision=settings.revision,
            holds=None,
            child=self.latest,
            ready=False,
            wait=True,
        )
        self.directive: Directive | None = None
        self.pulled: Pulled | None = None
        self.pulled_for = ("", 0)  # the run whose code it is, and which pull of it
        self.failed_for = (0, 0)  # the generation and the pull of a preparation that failed
        self.reached_for = 0  # the generation whose peers were reached
        self.preparing: tuple[Directive, threading.Event] | None = None
        self.child: Child | None = None
        self.watch: Watch | None = None  # where the child is the program
        self.serving = False  # the child is a server in the place of the program, which has ended
        self.served_for = 0
        self.ended_at = 0.0
        self.told_at = 0.0
        self.leaving = 0  # the signal that ends the launcher
        self.leave_by = 0.0

    def play(self) -> End:
        signals.listen((*STOPPING, *FORWARDED), lambda n: self.events.put(_Signal(n)))
        link = None
        if self.settings.controller:
            say(f"this is {self.settings.task}; asking {self.settings.controller[0]} what to do")
            link = Link(self.settings.controller, self.report, self.events.put)
        else:
            assert self.settings.job
            alone = Leader(0, "alone")
            self.events.put(Directive(alone, Action.RUN, 1, 0, self.settings.job))
        while True:
            event = self._next()
            self._take(event)
            self._step()
            end = self._end()
            if end:
                if link:
                    link.finish(self._report())
                return end
            news = self._observe()
            if link and (news or not isinstance(event, _Wake)):
                link.send(self._report())

    def _next(self) -> _Event:
        """The next event; a program that runs is looked at now and then."""
        try:
            return self.events.get(timeout=self._patience())
        except queue.Empty:
            return _Wake()

    def _patience(self) -> float | None:
        if self.leaving:
            return LEAVE_SECONDS
        if not self.watch or not self.directive or not self.latest:
            return None
        job, chief = self.directive.job, self._is_chief()
        if chief and job.chief_first and not self.latest.up:
            return UP_SECONDS
        waits = [PROGRESS_SECONDS] if chief else []
        if job.hang_timeout and not self.latest.hung:
            waits.append(max(0.1, job.hang_timeout - self.watch.quiet()))
        return min(waits, default=None)

    def _is_chief(self) -> bool:
        return bool(self.directive and self.directive.job.mode.chief == self.settings.task)

    def _observe(self) -> bool:
        """Notes what the running program's output tells; whether there is news to report."""
        if not self.watch or not self.directive or not self.latest or not self.child:
            return False
        timeout = self.directive.job.hang_timeout
        quiet = self.watch.quiet()
        seen = replace(
            self.latest,
            up=self.latest.up or (self._is_chief() and self.watch.up()),
            hung=self.latest.hung or bool(timeout and quiet >= timeout),
            step=self.watch.step,
            last_step=self.watch.last_step,
        )
        now = time.monotonic()
        urgent = (seen.up, seen.hung) != (self.latest.up, self.latest.hung)
        moved = self._is_chief() and seen.step != self.latest.step
        if not urgent and not (moved and now - self.told_at >= PROGRESS_SECONDS):
            return False
        if seen.hung and not self.latest.hung:
            seen = replace(seen, last_lines=self.child.last_lines())
            say(f"no progress for {quiet:.0f} s")
        self.latest, self.told_at = seen, now
        return True

    # What happened.

    def _take(self, event: _Event) -> None:
        if isinstance(event, Directive):
            held = self.directive
            # An older controller that is still alive has nothing to say any more.
            if held is None or (event.leader, event.generation) >= (held.leader, held.generation):
                self.directive = event
        elif isinstance(event, _Prepared):
            self._take_prepared(event)
        elif isinstance(event, Ended):
            self._take_ended(event)
        elif isinstance(event, _Wake):
            pass
        elif event.number in STOPPING:
            if self.leaving and self.child:
                self.child.send(signal.SIGKILL)  # asked twice: no more grace
            self.leaving = event.number
            self.leave_by = time.monotonic() + (self.directive.job.grace if self.directive else 0)
        elif self.child:
            self.child.send(event.number)

    def _take_prepared(self, event: _Prepared) -> None:
        assert self.preparing
        cancelled = self.preparing[1].is_set()
        self.preparing = None
        if event.failure and not cancelled:
            self.failed_for = (event.directive.generation, event.directive.pull)
            self._fail(event.directive.generation, event.failure)
        elif event.pulled:
            self.pulled = event.pulled
            self.pulled_for = (event.directive.job.run, event.directive.pull)
            self.failed_for = (0, 0)  # what ends from now on in this generation is the child
            say(f"code {event.pulled.digest or 'of the image'} is in {event.pulled.folder}")
        elif not cancelled:
            self.reached_for = event.directive.generation

    def _take_ended(self, event: Ended) -> None:
        self.child = None
        self._mark(None)
        if self.serving:
            self.serving = False
            return
        assert self.latest
        if self.watch:
            step, last_step = self.watch.step, self.watch.last_step
            self.latest = replace(self.latest, step=step, last_step=last_step)
            self.watch = None
        self.ended_at = event.at
        reason = describe(event.code)
        self.latest = replace(
            self.latest, code=event.code, reason=reason, last_lines=event.last_lines
        )
        stopped = ", as it was told to" if self.latest.stopped else ""
        say(f"generation {self.latest.generation}: the child ended{stopped}: {reason}")

    def _fail(self, generation: int, failure: LauncherError) -> None:
        self.ended_at = time.monotonic()
        self.latest = ChildReport(
            generation,
            code=int(failure.code),
            reason=failure.reason,
            last_lines=failure.last_lines,
        )
        say("\n".join([failure.reason, *failure.last_lines]))

    # What to do about it.

    def _end(self) -> End | None:
        """The launcher's own end, where it has come."""
        task = str(self.settings.task)
        latest = self.latest
        if self.child:
            return None
        if self.leaving:
            reason = f"stopped by {signal.Signals(self.leaving).name}"
            return End(Phase.STOPPED, signalled(self.leaving), reason, task)
        if self.settings.controller is None and latest and latest.code is not None:
            phase = Phase.FAILED if latest.code else Phase.SUCCEEDED
            return End(phase, latest.code, latest.reason, task, latest.last_lines)
        if self.settings.leave and self.directive and self.directive.action is Action.END:
            return End(Phase.STOPPED, 0, "the run has ended", task)
        return None

    def _step(self) -> None:
        """The next step towards what the directive asks for; one at a time, each brings events."""
        directive = self.directive
        if self.leaving:
            if not self._chief_needs_it():
                self._stop_child(self.leaving)
            return
        if directive is None:
            return
        generation = directive.generation
        runs = directive.action is Action.RUN
        serves = directive.action is Action.SERVE
        if self.preparing:
            if self.preparing[0] is not directive:
                self.preparing[1].set()
        elif self.child:
            if not self._wants_child(directive):
                self._stop_child(signal.SIGTERM)
        elif directive.action is Action.END:
            pass
        elif serves and self.served_for != generation:
            self._serve(directive)
        elif serves or (self._ended_in(generation) and not self._asked_again(directive)):
            pass
        elif not self._ready(directive):
            if self._may_pull(directive):
                # The last copy goes while the next one is made.
                self.pulled, self.pulled_for, self.latest = None, ("", 0), None
                self._prepare(directive, lambda cancelled: self._pull(directive, cancelled))
        elif runs and self.reached_for != generation:
            self._prepare(directive, lambda cancelled: self._reach(directive, cancelled))
        elif runs:
            self._start_child(directive)

    def _chief_needs_it(self) -> bool:
        """Whether the child serves a chief that may still save: it stops after the chief then."""
        task, directive = self.settings.task, self.directive
        if not self.child or not directive or directive.action is Action.END:
            return False
        mode = directive.job.mode
        if mode.runs_program(task) or mode.chief not in mode.reached([task], directive.job.tasks):
            return False
        chief = directive.hosts.get(mode.chief)
        port = int(cluster_spec.address(directive.job.addresses, task).rpartition(":")[2])
        return bool(chief) and time.monotonic() < self.leave_by and connected(str(chief), port)

    def _wants_child(self, directive: Directive) -> bool:
        """Whether the child that runs is the one that the directive asks for."""
        if self.serving:
            wanted = directive.action is Action.SERVE
            return wanted and self.served_for == directive.generation
        wanted = directive.action in (Action.RUN, Action.SERVE)
        return wanted and self._ended_in(directive.generation)

    def _ended_in(self, generation: int) -> bool:
        """Whether this generation's child was started already, and so has ended if none runs."""
        return self.latest is not None and self.latest.generation == generation

    def _asked_again(self, directive: Directive) -> bool:
        """Whether what has ended is a pull of the code, and another one is asked for."""
        generation, pull = self.failed_for
        return generation == directive.generation and pull != directive.pull

    def _ready(self, directive: Directive) -> bool:
        runs_program = directive.job.mode.runs_program(self.settings.task)
        return not runs_program or self.pulled_for == (directive.job.run, directive.pull)

    def _prepare(self, directive: Directive, preparation: _Preparation) -> None:
        cancelled = threading.Event()
        self.preparing = (directive, cancelled)

        def work() -> None:
            pulled, failure = None, None
            try:
                pulled = preparation(cancelled)
            except LauncherError as error:
                failure = error
            except Exception as error:  # a thread that dies silently would hang the task
                failure = LauncherError(Code.BUG, f"the launcher failed: {error!r}")
            self.events.put(_Prepared(directive, pulled, failure))

        threading.Thread(target=work, daemon=True).start()

    def _may_pull(self, directive: Directive) -> bool:
        """What a branch means is found out by the chief; all others wait until it is told."""
        known = directive.commit or not directive.job.source.moves
        return bool(known or self._is_chief() or not self.settings.controller)

    def _pull(self, directive: Directive, cancelled: threading.Event) -> Pulled:
        settings, job = self.settings, directive.job
        place = Place(settings.source, settings.secret, settings.work)
        python = invocation.python(job)
        return pull(job.delivery, place, python, directive.commit, cancelled)

    def _reach(self, directive: Directive, cancelled: threading.Event) -> None:
        """A program needs the names of those who serve it, and may need them to answer."""
        job, task = directive.job, self.settings.task
        if not job.mode.runs_program(task):
            return
        servers = [
            address
            for role, addresses in cluster_spec.spec(job, directive.hosts).items()
            if role not in job.mode.programs
            for address in addresses
        ]
        again = directive.generation > 1 and job.mode.decides_success(task)
        connect = self.settings.controller is None or (again and job.mode.servers_first)
        peers.wait(servers, self.settings.peers_timeout, connect, cancelled)

    def _start_child(self, directive: Directive) -> None:
        job, generation, task = directive.job, directive.generation, self.settings.task
        self.latest = ChildReport(generation)
        if not job.mode.runs_program(task):
            self._spawn(directive, invocation.server(directive, task, self.environ), None)
            return
        assert self.pulled
        ready = self.settings.work / f"ready-{generation}"
        ready.unlink(missing_ok=True)
        checkpoints = Path(job.checkpoints) if job.checkpoints else None
        started = invocation.program(directive, task, self.pulled, ready, self.environ)
        self.watch = Watch(ready, checkpoints)
        self._spawn(directive, started, self.watch)

    def _serve(self, directive: Directive) -> None:
        """Keeps the seat of a program that has ended: others may still look for it."""
        self.served_for = directive.generation
        self.serving = True
        self._spawn(
            directive,
            invocation.server(directive, self.settings.task, self.environ),
            None,
        )

    def _spawn(
        self, directive: Directive, started: invocation.Invocation, watch: Watch | None
    ) -> None:
        generation, task = directive.generation, self.settings.task
        try:
            self.child = Child(
                started.argv,
                started.env,
                started.cwd,
                self.events.put,
                line=watch.line if watch else None,
                copy=_log_file(directive.job, task, generation),
            )
        except LauncherError as failure:
            if self.serving:
                self.serving = False
                say(failure.reason)
            else:
                self.watch = None
                self._fail(generation, failure)
            return
        self._mark(generation)
        words = " ".join(started.argv)
        say(f"generation {generation}: started {words} (process {self.child.pid})")

    def _mark(self, generation: int | None) -> None:
        if self.settings.controller:  # alone it has nobody to tell
            mark(self.settings.work, generation)

    def _stop_child(self, number: int) -> None:
        if self.child:
            grace = self.directive.job.grace if self.directive else 0.0
            if self.leaving:
                grace = max(1.0, self.leave_by - time.monotonic())
            if self.latest and not self.serving:
                self.latest = replace(self.latest, stopped=True)
            self.child.stop(grace, number)

    def _report(self) -> Report:
        latest = self.latest
        if latest and latest.code is not None:
            latest = replace(latest, ago=time.monotonic() - self.ended_at)
        self.report = replace(
            self.report,
            sequence=self.report.sequence + 1,
            holds=self.directive.holds() if self.directive else None,
            child=latest,
            # Who leaves can start nothing any more, whatever was asked of it.
            ready=self.directive is not None and not self.leaving and self._ready(self.directive),
            serving=self.serving,
            code=self.pulled.digest if self.pulled else "",
            commit=self.pulled.commit if self.pulled else "",
        )
        return self.report


def _log_file(job: Job, task: Task, generation: int) -> Path | None:
    """Where a copy of the child's output goes, so that it outlives the pod."""
    return Path(job.logs) / job.run / f"{generation}-{task}.log" if job.logs else None
