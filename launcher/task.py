"""The story of one task: directive -> code -> peers -> child -> its end -> one exit code.

Everything that happens (a directive, a signal, a preparation is done, the child has ended) is an
event in one queue. After each event the task compares what it has with what the directive asks
for, takes the next step, and reports.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Optional, Union

from launcher import cluster, peers
from launcher.child import Child, Ended
from launcher.code import Pulled, pull
from launcher.exits import Code, End, LauncherError, Phase, describe
from launcher.link import Link
from launcher.log import say
from launcher.protocol import Action, ChildReport, Directive, Report
from launcher.settings import Job, TaskSettings

STOPPING = (signal.SIGTERM, signal.SIGINT)
FORWARDED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
# Not resolved: in a pod each file is a link into a folder of the ConfigMap's volume.
PACKAGE_PARENT = Path(__file__).absolute().parent.parent


@dataclass(frozen=True)
class _Signal:
    number: int


@dataclass(frozen=True)
class _Prepared:
    """A preparation for a directive is over: the code was pulled, or else the peers reached."""

    directive: Directive
    pulled: Pulled | None
    failure: LauncherError | None


_Event = Union[_Signal, Directive, _Prepared, Ended]
_Preparation = Callable[[threading.Event], Optional[Pulled]]


def run(settings: TaskSettings, environ: Mapping[str, str]) -> End:
    """Plays the task's part until it is stopped; with no controller until its program ends."""
    return _Story(settings, environ).play()


class _Story:
    def __init__(self, settings: TaskSettings, environ: Mapping[str, str]) -> None:
        self.settings = settings
        self.environ = environ
        self.serves = settings.task.role == "ps"
        self.events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self.report = Report(
            settings.task, os.urandom(16).hex(), 0, settings.address, None, None, self.serves, True
        )
        self.directive: Directive | None = None
        self.pulled: Pulled | None = None
        self.pulled_for = ""  # the run whose code it is
        self.reached_for = 0  # the generation whose peers were reached
        self.preparing: tuple[Directive, threading.Event] | None = None
        self.child: Child | None = None
        self.latest: ChildReport | None = None  # what is said of the latest child
        self.ended_at = 0.0
        self.leaving = 0  # the signal that ends the launcher

    def play(self) -> End:
        for number in (*STOPPING, *FORWARDED):
            signal.signal(number, lambda n, _: self.events.put(_Signal(n)))
        link = None
        if self.settings.controller:
            say(f"this is {self.settings.task}; asking {self.settings.controller[0]} what to do")
            link = Link(self.settings.controller, self.report, self.events.put)
        else:
            assert self.settings.job
            self.events.put(Directive(Action.RUN, 1, 0, self.settings.job))
        while True:
            self._take(self.events.get())
            self._step()
            end = self._end()
            if end:
                if link:
                    link.finish(self._report())
                return end
            if link:
                link.send(self._report())

    # What happened.

    def _take(self, event: _Event) -> None:
        if isinstance(event, Directive):
            # An older controller that is still alive has nothing to say any more.
            if self.directive is None or event.generation >= self.directive.generation:
                self.directive = event
        elif isinstance(event, _Prepared):
            self._take_prepared(event)
        elif isinstance(event, Ended):
            self._take_ended(event)
        elif event.number in STOPPING:
            if self.leaving and self.child:
                self.child.send(signal.SIGKILL)  # asked twice: no more grace
            self.leaving = event.number
            self._stop_child(event.number)
        elif self.child:
            self.child.send(event.number)

    def _take_prepared(self, event: _Prepared) -> None:
        assert self.preparing
        cancelled = self.preparing[1].is_set()
        self.preparing = None
        if event.failure and not cancelled:
            self._fail(event.directive.generation, event.failure)
        elif event.pulled:
            self.pulled, self.pulled_for = event.pulled, event.directive.job.run
            say(f"code {event.pulled.digest or 'of the image'} is in {event.pulled.folder}")
        elif not cancelled:
            self.reached_for = event.directive.generation

    def _take_ended(self, event: Ended) -> None:
        assert self.latest
        self.child = None
        self.ended_at = time.monotonic()
        reason = describe(event.code)
        self.latest = replace(
            self.latest, code=event.code, reason=reason, last_lines=event.last_lines
        )
        stopped = ", as it was told to" if self.latest.stopped else ""
        say(f"generation {self.latest.generation}: the child ended{stopped}: {reason}")

    def _fail(self, generation: int, failure: LauncherError) -> None:
        self.ended_at = time.monotonic()
        self.latest = ChildReport(generation, code=int(failure.code), reason=failure.reason)
        say(failure.reason)

    # What to do about it.

    def _end(self) -> End | None:
        """The launcher's own end, where it has come."""
        task = str(self.settings.task)
        latest = self.latest
        if self.child:
            return None
        if self.leaving:
            reason = f"stopped by {signal.Signals(self.leaving).name}"
            return End(Phase.STOPPED, 128 + self.leaving, reason, task)
        if self.settings.controller is None and latest and latest.code is not None:
            phase = Phase.FAILED if latest.code else Phase.SUCCEEDED
            return End(phase, latest.code, latest.reason, task, latest.last_lines)
        if self.settings.leave and self.directive and self.directive.action is Action.END:
            return End(Phase.STOPPED, 0, "the run has ended", task)
        return None

    def _step(self) -> None:
        """The next step towards what the directive asks for; one at a time, each brings events."""
        directive = self.directive
        if directive is None or self.leaving:
            return
        runs = directive.action is Action.RUN
        generation = directive.generation
        if self.preparing:
            if self.preparing[0] is not directive:
                self.preparing[1].set()
        elif self.child:
            if not runs or self.latest is None or self.latest.generation != generation:
                self._stop_child(signal.SIGTERM)
        elif directive.action is Action.END or self._ended_in(generation):
            pass
        elif not self._ready(directive):
            source, work = directive.job.source, self.settings.work
            assert source
            self._prepare(directive, lambda _: pull(source, self.settings.source, work))
        elif runs and self.reached_for != generation:
            self._prepare(directive, lambda cancelled: self._reach(directive.job, cancelled))
        elif runs:
            self._start_child(directive)

    def _ended_in(self, generation: int) -> bool:
        return self.latest is not None and self.latest.generation == generation

    def _ready(self, directive: Directive) -> bool:
        return self.serves or self.pulled_for == directive.job.run

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

    def _reach(self, job: Job, cancelled: threading.Event) -> None:
        """A program needs its parameter servers' names; alone, also their ports."""
        if not self.serves:
            connect = self.settings.controller is None
            peers.wait(cluster.spec(job)["ps"], self.settings.peers_timeout, connect, cancelled)

    def _start_child(self, directive: Directive) -> None:
        job, generation = directive.job, directive.generation
        invocation = cluster.invocation(job, self.settings.task, generation)
        env = {k: v for k, v in self.environ.items() if not k.startswith("TFRUN_")}
        env.setdefault("PYTHONUNBUFFERED", "1")
        if self.serves:
            # A parameter server on a GPU would take all of its memory from the workers.
            env.setdefault("CUDA_VISIBLE_DEVICES", "-1")
            env.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
            argv: tuple[str, ...] = (_python(job), "-m", "launcher.server")
            cwd = PACKAGE_PARENT
        else:
            assert self.pulled
            argv = invocation.argv
            cwd = self.pulled.folder / job.program.working_dir
            paths = [str(self.pulled.folder), env.get("PYTHONPATH", "")]
            env["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        env.update(invocation.env)
        try:
            self.child = Child(argv, env, cwd, self.events.put)
        except LauncherError as failure:
            self._fail(generation, failure)
            return
        self.latest = ChildReport(generation)
        say(f"generation {generation}: started {' '.join(argv)} (process {self.child.pid})")

    def _stop_child(self, number: int) -> None:
        if self.child and self.latest:
            grace = self.directive.job.grace if self.directive else 0.0
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
            ready=self.directive is not None and self._ready(self.directive),
        )
        return self.report


def _python(job: Job) -> str:
    """The Python that has TensorFlow: the program's own, where it names one."""
    command = job.program.command[0]
    return command if Path(command).name.startswith("python") else sys.executable
