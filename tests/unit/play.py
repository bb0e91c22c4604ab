"""Tasks that do what directives say, without processes or time: for tests of the decisions.

`Play` is a controller's decisions with obedient tasks around them. A test makes things happen and
lets them settle.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from launcher import decide
from launcher.exits import End, describe
from launcher.identity import Task, parse_task
from launcher.protocol import Action, ChildReport, Directive, Holds, Leader, Report
from launcher.settings import Job
from tests.unit.jobs import job as small_job


@dataclass
class Pod:
    """One task's launcher: it follows the newest directive, as `launcher.task` does."""

    task: Task
    incarnation: str
    revision: str = ""
    holds: Holds | None = None
    child: ChildReport | None = None
    sequence: int = 0
    ready: bool = True
    serving: bool = False
    started: list[int] = field(default_factory=list)  # generations

    def report(self) -> Report:
        self.sequence += 1
        return Report(
            self.task,
            self.incarnation,
            self.sequence,
            "",
            self.revision,
            self.holds,
            self.child,
            self.ready and self.holds is not None,
            self.serving,
            wait=True,
        )

    @property
    def runs(self) -> int | None:
        """The generation of the child that runs."""
        return self.child.generation if self.child and self.child.code is None else None

    def follow(self, directive: Directive) -> bool:
        """Takes a directive, unless it is older than the one that it has."""
        told, holds = directive.holds(), self.holds
        if holds and (told.leader, told.generation) < (holds.leader, holds.generation):
            return False
        self.holds = told
        return True

    def act(self) -> None:
        """Does at once what it holds."""
        holds = self.holds
        assert holds
        wanted = holds.generation if holds.action in (Action.RUN, Action.SERVE) else None
        if self.runs is not None and self.runs != wanted:
            self.end(143, stopped=True)
        self.serving = holds.action is Action.SERVE and self.runs is None
        latest = self.child.generation if self.child else None
        if holds.action is Action.RUN and self.ready and latest != wanted:
            self.start()

    def start(self) -> None:
        assert self.holds
        self.started.append(self.holds.generation)
        self.child = ChildReport(self.holds.generation)

    def tell(self, **news: Any) -> None:
        """Its child's output has told something."""
        assert self.runs
        assert self.child
        self.child = replace(self.child, **news)

    def end(self, code: int, stopped: bool = False, lines: tuple[str, ...] = ()) -> None:
        assert self.child
        assert self.child.code is None
        self.child = replace(
            self.child, code=code, stopped=stopped, reason=describe(code), last_lines=lines
        )


class Play:
    """A run in which everything that is asked for happens at once."""

    def __init__(self, job: Job | None = None, replicas: dict[str, int] | None = None) -> None:
        self.job = job or small_job()
        self.pods = {task: Pod(task, f"{task} first") for task in self.job.tasks}
        self.now = 0.0
        self.controllers = 0
        self.lead(self.job, replicas)

    def lead(
        self,
        job: Job,
        replicas: dict[str, int] | None = None,
        revisions: dict[str, str] | None = None,
        age: float = 0.0,
    ) -> None:
        """A new controller comes; `replicas` and `revisions` are what the StatefulSets say."""
        self.job = job
        self.controllers += 1
        self.state = decide.State(job, Leader(0, f"controller {self.controllers}"))
        self.said: list[str] = []
        self.scaled: list[tuple[str, int]] = []
        self.end: End | None = None
        self.step(decide.Begin(replicas or {}, revisions or {}, age))

    @property
    def charged(self) -> int:
        """The restart budget spent so far."""
        return len(self.state.charges)

    def pod(self, name: str) -> Pod:
        return self.pods[parse_task(name)]

    def step(self, event: decide.Event) -> None:
        self.state, effects = decide.step(self.state, event, self.now)
        for effect in effects:
            if isinstance(effect, decide.Say):
                self.said.append(effect.text)
            elif isinstance(effect, decide.Scale):
                self.scaled.append((effect.role, effect.replicas))
            else:
                assert self.end is None, "a run ends once"
                self.end = effect.end

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.step(decide.Tick())

    def tell(self, *names: str) -> None:
        """These tasks report once, and do at once what they are answered."""
        for name in names:
            pod = self.pod(name)
            report = pod.report()
            self.step(decide.Heard(report))
            directive = decide.directive(self.state, report)
            if directive and pod.follow(directive):
                pod.act()

    def settle(self, *silent: str) -> None:
        """All but the silent tasks talk, and decisions that are due soon are waited for.

        Until nothing is new; a loop that never ends is a bug.
        """
        names = [str(task) for task in self.pods if str(task) not in silent]
        for _ in range(100):
            before = self._seen()
            self.tell(*names)
            if before != self._seen():
                continue
            state = self.state
            due = [state.settled_at] if state.failures else []
            due += [state.not_before] if state.forming else []
            due = [at for at in due if at > self.now]
            if not due:
                return
            self.now = min(due)
            self.step(decide.Tick())
        raise AssertionError("it never settles")

    def _seen(self) -> list[Any]:
        state = self.state
        decided = (state.phase, state.runs, state.forming, state.stopping, state.held)
        return [(pod.holds, pod.child, pod.serving) for pod in self.pods.values()] + [decided]

    def exit(self, name: str, code: int, *lines: str) -> None:
        self.pod(name).end(code, lines=lines)

    def drain(self, name: str, code: int = 143) -> None:
        """The pod is told to end from outside: its child is stopped."""
        self.pod(name).end(code, stopped=True)

    def lose(self, name: str) -> None:
        """The pod is gone, and made again."""
        task = parse_task(name)
        pod = self.pods[task]
        self.pods[task] = Pod(task, f"{pod.incarnation}, again", pod.revision)

    def running(self) -> dict[str, int]:
        return {str(task): pod.runs for task, pod in self.pods.items() if pod.runs is not None}

    def serving(self) -> list[str]:
        """Who keeps the seat of its program, which has ended."""
        return [str(task) for task, pod in self.pods.items() if pod.serving]
