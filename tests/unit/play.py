"""Tasks that do what directives say, without processes or time: for tests of the decisions.

`Play` is a controller's decisions with obedient tasks around them. A test makes things happen and
lets them settle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from launcher.decisions import directive, failures
from launcher.decisions import state as run_state
from launcher.decisions.step import step
from launcher.shared.exits import End, describe
from launcher.shared.identity import Task, parse_task
from launcher.shared.job import Job
from launcher.shared.protocol import Action, ChildReport, Directive, Holds, Leader, Report
from tests.unit.jobs import job

EVERYBODY = ("ps-0", "worker-0", "worker-1")


@dataclass
class Pod:
    """One task's launcher: it follows the newest directive, as `launcher.task.loop` does."""

    task: Task
    incarnation: str
    holds: Holds | None = None
    child: ChildReport | None = None
    sequence: int = 0
    ready: bool = True
    serving: bool = False
    revision: str = ""
    address: str = ""
    code: str = ""
    commit: str = ""
    pulls: list[int] = field(default_factory=list)  # what was asked for
    started: list[int] = field(default_factory=list)  # generations

    def report(self) -> Report:
        self.sequence += 1
        return Report(
            self.task,
            self.incarnation,
            self.sequence,
            self.address,
            self.revision,
            self.holds,
            self.child,
            self.ready and self.holds is not None,
            self.serving,
            wait=True,
            code=self.code,
            commit=self.commit,
        )

    @property
    def runs(self) -> int | None:
        """The generation of the child that runs."""
        return self.child.generation if self.child and self.child.code is None else None

    def follow(self, directive: Directive) -> bool:
        """Takes a directive, unless it is older than the one that it has."""
        held, new = self.holds, directive.holds()
        if held and (new.leader, new.generation) < (held.leader, held.generation):
            return False
        if not held or held.pull != new.pull:
            self.pulls.append(new.pull)
        self.holds = new
        self.serving = new.action is Action.SERVE
        return True

    def must_stop(self) -> bool:
        holds = self.holds
        wanted = holds.generation if holds and holds.action is Action.RUN else None
        return self.runs is not None and self.runs != wanted

    def may_start(self) -> bool:
        holds = self.holds
        return (
            holds is not None
            and holds.action is Action.RUN
            and self.ready
            and self.runs is None
            and (self.child is None or self.child.generation != holds.generation)
        )

    def start(self) -> None:
        assert self.holds
        self.started.append(self.holds.generation)
        self.child = ChildReport(self.holds.generation)

    def end(self, code: int, stopped: bool = False, lines: tuple[str, ...] = ()) -> None:
        assert self.child
        assert self.child.code is None
        self.child = replace(
            self.child, code=code, stopped=stopped, reason=describe(code), last_lines=lines
        )


class Play:
    """A run in which everything that is asked for happens at once."""

    def __init__(
        self, wanted: Job | None = None, replicas: Mapping[str, int] | None = None
    ) -> None:
        self.job = wanted or job()
        self.pods = {task: Pod(task, f"{task} first") for task in self.job.tasks}
        self.now = 0.0
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
        """A new controller comes; `replicas` is what the StatefulSets say."""
        self.job = job
        self.controllers += 1
        self.state = run_state.State(job, job, Leader(0, f"controller {self.controllers}"))
        self.said: list[str] = []
        self.scaled: list[tuple[str, int]] = []
        self.end: End | None = None
        number = self.controllers
        self.step(run_state.Begin(number, replicas or {}, revisions or {}, age, end))

    @property
    def generation(self) -> int:
        return run_state.latest_generation(self.state)

    def pod(self, name: str) -> Pod:
        return self.pods[parse_task(name)]

    def step(self, event: run_state.Event) -> None:
        self.state, effects = step(self.state, event, self.now)
        for effect in effects:
            if isinstance(effect, run_state.Say):
                self.said.append(effect.text)
            elif isinstance(effect, run_state.Scale):
                self.scaled.append((effect.role, effect.replicas))
            else:
                assert self.end is None, "a run ends once"
                self.end = effect.end

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.step(run_state.Tick())

    def tell(self, *names: str) -> None:
        """These tasks report once, and do at once what they are answered."""
        for name in names:
            pod = self.pod(name)
            report = pod.report()
            self.step(run_state.Heard(report))
            told = self.directive(report)
            if told and pod.follow(told):
                if pod.must_stop():
                    pod.end(143, stopped=True)
                if pod.may_start():
                    pod.start()

    def directive(self, report: Report) -> Directive | None:
        """What a task that reports this is answered."""
        return directive.directive(directive.instructions(self.state), report)

    def settle(self, *silent: str) -> None:
        """All but the silent tasks talk until nothing is new; a loop that never ends is a bug."""
        names = [str(task) for task in self.pods if str(task) not in silent]
        still = 0
        for _ in range(40):
            before = self._picture()
            self.tell(*names)
            self.tell(*names)  # what one was told may have waited for what another told
            still = still + 1 if before == self._picture() else 0
            pause = (self.state.not_before or 0.0) - self.now
            waits = self.state.settled_at is not None or pause > 0
            if still > 3 or (still and not waits):
                return
            if still:  # what follows a failure shows, and the backoff passes
                self.tick(max(failures.SETTLE_SECONDS, pause))
        raise AssertionError("it never settles")

    def _picture(self) -> list[object]:
        return [(pod.holds, pod.child, pod.serving) for pod in self.pods.values()]

    def exit(self, name: str, code: int, *lines: str) -> None:
        self.pod(name).end(code, lines=lines)

    def drain(self, name: str, code: int = 143) -> None:
        """The pod is told to end from outside: its child is stopped."""
        self.pod(name).end(code, stopped=True)

    def lose(self, name: str) -> None:
        """The pod is gone, and made again."""
        task = parse_task(name)
        self.pods[task] = Pod(task, f"{self.pods[task].incarnation}, again")

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
    """The child is killed together with its launcher; the next launcher in the pod knows."""
    generation = play.pod(name).runs
    assert generation
    play.lose(name)
    play.pod(name).child = ChildReport(generation, code=137, reason="killed with its launcher")


def fail_to_prepare(play: Play, name: str, code: int) -> None:
    """What a task reports of code or peers that it could not get."""
    pod = play.pod(name)
    assert pod.holds
    pod.child = ChildReport(pod.holds.generation, code, reason="no code")


def grow(play: Play, role: str, count: int) -> None:
    for index in range(count):
        task = Task(role, index)
        play.pods.setdefault(task, Pod(task, f"{task} first"))


def growing(replicas: dict[str, int] | None = None, **changes: object) -> Play:
    """A run that shall have a third worker, for which there is no room yet."""
    play = started(**changes)
    play.lead(job(**changes, replicas=replicas or {"ps": 1, "worker": 3}), {"ps": 1, "worker": 2})
    play.settle()
    return play
