"""Plays a controller and its tasks, for tests of the decisions.

`Play` connects the real decisions of a controller with the real `step` of each task. There are no
processes: what the tasks ask for happens at once. A test causes events, then lets them settle.
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace

from launcher.decisions import directive, failures
from launcher.decisions import state as decisions_state
from launcher.decisions.step import step
from launcher.shared.exits import End, ExitCode
from launcher.shared.identity import Task, parse_task
from launcher.shared.job import Job
from launcher.shared.protocol import ChildReport, Directive, Holds, Leader, Report
from launcher.task import state as task_state
from launcher.task import step as task_step
from launcher.task.state import Activity
from tests.unit.jobs import job

EVERYBODY = ("ps-0", "worker-0", "worker-1")


class Pod:
    """One task's launcher, which follows directives by `launcher.task.step`.

    A pull finds code of `digest`, and `commit` in its branch, once `can_pull` is true. It reaches
    its peers if `can_reach` is true. A child that is told to stop ends with `stops_with`; with None
    it continues, as one that still saves.
    """

    def __init__(
        self,
        task: Task,
        incarnation: str,
        clock: Callable[[], float] = lambda: 0.0,
        left: ChildReport | None = None,
    ) -> None:
        self.task = task
        self.clock = clock
        self.state = task_state.State(task, incarnation, child=left)
        self.digest = ""
        self.commit = ""
        self.can_pull = self.can_reach = True
        self.stops_with: int | None = 143
        self.sequence = 0
        self.pulls: list[int] = []  # the number in each request to pull
        self.started: list[int] = []  # the generation of each start

    def report(self) -> Report:
        """Its next report. Before that, a pull that has waited is done if it can be."""
        if self.doing(Activity.PULLING) and self.can_pull:
            self.take(task_state.CodePulled(self.digest, self.commit))
        self.sequence += 1
        return task_state.report(self.state, self.sequence, self.clock())

    def take(self, event: task_state.Event) -> None:
        """An event happens, and all of its effects."""
        self.state, effects = task_step.step(self.state, event)
        for effect in effects:
            self._do(effect)

    def _do(self, effect: task_state.Effect) -> None:
        if isinstance(effect, task_state.Pull):
            self.pulls.append(effect.directive.pull)
            if self.can_pull:
                self.take(task_state.CodePulled(self.digest, self.commit))
        elif isinstance(effect, task_state.ReachPeers):
            if self.can_reach:
                self.take(task_state.PeersReached())
        elif isinstance(effect, task_state.Cancel):
            self.fail(ExitCode.TRY_AGAIN, "nobody wants it")
        elif isinstance(effect, (task_state.StartProgram, task_state.StartServer)):
            if self.doing(Activity.RUNNING):
                self.started.append(effect.directive.generation)
        elif isinstance(effect, task_state.Stop) and self.stops_with is not None:
            self.end(self.stops_with)

    def doing(self, activity: Activity) -> bool:
        return self.state.doing is not None and self.state.doing.activity is activity

    def end(
        self, code: int, lines: tuple[str, ...] = (), ago: float = 0.0, step: int | None = None
    ) -> None:
        """Its child ends."""
        self.take(task_state.ChildEnded(code, lines, self.clock() - ago, step))

    def fail(self, code: int, reason: str) -> None:
        """Its current activity fails."""
        self.take(task_state.Failed(int(code), reason, (), self.clock()))

    def terminate(self) -> None:
        """The launcher gets SIGTERM, because the pod must end."""
        self.take(task_state.Signalled(signal.SIGTERM, self.clock()))

    @property
    def holds(self) -> Holds | None:
        return self.state.directive.holds() if self.state.directive else None

    @property
    def child(self) -> ChildReport | None:
        return self.state.child

    @property
    def runs(self) -> int | None:
        """The generation of the child that runs."""
        child = self.state.child
        return child.generation if child and self.doing(Activity.RUNNING) else None

    @property
    def stands_in(self) -> bool:
        return self.doing(Activity.STANDING_IN)

    def be(self, address: str = "", revision: str = "") -> None:
        """Sets the pod's address and the revision of its template."""
        self.state = replace(
            self.state,
            address=address or self.state.address,
            revision=revision or self.state.revision,
        )


class Play:
    """A run in which all effects happen at once."""

    def __init__(
        self, wanted: Job | None = None, replicas: Mapping[str, int] | None = None
    ) -> None:
        self.job = wanted or job()
        self.now = 0.0
        self.addresses = itertools.count(1)
        self.pods: dict[Task, Pod] = {}
        for task in self.job.tasks:
            self.make(task)
        self.controllers = 0
        self.lead(self.job, replicas)

    def lead(
        self,
        job: Job,
        replicas: Mapping[str, int] | None = None,
        revisions: Mapping[str, str] | None = None,
        age: float = 0.0,
        end: End | None = None,
    ) -> None:
        """A new controller starts; `replicas` are the counts of the StatefulSets."""
        self.job = job
        self.controllers += 1
        self.state = decisions_state.State(job, job, Leader(0, f"controller {self.controllers}"))
        self.said: list[str] = []
        self.counts = dict(replicas or {})
        self.scaled: list[tuple[str, int]] = []  # without requests that change no count
        self.end: End | None = None
        number = self.controllers
        self.step(decisions_state.Begin(number, replicas or {}, revisions or {}, age, end))

    def make(self, task: Task, left: ChildReport | None = None) -> Pod:
        """Makes a pod in place of the last one of its name. `left` is the child that died there."""
        number = next(self.addresses)
        pod = self.pods[task] = Pod(task, f"launcher {number}", lambda: self.now, left)
        pod.be(address=f"10.0.0.{number}")
        return pod

    @property
    def generation(self) -> int:
        return decisions_state.latest_generation(self.state)

    def pod(self, name: str) -> Pod:
        return self.pods[parse_task(name)]

    def step(self, event: decisions_state.Event) -> None:
        self.state, effects = step(self.state, event, self.now)
        for effect in effects:
            if isinstance(effect, decisions_state.Say):
                self.said.append(effect.text)
            elif isinstance(effect, decisions_state.Scale):
                if self.counts.get(effect.role) != effect.replicas:
                    self.scaled.append((effect.role, effect.replicas))
                self.counts[effect.role] = effect.replicas
            else:
                assert self.end is None, "a run ends once"
                self.end = effect.end

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.step(decisions_state.Tick())

    def tell(self, *names: str) -> None:
        """These tasks report once, and follow the answer at once."""
        for name in names:
            pod = self.pod(name)
            report = pod.report()
            self.step(decisions_state.Heard(report))
            told = self.directive(report)
            if told:
                pod.take(task_state.Told(told))

    def directive(self, report: Report) -> Directive | None:
        """The controller's answer to a report."""
        return directive.directive(directive.instructions(self.state), report)

    def settle(self, *silent: str) -> None:
        """All but the silent tasks report until nothing changes. Fails if that never ends."""
        names = [str(task) for task in self.pods if str(task) not in silent]
        still = 0
        for _ in range(40):
            before = self._picture()
            self.tell(*names)
            self.tell(*names)  # one task's answer may depend on another's report
            still = still + 1 if before == self._picture() else 0
            pause = (self.state.not_before or 0.0) - self.now
            waits = self.state.settled_at is not None or pause > 0
            if still > 3 or (still and not waits):
                return
            if still:  # lets the settling time or the backoff pass
                self.tick(max(failures.SETTLE_SECONDS, pause))
        raise AssertionError("it never settles")

    def _picture(self) -> list[object]:
        return [(pod.holds, pod.child, pod.stands_in) for pod in self.pods.values()]

    def exit(
        self, name: str, code: int, *lines: str, ago: float = 0.0, step: int | None = None
    ) -> None:
        """A child has ended by itself, `ago` seconds ago. It has printed `step`."""
        self.pod(name).end(code, lines, ago, step)

    def see(self, name: str, up: bool = False, quiet: float = 0.0) -> None:
        """A program's output says that its session is up, or stays silent for `quiet` seconds."""
        self.pod(name).take(task_state.Seen(self.now, up, quiet))

    def call(self, name: str) -> None:
        """The chief's session connects to a task that waits."""
        chief = self.pods[self.job.mode.chief]
        self.pod(name).take(task_state.ChiefCalled(chief.state.address))

    def drain(self, name: str, code: int = 143) -> None:
        """The pod is told to end from outside, and stops its child."""
        pod = self.pod(name)
        pod.stops_with = code
        pod.terminate()
        pod.take(task_state.ChiefLeft())

    def lose(self, name: str) -> None:
        """The pod is lost and replaced."""
        self.make(parse_task(name))

    def mislead(self, name: str, told: Directive) -> None:
        """A task follows an older controller's directive, and knows of no younger controller."""
        pod = self.pod(name)
        pod.state = replace(pod.state, directive=None)
        pod.take(task_state.Told(told))

    def running(self) -> dict[str, int]:
        return {str(task): pod.runs for task, pod in self.pods.items() if pod.runs is not None}


def all_run(generation: int) -> dict[str, int]:
    return dict.fromkeys(EVERYBODY, generation)


def started(**changes: object) -> Play:
    play = Play(job(**changes))
    play.settle()
    assert play.running() == {str(task): 1 for task in play.job.tasks}
    return play


def kill_container(play: Play, name: str) -> None:
    """The child is killed together with its launcher; the pod's next launcher reports it."""
    generation = play.pod(name).runs
    assert generation
    left = ChildReport(generation, exit_code=137, reason="killed with its launcher")
    play.make(parse_task(name), left)


def fail_to_prepare(play: Play, name: str, code: int, reason: str = "no code") -> None:
    """A task's pull fails."""
    pod = play.pod(name)
    assert pod.doing(Activity.PULLING)
    pod.fail(code, reason)


def grow(play: Play, role: str, count: int) -> None:
    for index in range(count):
        task = Task(role, index)
        if task not in play.pods:
            play.make(task)


def growing(replicas: dict[str, int] | None = None, **changes: object) -> Play:
    """A run that wants a third worker, for which there is no room yet."""
    play = started(**changes)
    play.lead(job(**changes, replicas=replicas or {"ps": 1, "worker": 3}), {"ps": 1, "worker": 2})
    play.settle()
    return play
