"""A whole run under seeded faults against the pure decisions, in simulated time.

Pods crash and come back, programs fail, messages take their time and arrive twice or late, the
controller dies and is replaced, the run is resized. What must always hold is checked after each
event; when the faults stop, the run must end.
"""

from __future__ import annotations

import functools
import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from launcher import decide
from launcher.decide import RunPhase
from launcher.exits import End, Phase
from launcher.identity import ROLES, Task
from launcher.protocol import Action, Directive, Report
from launcher.settings import Job
from tests.unit.jobs import job
from tests.unit.play import Pod

FAULTS_SECONDS = 300.0
PATIENCE_SECONDS = 600.0  # after the faults, for the run to end
HOLD_SECONDS = 20.0
WORK_SECONDS = 60.0  # what a worker computes in a run without faults


class ViolationError(AssertionError):
    """An invariant does not hold."""


@dataclass
class Node:
    """A pod, its connection, and what it is about to do."""

    pod: Pod
    epoch: int = 0  # a later request makes the answers to earlier ones void
    child_serial: int = 0
    stopping: bool = False
    told: tuple[object, ...] = ()


@dataclass
class Controller:
    """One life of the controller."""

    state: decide.State
    alive: bool = True
    recorded: bool = False
    waiting: dict[Task, tuple[Report, Callable[[Directive | None], None]]] = field(
        default_factory=dict
    )


class Simulation:
    """One schedule, all of it told by the seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.serial = 0
        self.queue: list[tuple[float, int, Callable[[], object]]] = []
        self.history: list[str] = []
        self.job: Job = job(
            replicas={"ps": self.random.randint(1, 2), "worker": self.random.randint(1, 4)},
            restarts__limit=self.random.choice([0, 1, 3, 1000]),
        )
        self.faulty = True
        self.nodes: dict[Task, Node] = {}
        self.replicas = dict.fromkeys(ROLES, 1)
        self.record: End | None = None  # on the StatefulSets
        self.told_end = False
        self.program_failures = 0
        self.progress: dict[Task, float] = {}
        self.controller: Controller | None = None
        self.finished: End | None = None

    # Time.

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        self.serial += 1
        heapq.heappush(self.queue, (self.now + seconds, self.serial, action))

    def some(self, most: float) -> float:
        return self.random.uniform(0.0, most)

    def run(self) -> End:
        for role in ROLES:
            self.make_pod(Task(role, 0))
        self.start_controller()
        self.after(self.some(20), self.fault)
        self.after(FAULTS_SECONDS, self.calm)
        while self.finished is None:
            self.now, _, action = heapq.heappop(self.queue)
            if self.now > FAULTS_SECONDS + PATIENCE_SECONDS:
                raise ViolationError(f"it does not end: {self.describe()}")
            action()
            self.check()
        end = self.finished
        while self.queue and self.now < FAULTS_SECONDS + PATIENCE_SECONDS:
            self.now, _, action = heapq.heappop(self.queue)
            action()
            self.check()
        return end

    def calm(self) -> None:
        self.faulty = False
        self.log("no more faults")

    def log(self, text: str) -> None:
        self.history.append(f"{self.now:7.2f} {text}")

    def describe(self) -> str:
        state = self.controller.state if self.controller else None
        phase = state and (state.phase, state.generation, decide_lacking(state))
        return f"{phase} {[(str(t), n.pod.holds, n.pod.child) for t, n in self.nodes.items()]}"

    # What must hold.

    def check(self) -> None:
        generations = {node.pod.runs for node in self.nodes.values()} - {None}
        if len(generations) > 1:
            raise ViolationError(f"generations {generations} train at once: {self.describe()}")
        if self.told_end and any(
            node.pod.runs is not None and not node.stopping and task.role == "worker"
            for task, node in self.nodes.items()
        ):
            raise ViolationError(f"it trains after the end: {self.describe()}")
        if self.controller and self.controller.state.charged > self.program_failures:
            raise ViolationError("the budget is charged for what the program did not do")

    # Kubernetes.

    def make_pod(self, task: Task) -> None:
        if task in self.nodes or task.index >= self.replicas[task.role]:
            return
        node = self.nodes[task] = Node(Pod(task, f"{task} {self.serial}", ready=False))
        self.log(f"{task} is made")

        def pulled() -> None:
            node.pod.ready = True
            self.changed(node)

        self.after(self.some(5), pulled)
        self.after(self.some(3), lambda: self.report(node))

    def remove_pod(self, task: Task) -> None:
        """It is gone with all that ran in it, and made again where it is wanted."""
        node = self.nodes.pop(task, None)
        if node:
            node.epoch += 1
            node.child_serial += 1
            self.log(f"{task} is gone")
            self.after(self.some(15), lambda: self.make_pod(task))

    def scale(self, role: str, replicas: int) -> None:
        self.log(f"{role} is scaled to {replicas}")
        self.replicas[role] = replicas
        for index in range(replicas):
            self.after(self.some(10), functools.partial(self.make_pod, Task(role, index)))
        for task in [t for t in self.nodes if t.role == role and t.index >= replicas]:
            self.after(self.some(5), functools.partial(self.leave, task))

    def leave(self, task: Task) -> None:
        if task.index >= self.replicas[task.role]:
            self.remove_pod(task)

    # The controller.

    def start_controller(self) -> None:
        controller = self.controller = Controller(decide.State(self.job))
        self.log("a controller starts")
        self.after(self.some(5), lambda: self.begin(controller))
        for node in self.nodes.values():
            self.after(self.some(5), functools.partial(self.report, node))

    def begin(self, controller: Controller) -> None:
        if not controller.alive:
            return
        if self.record:
            self.finished = self.record
            controller.alive = False
            return
        self.step(controller, decide.Begin(dict(self.replicas)))
        self.tick(controller)

    def tick(self, controller: Controller) -> None:
        if controller.alive:
            self.step(controller, decide.Tick())
            self.after(1.0, lambda: self.tick(controller))

    def step(self, controller: Controller, event: decide.Event) -> None:
        before = controller.state
        controller.state, effects = decide.step(before, event, self.now)
        for effect in effects:
            if isinstance(effect, decide.Say):
                self.log(effect.text)
            elif isinstance(effect, decide.Scale):
                self.apply(controller, effect)
            else:
                self.finish(controller, effect.end)
        after = controller.state
        if (before.phase, before.generation) != (after.phase, after.generation):
            self.answer(controller)

    def apply(self, controller: Controller, effect: decide.Scale) -> None:
        def patch() -> None:
            if controller.alive:
                self.scale(effect.role, effect.replicas)

        self.after(self.some(3), patch)

    def finish(self, controller: Controller, end: End) -> None:
        self.log(f"the end: {end.reason}")

        def write() -> None:
            if controller.alive:
                self.record = end
                self.told_end = True
                controller.recorded = True
                self.answer(controller)
                self.after(2.0, conclude)

        def conclude() -> None:
            if controller.alive:
                self.finished = end

        self.after(self.some(10), write)

    def answer(self, controller: Controller) -> None:
        for task, (report, reply) in list(controller.waiting.items()):
            wanted = self.directive(controller, report)
            if wanted:
                del controller.waiting[task]
                reply(wanted)

    def directive(self, controller: Controller, report: Report) -> Directive | None:
        wanted = decide.directive(controller.state, report)
        if wanted and wanted.action is Action.END and not controller.recorded:
            return None
        return wanted

    def hear(
        self, controller: Controller, report: Report, reply: Callable[[Directive | None], None]
    ) -> None:
        if not controller.alive:
            return
        superseded = controller.waiting.pop(report.task, None)
        if superseded:
            superseded[1](None)
        self.step(controller, decide.Heard(report))
        wanted = self.directive(controller, report)
        if wanted:
            reply(wanted)
        else:
            controller.waiting[report.task] = (report, reply)

    # Tasks.

    def changed(self, node: Node) -> None:
        """Something is new about a task: it gives up its held request and reports."""
        self.act(node)
        self.report(node)

    def report(self, node: Node) -> None:
        controller = self.controller
        if self.nodes.get(node.pod.task) is not node:
            return
        if controller is None or not controller.alive:
            return  # the next controller's start makes it report
        node.epoch += 1
        epoch = node.epoch
        report = node.pod.report()

        def reply(directive: Directive | None) -> None:
            self.after(self.some(0.2), lambda: self.receive(node, epoch, directive))

        times = 2 if self.faulty and self.random.random() < 0.1 else 1
        for _ in range(times):
            late = 3.0 if self.faulty and self.random.random() < 0.1 else 0.2
            self.after(self.some(late), lambda: self.hear(controller, report, reply))
        # A request that is lost or held for too long is made again.
        self.after(HOLD_SECONDS, lambda: self.repeat(node, epoch))

    def repeat(self, node: Node, epoch: int) -> None:
        if node.epoch == epoch:
            self.report(node)

    def receive(self, node: Node, epoch: int, directive: Directive | None) -> None:
        if self.nodes.get(node.pod.task) is not node or node.epoch != epoch:
            return
        if directive:
            node.pod.follow(directive)
        self.changed(node)

    def act(self, node: Node) -> None:
        pod = node.pod
        if pod.must_stop() and not node.stopping:
            node.stopping = True
            serial = node.child_serial
            self.after(self.some(3), lambda: self.child_ends(node, serial, 143))
        elif pod.may_start():
            pod.start()
            node.stopping = False
            node.child_serial += 1
            serial = node.child_serial
            self.log(f"{pod.task} starts in generation {pod.runs}")
            if pod.task.role == "worker":
                left = WORK_SECONDS - self.progress.get(pod.task, 0.0)
                begun = self.now
                self.after(max(left, 0.5), lambda: self.child_ends(node, serial, 0))
                if self.faulty and self.random.random() < 0.3:
                    code = self.random.choice([1, 1, 1, 137, 143, 2])
                    self.after(self.some(80), lambda: self.fail(node, serial, code))
                self.after(self.some(left), lambda: self.checkpoint(node, serial, begun))

    def checkpoint(self, node: Node, serial: int, begun: float) -> None:
        if node.child_serial == serial and node.pod.runs is not None:
            task = node.pod.task
            self.progress[task] = self.progress.get(task, 0.0) + self.now - begun

    def fail(self, node: Node, serial: int, code: int) -> None:
        if self.child_ends(node, serial, code) and code != 143:
            self.program_failures += 1

    def child_ends(self, node: Node, serial: int, code: int) -> bool:
        task = node.pod.task
        if self.nodes.get(task) is not node or node.child_serial != serial:
            return False
        if node.pod.runs is None:
            return False
        node.pod.end(code, stopped=node.stopping)
        if not node.stopping:
            self.log(f"{task} ends with {code}")
        node.stopping = False
        self.changed(node)
        return True

    # Faults.

    def fault(self) -> None:
        if not self.faulty:
            return
        chance = self.random.random()
        if chance < 0.45 and self.nodes:
            self.remove_pod(self.random.choice(sorted(self.nodes)))
        elif chance < 0.7:
            self.kill_controller(self.job)
        elif chance < 0.85 and self.record is None and not self.ended():
            self.kill_controller(
                job(
                    replicas={"ps": self.random.randint(1, 2), "worker": self.random.randint(1, 4)},
                    restarts__limit=self.job.restarts.limit,
                )
            )
        elif self.nodes:
            node = self.nodes[self.random.choice(sorted(self.nodes))]
            if node.pod.runs is not None:
                self.log(f"the child of {node.pod.task} is killed")
                self.fail(node, node.child_serial, 137)
        self.after(self.some(40), self.fault)

    def ended(self) -> bool:
        return self.controller is not None and self.controller.state.phase is RunPhase.ENDED

    def kill_controller(self, wanted: Job) -> None:
        if self.controller and self.finished is None:
            self.log(f"the controller dies; {dict(wanted.replicas)} is wanted")
            self.controller.alive = False
            self.job = wanted
            self.after(self.some(10), self.start_controller)


def decide_lacking(state: decide.State) -> list[str]:
    missing = [str(task) for task in state.job.tasks if task not in state.seats]
    return [f"not heard from: {missing}", *(str(f) for f in state.failures.values())]


def named(end: End) -> bool:
    """Whether an end is a success or one named failure."""
    return end.phase is Phase.SUCCEEDED or (end.code != 0 and bool(end.task) and bool(end.reason))
