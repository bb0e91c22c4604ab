"""Runs one task: carries out the effects that `step` returns, and gives it the events.

All events (a directive, a signal, the end of a preparation or of the child) come through one queue.
While a program runs, the loop also looks at its output from time to time.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Callable

from launcher.code.pull import Place, Pulled, pull
from launcher.shared import cluster_spec, signals
from launcher.shared.exits import End, ExitCode, LauncherError
from launcher.shared.identity import Task
from launcher.shared.job import Job
from launcher.shared.log import say
from launcher.shared.protocol import QUIET_SECONDS, Action, Directive, Leader, Report
from launcher.task import connections, crash_marker, invocation, peers, step
from launcher.task.child import Child, Ended
from launcher.task.environment import TaskSettings
from launcher.task.link import Link
from launcher.task.state import (
    Activity,
    Cancel,
    ChiefCalled,
    ChiefLeft,
    ChildEnded,
    CodePulled,
    Effect,
    Event,
    Failed,
    Leave,
    PeersReached,
    Pull,
    ReachPeers,
    Say,
    Seen,
    Send,
    Signalled,
    StartProgram,
    StartServer,
    State,
    Stop,
    Tell,
    Told,
    awaits_call,
    awaits_chief,
    is_chief,
    report,
)
from launcher.task.watch import Watch

FORWARDED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
LEAVE_SECONDS = 0.2  # between checks whether the chief is still connected
UP_SECONDS = 0.2  # between checks whether the chief's session is up
LEAST_LOOK_SECONDS = 0.1  # at least, between checks whether the program makes progress


def run(settings: TaskSettings, environ: Mapping[str, str]) -> End:
    """Runs the task until it is stopped; without a controller, until its program ends."""
    return _Loop(settings, environ).play()


class _Loop:
    def __init__(self, settings: TaskSettings, environ: Mapping[str, str]) -> None:
        self.settings = settings
        self.environ = environ
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.state = State(
            task=settings.task,
            incarnation=os.urandom(16).hex(),
            address=settings.address,
            revision=settings.revision,
            alone=settings.controller is None,
            leaves=settings.leave,
            child=crash_marker.left_behind(settings.work) if settings.controller else None,
        )
        self.link: Link | None = None
        self.sequence = 0
        self.pulled: Pulled | None = None
        self.cancelled = threading.Event()  # set to cancel the preparation
        self.child: Child | None = None
        self.watch: Watch | None = None  # None where the child is a server
        self.listener: connections.Listener | None = None

    def play(self) -> End:
        signals.listen((*step.STOPPING, *FORWARDED), self._signalled)
        settings, left = self.settings, self.state.child
        self._mark(None)
        if left:
            say(f"generation {left.generation}: the last child was {left.reason}")
        if settings.controller:
            host, port = settings.controller
            say(f"this is {settings.task}; asking {host}:{port} what to do")
            self.link = Link(settings.controller, self._report(), self._told)
        else:
            assert settings.job
            self._told(Directive(Leader(0, "alone"), Action.RUN, 1, 0, settings.job))
        while True:
            event = self._next()
            effects = self._take(event)
            if self.watch and not isinstance(event, Seen):
                effects = (*effects, *self._take(self._look(self.watch)))
            end = self._carry_out(effects)
            if end:
                return end

    # Events.

    def _signalled(self, number: int) -> None:
        self.events.put(Signalled(number, time.monotonic()))

    def _told(self, directive: Directive) -> None:
        self.events.put(Told(directive))

    def _next(self) -> Event:
        """The next event: from the queue, or from a look at the program or at the chief."""
        while True:
            if awaits_chief(self.state) and not self._chief_is_here():
                return ChiefLeft()
            try:
                return self.events.get(timeout=self._next_look())
            except queue.Empty:
                if self.watch:
                    return self._look(self.watch)

    def _next_look(self) -> float | None:
        """Seconds until the next look is due; None if none is."""
        state, directive = self.state, self.state.directive
        if awaits_chief(state):
            return LEAVE_SECONDS
        if not self.watch or not directive or not state.child:
            return None
        chief, timeout = is_chief(state), directive.job.hang_timeout
        if chief and directive.job.chief_first and not state.child.up:
            return UP_SECONDS
        quiet = self.watch.quiet()
        often = chief or quiet >= QUIET_SECONDS
        waits = [step.PROGRESS_SECONDS if often else QUIET_SECONDS - quiet]
        if timeout and not state.child.hung:
            waits.append(timeout - quiet)
        return max(LEAST_LOOK_SECONDS, min(waits))

    def _look(self, watch: Watch) -> Seen:
        return Seen(
            at=time.monotonic(),
            up=is_chief(self.state) and (self._is_up() or watch.up()),
            quiet=watch.quiet(),
            global_step=watch.global_step,
            total_steps=watch.total_steps,
            epoch=watch.epoch,
            last_lines=self.child.last_lines() if self.child else (),
        )

    def _is_up(self) -> bool:
        """Whether the program is known to be up: then its checkpoint folder is not listed again."""
        child = self.state.child
        return child is not None and child.up

    def _chief_is_here(self) -> bool:
        directive = self.state.directive
        assert directive
        chief, port = directive.hosts.get(directive.job.mode.chief, ""), self._port(directive)
        return time.monotonic() < self.state.leave_by and connections.connected(chief, port)

    def _port(self, directive: Directive) -> int:
        address = cluster_spec.address(directive.job.addresses, self.settings.task)
        return int(address.rpartition(":")[2])

    def _listen(self) -> None:
        """Listens at the task's port while it waits: a chief that connects needs its program."""
        directive, listener, waits = self.state.directive, self.listener, awaits_call(self.state)
        if listener and not waits:
            listener.close()
            self.listener = None
        elif directive and waits and not listener:
            # If the port cannot be used, TensorFlow's log tells later what the chief needs.
            with contextlib.suppress(OSError):
                self.listener = connections.Listener(
                    self._port(directive), lambda host: self.events.put(ChiefCalled(host))
                )

    def _take(self, event: Event) -> Sequence[Effect]:
        if isinstance(event, (ChildEnded, Failed)):
            self.child = self.watch = None
            self._mark(None)
        self.state, effects = step.step(self.state, event)
        self._listen()
        return effects

    # Effects.

    def _carry_out(self, effects: Sequence[Effect]) -> End | None:
        tell = False
        for effect in effects:
            if isinstance(effect, Leave):
                if self.link:
                    self.link.finish(self._report())
                return effect.end
            tell = tell or isinstance(effect, Tell)
            self._do(effect)
        if tell and self.link:
            self.link.send(self._report())
        return None

    def _do(self, effect: Effect) -> None:
        if isinstance(effect, Say):
            say(effect.text)
        elif isinstance(effect, Pull):
            self._prepare(effect.directive, self._pull)
        elif isinstance(effect, ReachPeers):
            self._prepare(effect.directive, self._reach)
        elif isinstance(effect, Cancel):
            self.cancelled.set()
        elif isinstance(effect, (StartProgram, StartServer)):
            try:
                self._start(effect)
            except LauncherError as failure:
                self.events.put(_failed(failure))
        elif isinstance(effect, Stop):
            self._stop(effect.number)
        elif isinstance(effect, Send) and self.child:
            self.child.send(effect.number)

    def _prepare(
        self, directive: Directive, preparation: Callable[[Directive, threading.Event], Event]
    ) -> None:
        cancelled = self.cancelled = threading.Event()

        def work() -> None:
            try:
                event = preparation(directive, cancelled)
            except LauncherError as failure:
                event = _failed(failure)
            except Exception as error:  # a thread that dies silently would hang the task
                event = _failed(LauncherError(ExitCode.BUG, f"the launcher failed: {error!r}"))
            self.events.put(event)

        threading.Thread(target=work, daemon=True).start()

    def _pull(self, directive: Directive, cancelled: threading.Event) -> Event:
        settings, job = self.settings, directive.job
        env = {**self.environ, **job.program.env}
        place = Place(settings.source, settings.secret, settings.work, env)
        python = job.python or sys.executable
        pulled = pull(job.delivery, place, python, directive.commit, cancelled)
        say(f"code {pulled.digest or 'of the image'} is in {pulled.folder}")
        self.pulled = pulled
        return CodePulled(pulled.digest, pulled.commit)

    def _reach(self, directive: Directive, cancelled: threading.Event) -> Event:
        """Waits until the servers' names resolve and, if the program needs it, they answer."""
        job = directive.job
        servers = [
            address
            for role, addresses in cluster_spec.spec(job, directive.hosts).items()
            if role not in job.mode.programs
            for address in addresses
        ]
        again = directive.generation > 1 and job.mode.decides_success(self.settings.task)
        connect = self.settings.controller is None or (again and job.mode.servers_first)
        peers.wait(servers, self.settings.peers_timeout, connect, cancelled)
        return PeersReached()

    def _start(self, effect: StartProgram | StartServer) -> None:
        """Starts a child. Raises LauncherError."""
        directive, task = effect.directive, self.settings.task
        job, generation = directive.job, directive.generation
        if isinstance(effect, StartServer):
            started, watch = invocation.server(directive, task, self.pulled, self.environ), None
        else:
            assert self.pulled
            ready = self.settings.work / f"ready-{generation}"
            ready.unlink(missing_ok=True)
            started = invocation.program(directive, task, self.pulled, ready, self.environ)
            watch = Watch(ready, Path(job.checkpoints) if job.checkpoints else None)

        def ended(end: Ended) -> None:
            steps = (watch.global_step, watch.total_steps) if watch else (None, None)
            self.events.put(ChildEnded(end.exit_code, end.last_lines, end.at, *steps))

        self.child = Child(
            started.argv,
            started.env,
            started.cwd,
            ended,
            line=watch.line if watch else None,
            copy=_log_file(job, task, generation),
        )
        self.watch = watch
        doing = self.state.doing
        if doing and doing.activity is Activity.RUNNING:  # stand-ins are not reported
            self._mark(generation)
        words = " ".join(started.argv)
        say(f"generation {generation}: started {words} (process {self.child.pid})")

    def _stop(self, number: int) -> None:
        state = self.state
        if self.child and state.directive:  # no child: its start has failed
            grace = state.directive.job.grace
            if state.leaving is not None:
                grace = max(1.0, state.leave_by - time.monotonic())
            # A pod that leaves may have told its program to save in another way than by a signal.
            self.child.stop(grace, number, waits=state.leaving is not None)

    def _mark(self, generation: int | None) -> None:
        if self.settings.controller:  # without one, nothing reads the marker
            crash_marker.mark(self.settings.work, generation)

    def _report(self) -> Report:
        self.sequence += 1
        return report(self.state, self.sequence, time.monotonic())


def _failed(failure: LauncherError) -> Failed:
    return Failed(int(failure.exit_code), failure.reason, failure.last_lines, time.monotonic())


def _log_file(job: Job, task: Task, generation: int) -> Path | None:
    """Where a copy of the child's output goes, so that it outlives the pod."""
    return Path(job.logs) / job.run / f"{generation}-{task}.log" if job.logs else None
