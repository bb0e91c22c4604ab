"""Whole runs under seeded faults against the pure decisions, in simulated time.

Around the two pure steps, `decisions.step` of a controller and `task.step` of each task, it plays
the network (messages are lost, delayed, repeated and overtaken), the child processes, the
StatefulSet controller, Helm, and controllers that crash, restart and overlap.
What must always hold is checked whenever something starts, ends or is charged; after the faults
every run must end in success or in one named failure.

    python -m tests.unit.simulator --seeds 100000     # the nightly form
    python -m tests.unit.simulator --start 17 --seeds 1 --tell

A schedule that fails is shrunk, fault by fault, and told as a history.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import heapq
import multiprocessing
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Callable, NamedTuple

from launcher.decisions import directive, failures, forming
from launcher.decisions import state as run_state
from launcher.decisions.step import step
from launcher.shared.exits import Code, End, Phase
from launcher.shared.identity import Task
from launcher.shared.job import Job, job_of
from launcher.shared.modes import EVALUATOR, MODES
from launcher.shared.protocol import Action, ChildReport, Directive, Holds, Leader, Report
from launcher.task import state as task_state
from launcher.task import step as task_step
from launcher.task.state import Activity

FAULTS_SECONDS = 90.0
PATIENCE_SECONDS = 400.0  # after the faults, for the run to end
STOP_SECONDS = 40.0  # after the end, for everything to stop
HOLD_SECONDS = 20.0
TICK_SECONDS = 2.0
WORK_SECONDS = 25.0  # what each program computes in a run without faults
GRACE = 6.0
HANG_SECONDS = 8.0
DEADLINE = 120.0
PERMANENT = 2

KINDS = {  # of faults, and how often
    "child fails": 6,
    "child is killed": 2,
    "child is terminated": 2,
    "child hangs": 2,
    "launcher restarts": 3,
    "pod is deleted": 4,
    "pod is gone": 3,
    "pod is out of reach": 3,
    "all pods are gone": 1,
    "controller crashes": 4,
    "upgrade": 5,
    "pull fails": 1,
    "no room": 2,
    "code is edited": 1,
    "program always fails": 1,
}


class Violation(AssertionError):  # noqa: N818 a promise that was broken, no mistake of a caller
    """What must always hold does not."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule


class Wish(NamedTuple):
    """What a person asks Helm for."""

    mode: str
    ps: int
    worker: int
    evaluator: bool
    limit: int
    success: str
    chief_first: bool
    hang: bool
    deadline: bool
    keep: bool
    joins: bool
    refresh: bool
    args: int = 0
    attempt: int = 0
    revision: int = 0


@functools.cache
def job_for(wish: Wish) -> Job:
    replicas = {"ps": wish.ps, "worker": wish.worker}
    if wish.mode == "all-reduce":
        del replicas["ps"]
    if wish.mode == "coordinator":
        replicas["chief"] = 1
    if wish.evaluator:
        replicas[EVALUATOR] = 1
    return job_of(
        {
            "version": 1,
            "release": "sim",
            "run": f"run{wish.attempt}",
            "mode": wish.mode,
            "replicas": replicas,
            "maxReplicas": {"worker": 4 if wish.joins else 0},
            "addresses": {"host": "sim-{role}-{index}.sim", "port": 2222},
            "program": {
                "command": ["python", "train.py"],
                "args": [str(wish.args)],
                "env": {},
                "flags": False,
                "workingDir": "",
            },
            "code": {
                "folder": {"path": "/app"},
                "refresh": "OnGeneration" if wish.refresh else "OnRequest",
            },
            "restarts": {"limit": wish.limit, "permanentCodes": [PERMANENT], "refill": 600},
            "success": wish.success,
            "chiefFirst": wish.chief_first,
            "hangTimeout": HANG_SECONDS if wish.hang else 0,
            "deadline": DEADLINE if wish.deadline else 0,
            "logs": "",
            "checkpoints": "",
            "grace": GRACE,
            "cleanup": "Keep" if wish.keep else "Delete",
        }
    )


class Fault(NamedTuple):
    """Something that happens; `pick` says to whom, `how` the rest."""

    at: float
    kind: str
    pick: float
    how: float

    def __str__(self) -> str:
        return f"{self.at:6.2f} {self.kind} ({self.pick:.4f}, {self.how:.4f})"


class Schedule(NamedTuple):
    """All that a seed tells."""

    seed: int
    wish: Wish
    faults: tuple[Fault, ...]


def schedule_for(seed: int) -> Schedule:
    dice = random.Random(seed)
    wish = Wish(
        mode=dice.choice(list(MODES)),
        ps=dice.randint(1, 2),
        worker=dice.randint(1, 3),
        evaluator=dice.random() < 0.25,
        limit=dice.choice([0, 1, 3, 1000]),
        success=dice.choice(["AllWorkers", "AllWorkers", "Chief"]),
        chief_first=dice.random() < 0.4,
        hang=dice.random() < 0.4,
        deadline=dice.random() < 0.1,
        keep=dice.random() < 0.3,
        joins=dice.random() < 0.3,
        refresh=dice.random() < 0.2,
    )
    wish = wish._replace(joins=wish.joins and MODES[wish.mode].joins)
    kinds, weights = list(KINDS), list(KINDS.values())
    begin, end = 0.0, FAULTS_SECONDS
    if dice.random() < 0.5:  # they come together
        begin = dice.uniform(0, FAULTS_SECONDS - 25)
        end = begin + dice.uniform(3, 25)
    faults = sorted(
        Fault(dice.uniform(begin, end), kind, dice.random(), dice.random())
        for kind in dice.choices(kinds, weights, k=dice.choice([0, 1, 1, 2, 2, 3, 4, 6, 8]))
    )
    return Schedule(seed, wish, tuple(faults))


@dataclass(eq=False)
class Process:
    """A child process of a launcher, and what will become of it."""

    job: Job
    generation: int
    program: bool
    stands_in: bool
    code: str  # the digest of what it runs
    began_at: float
    up: bool = False
    stopping: bool = False
    doomed: str = ""  # whose fault its end will be


@dataclass(eq=False)
class Pod:
    """A pod with its launcher, which follows directives by `launcher.task.step`."""

    task: Task
    revision: int
    token: int = 0  # of the launcher's life; what was planned for an earlier one is void
    alive: bool = False  # the launcher
    reachable: bool = True
    going: bool = False  # it was told to end
    state: task_state.State | None = None  # the launcher's
    left: ChildReport | None = None  # what the last launcher in this pod died with
    sequence: int = 0
    sent_by: Controller | None = None
    sent_at: float = 0.0
    code: int = 0  # what was pulled
    process: Process | None = None
    epoch: int = 0  # of the request; answers to earlier ones are void
    answered: bool = False  # an answer is on its way

    @property
    def holds(self) -> Holds | None:
        directive = self.state.directive if self.state else None
        return directive.holds() if directive else None

    @property
    def child(self) -> ChildReport | None:
        return self.state.child if self.state else None

    @property
    def running(self) -> bool:
        """Whether a child of its generation runs; a server that stands in is none."""
        return self.process is not None and not self.process.stands_in


@dataclass(eq=False)
class Controller:
    """One life of a controller."""

    serial: int
    job: Job
    wish: Wish
    offset: float
    state: run_state.State
    alive: bool = True
    number: int = 0  # of its claim on the StatefulSets
    recorded: bool = False
    waiting: dict[Task, tuple[Pod, int, int, Report]] | None = None
    effects: list[run_state.Effect] | None = None
    busy: bool = False
    farewell: set[Task] | None = None


class Simulation:
    """One schedule."""

    def __init__(self, schedule: Schedule, tell: bool = False) -> None:
        self.schedule = schedule
        self.random = random.Random(schedule.seed * 7 + 1).random
        self.now = 0.0
        self.serial = 0
        self.queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self.history: list[str] | None = [] if tell else None
        self.faulty = True
        self.wish = self.before = schedule.wish
        self.job = job_for(self.wish)
        # Kubernetes.
        self.replicas: dict[str, int] = {}
        self.pods: dict[Task, Pod] = {}
        self.coming: set[Task] = set()
        self.room_at = 0.0  # when pods can be scheduled again
        self.claims = 0  # how many controllers have claimed the StatefulSets
        self.records: dict[str, End] = {}  # on the StatefulSets, by run
        self.run_began: dict[str, float] = {}
        # Controllers.
        self.controllers: list[Controller] = []
        self.newest = 0  # the serial of the newest one
        self.outcome: End | None = None
        self.outcome_at = 0.0
        # The truth.
        self.running: dict[Pod, None] = {}
        self.ended: dict[str, float] = {}  # when a run's end was recorded
        self.caused: Counter[str] = Counter()  # failures that the program caused, by run
        self.codes: set[tuple[str, str, int]] = set()
        self.finished: set[tuple[str, Task, int]] = set()  # of which somebody knows
        self.succeeded: set[tuple[str, Task]] = set()
        self.progress: dict[tuple[str, Task], float] = {}
        self.poison: dict[tuple[str, int], tuple[str, int]] = {}
        self.pull_fails: dict[Task, int] = {}
        self.drains: Counter[Task] = Counter()  # children that were terminated
        self.edits = 0  # of the code

    # Time.

    def after(self, seconds: float, action: Callable[..., None], *arguments: Any) -> None:
        self.serial += 1
        heapq.heappush(self.queue, (self.now + seconds, self.serial, action, arguments))

    def log(self, text: str, *arguments: object) -> None:
        if self.history is not None:
            self.history.append(f"{self.now:7.2f} {text.format(*arguments)}")

    def run(self) -> End:
        self.helm(self.wish, first=True)
        for fault in self.schedule.faults:
            self.after(fault.at, self.fault, fault)
        self.after(FAULTS_SECONDS, self.calm)
        queue, pop = self.queue, heapq.heappop
        limit = FAULTS_SECONDS + PATIENCE_SECONDS
        while queue:
            self.now, _, action, arguments = pop(queue)
            action(*arguments)
            if self.outcome:
                since = max(self.outcome_at, FAULTS_SECONDS if self.schedule.faults else 0.0)
                if self.now > since + STOP_SECONDS:
                    break
            elif self.now > limit:
                raise Violation("liveness", f"the run does not end: {self.describe()}")
        if self.outcome is None:
            raise Violation("liveness", f"nothing happens any more: {self.describe()}")
        if self.running:
            raise Violation("stop", f"after the end there run {self.describe()}")
        return self.outcome

    def calm(self) -> None:
        self.log("no more faults")
        self.faulty = False
        if self.wish.limit > 10:
            self.poison.clear()  # tried again for ever
        for pod in list(self.pods.values()):
            if not pod.reachable:
                self.reach_again(pod)

    def describe(self) -> str:
        lines = [
            f"{c.serial} ({c.state.phase.value} generation {c.state.generation} forming "
            f"{sorted(map(str, c.state.forming))} runs "
            f"{ {str(t): s.orders.generation for t, s in c.state.seats.items()} } "
            f"done {sorted(str(t) for t, s in c.state.seats.items() if s.orders.done)} "
            f"lacks { {str(t): forming.lacks(c.state, t) for t in c.state.forming} })"
            for c in self.controllers
            if c.alive
        ]
        return f"controllers: {lines}, pods: " + "; ".join(
            f"{pod.task}: {_holds(pod.holds)}, child {_child(pod)}" for pod in self.pods.values()
        )

    # Helm and Kubernetes.

    def helm(self, wish: Wish, first: bool = False) -> None:
        """A new Job; the old one's controller may be alive for a while."""
        old_revision = self.wish.revision
        changed = job_for(wish) is not self.job or wish.revision != old_revision
        self.before, self.wish, self.job = self.wish, wish, job_for(wish)
        for role in self.job.replicas:
            if role not in self.replicas:  # a StatefulSet without replicas has one
                self.replicas[role] = 1
                self.ensure(role)
        for role in [role for role in self.replicas if role not in self.job.replicas]:
            del self.replicas[role]  # with its StatefulSet
            for pod in [p for p in self.pods.values() if p.task.role == role]:
                self.delete(pod)
        if wish.revision != old_revision:
            self.roll()
        if not changed and not first:
            return
        for controller in self.controllers:
            if controller.alive:
                self.after(self.random() ** 2 * 20, self.crash, controller, False)
        self.outcome = None
        self.newest += 1
        self.after(self.random() * 4, self.start_controller, self.newest)

    def scale(self, role: str, replicas: int) -> None:
        if role not in self.replicas:
            return
        self.log("{} is scaled to {}", role, replicas)
        self.replicas[role] = replicas
        self.ensure(role)
        for pod in list(self.pods.values()):
            if pod.task.role == role and pod.task.index >= replicas:
                self.delete(pod)

    def ensure(self, role: str) -> None:
        """Makes a role's pods that are missing; never before the old one is known to be dead."""
        for index in range(self.replicas.get(role, 0)):
            task = Task(role, index)
            if task not in self.pods and task not in self.coming:
                self.coming.add(task)
                slow = 25.0 if self.faulty and self.random() < 0.1 else 4.0
                self.after(self.random() * slow, self.make, task)

    def make(self, task: Task) -> None:
        if self.now < self.room_at:
            self.after(self.room_at - self.now, self.make, task)
            return
        self.coming.discard(task)
        if task.index < self.replicas.get(task.role, 0) and task not in self.pods:
            pod = self.pods[task] = Pod(task, self.wish.revision)
            self.log("pod {} is made", task)
            self.after(self.random(), self.start_launcher, pod, pod.token)

    def roll(self) -> None:
        """A StatefulSet's rolling update: one pod of a role after the other."""
        again = False
        for role, replicas in self.replicas.items():
            pods = [pod for pod in self.pods.values() if pod.task.role == role]
            outdated = [pod for pod in pods if pod.revision != self.wish.revision]
            again = again or bool(outdated)
            if outdated and len(pods) == replicas and all(pod.alive for pod in pods):
                self.delete(max(outdated, key=lambda pod: pod.task.index))
        if again:
            self.after(1.0, self.roll)

    def delete(self, pod: Pod) -> None:
        """SIGTERM, grace, gone."""
        if pod.going or self.pods.get(pod.task) is not pod:
            return
        self.log("pod {} is told to end", pod.task)
        pod.going = True
        if not pod.reachable:
            return  # its node has not heard of it yet
        if not pod.alive:
            self.after(0.5, self.gone, pod)
            return
        self.leave(pod)

    def leave(self, pod: Pod) -> None:
        """The kubelet sends SIGTERM, and kills what is left after the pod's grace."""
        self.after(GRACE + 5.0, self.gone, pod)
        self.take(pod, task_state.Signalled(signal.SIGTERM, self.now))
        self.await_chief(pod, pod.token)

    def await_chief(self, pod: Pod, token: int) -> None:
        """A server looks now and then whether the chief, whom it may serve, has left it."""
        if pod.token != token or not pod.state or not task_state.awaits_chief(pod.state):
            return
        assert pod.process
        chief = self.pods.get(pod.process.job.mode.chief)
        if chief and chief.running and self.now < pod.state.leave_by:
            self.after(0.5, self.await_chief, pod, token)
        else:
            self.take(pod, task_state.ChiefLeft())

    def say_farewell(self, pod: Pod) -> None:
        """The launcher's last report, and its end."""
        if self.random() < 0.8:
            self.send(pod)
        pod.alive = False
        self.after(0.1 + self.random(), self.gone, pod)

    def gone(self, pod: Pod) -> None:
        """The pod is confirmed dead, with all that ran in it."""
        if self.pods.get(pod.task) is not pod:
            return
        self.log("pod {} is gone", pod.task)
        self.end_launcher(pod)
        del self.pods[pod.task]
        self.forget()
        self.ensure(pod.task.role)

    def end_launcher(self, pod: Pod) -> None:
        pod.token += 1
        pod.epoch += 1
        process = pod.process
        if process:
            self.note_end(pod)
            if not process.stands_in:
                self.harm(pod, process.job, "outside")
        pod.alive = pod.answered = False
        pod.state = pod.left = None

    def forget(self) -> None:
        """What nobody knows any more may happen again."""
        for program, task, generation in list(self.finished):
            pod = self.pods.get(task)
            knows = False
            if pod and pod.holds and pod.holds.generation == generation:
                stands_in = pod.process is not None and pod.process.stands_in
                knows = stands_in or pod.child is not None
            for controller in self.controllers:
                state = controller.state
                # An older one, which may write no more, tells nobody.
                leads = controller.alive and controller.number == self.claims
                orders = state.seat(task).orders
                done = leads and orders.done
                done = done and controller.job.program_digest == program
                knows |= done and orders.generation == generation
            if not knows:
                self.finished.discard((program, task, generation))

    # Controllers.

    def start_controller(self, serial: int) -> None:
        if serial != self.newest:
            return
        state = run_state.State(self.job, self.job, Leader(0, f"{self.random():.6f}"))
        controller = Controller(serial, self.job, self.wish, self.random() * 1e6, state)
        controller.waiting, controller.effects, controller.farewell = {}, [], set()
        self.controllers.append(controller)
        self.log("a controller {} starts: {}", serial, dict(self.job.replicas))
        self.after(self.random() * 3, self.begin, controller)

    def begin(self, controller: Controller) -> None:
        """It claims the StatefulSets, and reads them; older controllers write them no more."""
        if not controller.alive:
            return
        self.claims += 1
        controller.number = number = self.claims
        self.forget()
        run = controller.job.run
        if run in self.records:
            self.log("the record says that {} has ended", run)
            there = {role: self.replicas.get(role, 0) for role in controller.job.replicas}
            self.step(controller, run_state.Begin(number, there, {}, end=self.records[run]))
            return
        began_at = self.run_began.setdefault(run, self.now)
        roles = [role for role in controller.job.replicas if role in self.replicas]
        revisions = {role: str(self.wish.revision) for role in roles}
        replicas = {role: self.replicas[role] for role in roles}
        self.step(controller, run_state.Begin(number, replicas, revisions, self.now - began_at))
        self.tick(controller)

    def tick(self, controller: Controller) -> None:
        if controller.alive:
            self.step(controller, run_state.Tick())
            self.after(TICK_SECONDS, self.tick, controller)

    def crash(self, controller: Controller, again: bool = True) -> None:
        """It dies; its Job starts it again, if it is still wanted."""
        if not controller.alive:
            return
        self.log("controller {} dies", controller.serial)
        controller.alive = False
        self.forget()
        if again and controller.serial == self.newest and self.outcome is None:
            self.after(0.5 + self.random() * 8, self.start_controller, controller.serial)

    def step(self, controller: Controller, event: run_state.Event) -> None:
        before = controller.state
        now = self.now + controller.offset
        state, effects = step(before, event, now)
        controller.state = state
        if self.history is not None:
            for effect in effects:
                if isinstance(effect, run_state.Say):
                    self.log("[{}] {}", controller.serial, effect.text)
        if len(state.charges) > len(before.charges) and before.phase is run_state.RunPhase.LEADING:
            self.check_charge(controller)
            for seconds in (5.0, 15.0, 30.0):
                self.after(seconds, self.check_charges)
        for effect in effects:
            if not isinstance(effect, run_state.Say):
                assert controller.effects is not None
                controller.effects.append(effect)
        if effects:
            self.follow(controller)
        if state.phase is run_state.RunPhase.YIELDED:
            self.crash(controller)
        elif state is not before:
            self.wake(controller)

    def wake(self, controller: Controller) -> None:
        waiting = controller.waiting
        assert waiting is not None
        for task in list(waiting):
            pod, token, epoch, report = waiting[task]
            wanted = self.directive(controller, report)
            if wanted:
                del waiting[task]
                self.answer(controller, pod, token, epoch, wanted)

    def follow(self, controller: Controller) -> None:
        """Carries effects out, one after the other."""
        assert controller.effects is not None
        if controller.busy or not controller.effects or not controller.alive:
            return
        effect = controller.effects.pop(0)
        controller.busy = True
        self.after(self.random() ** 3 * 3, self.carry_out, controller, effect)

    def carry_out(self, controller: Controller, effect: run_state.Effect) -> None:
        controller.busy = False
        if not controller.alive:
            return
        if self.claims != controller.number:
            self.log("controller {} leads no more", controller.serial)
            self.crash(controller)
            return
        if isinstance(effect, run_state.Scale):
            self.scale(effect.role, effect.replicas)
        elif isinstance(effect, run_state.Finish):
            self.finish(controller, effect.end)
            return
        self.follow(controller)

    def finish(self, controller: Controller, end: End) -> None:
        self.log("the end is recorded: {} {} {}", end.phase.value, end.code, end.words)
        run = controller.job.run
        if self.records.get(run) != end:
            self.check_end(controller, end)
        self.records[run] = end
        self.ended.setdefault(run, self.now)
        controller.recorded = True
        if not controller.wish.keep:
            for role in controller.job.replicas:
                self.scale(role, 0)
        self.wake(controller)
        self.after(0.5, self.conclude, controller, end, self.now)

    def conclude(self, controller: Controller, end: End, since: float) -> None:
        """It stays until all tasks that it knows have heard; kept pods have nobody else."""
        if not controller.alive:
            return
        heard = controller.farewell
        assert heard is not None
        if heard.issuperset(controller.job.tasks) or self.now - since > (
            120.0 if controller.wish.keep else 2.0
        ):
            controller.alive = False
            if controller.serial == self.newest:
                self.set_outcome(end)
        else:
            self.after(0.5, self.conclude, controller, end, since)

    def set_outcome(self, end: End) -> None:
        self.outcome, self.outcome_at = end, self.now

    def directive(self, controller: Controller, report: Report) -> Directive | None:
        wanted = directive.directive(directive.instructions(controller.state), report)
        if wanted and wanted.action is Action.END and not controller.recorded:
            return None
        return wanted

    def hear(
        self, controller: Controller, pod: Pod, token: int, epoch: int, report: Report
    ) -> None:
        if not controller.alive:
            return
        assert controller.waiting is not None
        assert controller.farewell is not None
        holds = report.holds
        ended = holds and holds.action is Action.END and holds.run == controller.job.run
        if ended and not run_state.runs(report):
            controller.farewell.add(report.task)
        self.step(controller, run_state.Heard(report))
        if not controller.alive:
            return
        wanted = self.directive(controller, report)
        if wanted:
            self.answer(controller, pod, token, epoch, wanted)
        elif pod.token == token and pod.epoch == epoch:
            controller.waiting[report.task] = (pod, token, epoch, report)

    def answer(
        self, controller: Controller, pod: Pod, token: int, epoch: int, wanted: Directive
    ) -> None:
        if pod.token != token or pod.epoch != epoch:
            return  # nobody listens any more
        if self.faulty and self.random() < 0.03:
            return  # lost
        pod.answered = True
        self.after(self.delay(), self.receive, pod, token, epoch, controller, wanted, self.now)

    def delay(self) -> float:
        if self.faulty and self.random() < 0.06:
            return self.random() * 3.0
        return self.random() * 0.05

    # Launchers.

    def start_launcher(self, pod: Pod, token: int) -> None:
        if pod.token != token or self.pods.get(pod.task) is not pod or pod.going:
            return
        self.serial += 1
        pod.alive, pod.sequence = True, 0
        pod.state = task_state.State(
            task=pod.task,
            incarnation=f"{pod.task} {self.serial}",
            address=f"address {self.serial}",
            revision=str(pod.revision),
            child=pod.left,
        )
        pod.left = None
        self.log("the launcher of {} starts", pod.task)
        self.send(pod)

    def take(self, pod: Pod, event: task_state.Event) -> None:
        """Something happens to a task, and all that it does about it."""
        assert pod.state
        token = pod.token
        pod.state, effects = task_step.step(pod.state, event)
        for effect in effects:
            if pod.token == token:
                self.do(pod, effect)

    def do(self, pod: Pod, effect: task_state.Effect) -> None:
        if isinstance(effect, task_state.Say):
            self.log("{}: {}", pod.task, effect.text)
        elif isinstance(effect, task_state.Tell):
            # If an answer is on its way, that may be taken first.
            if not pod.answered or self.random() < 0.5:
                self.send(pod)
        elif isinstance(effect, task_state.Pull):
            self.after(self.random() * 3, self.pull, pod, pod.token)
        elif isinstance(effect, task_state.ReachPeers):
            self.after(self.random() ** 3 * 3, self.reach_peers, pod, pod.token)
        elif isinstance(effect, (task_state.StartProgram, task_state.StartServer)):
            self.start_child(pod, effect)
        elif isinstance(effect, task_state.Stop):
            self.stop_child(pod)
        elif isinstance(effect, task_state.Leave):
            self.say_farewell(pod)

    def send(self, pod: Pod) -> None:
        if not pod.alive:
            return
        pod.epoch += 1
        pod.answered = False
        token, epoch = pod.token, pod.epoch
        alive = [controller for controller in self.controllers if controller.alive]
        if len(alive) != len(self.controllers):
            self.controllers = alive
        if not alive or not pod.reachable:
            self.after(0.5 + self.random() * 4, self.resend, pod, token, epoch)
            return
        controller = alive[-1] if self.random() < 0.7 else alive[int(self.random() * len(alive))]
        report = self.report(pod)
        chance = self.random() if self.faulty else 1.0
        if chance < 0.03:  # lost
            wait = 0.3 if self.random() < 0.5 else HOLD_SECONDS + 10
            self.after(wait, self.resend, pod, token, epoch)
            return
        if chance < 0.06:  # repeated
            self.after(self.delay(), self.hear, controller, pod, token, epoch, report)
        self.after(self.delay(), self.hear, controller, pod, token, epoch, report)
        self.after(HOLD_SECONDS + self.random(), self.resend, pod, token, epoch)

    def resend(self, pod: Pod, token: int, epoch: int) -> None:
        if pod.token == token and pod.epoch == epoch:
            self.send(pod)

    def report(self, pod: Pod) -> Report:
        assert pod.state
        pod.sequence += 1
        return task_state.report(pod.state, pod.sequence, self.now)

    def receive(
        self,
        pod: Pod,
        token: int,
        epoch: int,
        controller: Controller,
        directive: Directive,
        sent_at: float,
    ) -> None:
        if pod.token != token or pod.epoch != epoch or not pod.reachable or not pod.alive:
            return
        holds = pod.holds
        new = directive.holds()
        if holds is None or (new.leader, new.generation) >= (holds.leader, holds.generation):
            if holds and new.generation < holds.generation:
                raise Violation(
                    "generation", f"{pod.task} holds {_holds(holds)} and is told {_holds(new)}"
                )
            self.log("{} holds {}", pod.task, _holds(new))
            pod.sent_by, pod.sent_at = controller, sent_at
        pod.answered = False
        self.take(pod, task_state.Told(directive))

    def pull(self, pod: Pod, token: int) -> None:
        if pod.token != token:
            return
        doing = pod.state.doing if pod.state else None
        assert doing
        assert doing.activity is Activity.PULLING
        if doing.ending and self.random() < 0.5:
            code = int(Code.TRY_AGAIN)
            self.take(pod, task_state.Failed(code, "nobody wants it", (), self.now))
        elif not doing.ending and self.pull_fails.get(pod.task, 0):
            self.pull_fails[pod.task] -= 1
            code = int(Code.IO)
            self.log("{} cannot pull the code", pod.task)
            self.blame(pod, doing.directive.job, code, "program")
            self.take(pod, task_state.Failed(code, "no code", (), self.now))
        else:
            # A file system may tell an old tale.
            pod.code = self.edits if self.random() < 0.7 else max(pod.code, self.edits - 1)
            self.take(pod, task_state.CodePulled(str(pod.code), ""))

    def reach_peers(self, pod: Pod, token: int) -> None:
        if pod.token == token:
            self.take(pod, task_state.PeersReached())

    # Children.

    def start_child(
        self, pod: Pod, effect: task_state.StartProgram | task_state.StartServer
    ) -> None:
        task, job, generation = pod.task, effect.directive.job, effect.directive.generation
        doing = pod.state.doing if pod.state else None
        assert doing
        program = isinstance(effect, task_state.StartProgram)
        if pod.process:
            raise Violation("two children", f"{task} runs one already")
        if program and (job.program_digest, task, generation) in self.finished:
            raise Violation("again", f"{task} has finished in generation {generation} already")
        stands_in = doing.activity is Activity.STANDING_IN
        process = Process(job, generation, program, stands_in, str(pod.code), self.now)
        pod.process = process
        self.running[pod] = None
        self.log("{} starts its child in generation {}", task, generation)
        self.check_running(pod, process)
        if not program:
            return
        poison = self.poison.get((job.run, self.wish.args))
        if poison and poison[0] == task.role:
            self.doom(pod, process, self.random() * 3, poison[1], "program")
        elif task.role == EVALUATOR:
            if self.random() < 0.3:
                self.after(self.random() * 20, self.end_child, pod, process, 0, "")
        else:
            left = WORK_SECONDS - self.progress.get((job.run, task), 0.0)
            self.after(max(left, 1.0), self.end_child, pod, process, 0, "")
        if task == job.mode.chief and self.random() < 0.8:
            self.after(0.5 + self.random() * 3, self.come_up, pod, process)

    def come_up(self, pod: Pod, process: Process) -> None:
        if pod.process is process:
            process.up = True
            self.take(pod, task_state.Seen(self.now, up=True, quiet=0.0))

    def doom(self, pod: Pod, process: Process, seconds: float, code: int, whose: str) -> None:
        """Its child will fail. It is the program's fault, or it is not."""
        self.after(seconds, self.end_child, pod, process, code, whose)

    def end_child(self, pod: Pod, process: Process, code: int, whose: str) -> None:
        if pod.process is not process or process.doomed == "hung":
            return
        task, job, stopped = pod.task, process.job, process.stopping
        self.note_end(pod)
        self.log("the child of {} ends{}: {} ({})", task, " as told" * stopped, code, whose)
        ended_well = code == 0 and process.program
        if not stopped and not process.stands_in:
            if not ended_well:
                self.blame(pod, job, code, whose)
            elif task.role != EVALUATOR:
                self.finished.add((job.program_digest, task, process.generation))
                self.succeeded.add((job.program_digest, task))
        # The others feel it, whatever its reason.
        if not ended_well and not process.stands_in:
            self.harm(pod, job, whose or "outside")
        self.take(pod, task_state.ChildEnded(code, (), self.now))

    def note_end(self, pod: Pod) -> None:
        process = pod.process
        assert process
        self.running.pop(pod, None)
        pod.process = None
        if process.program:
            key = (process.job.run, pod.task)
            self.progress[key] = self.progress.get(key, 0.0) + self.now - process.began_at

    def stop_child(self, pod: Pod) -> None:
        """SIGTERM, and SIGKILL after the grace."""
        process = pod.process
        assert process
        process.stopping, process.doomed = True, ""
        chance = self.random()
        seconds, code = self.random() * 1.5, 143
        if not process.program:
            seconds = 0.05
        elif chance < 0.2:
            seconds, code = GRACE, 137
        elif chance < 0.3:
            seconds, code = self.random() * GRACE, 0  # it saves, and ends well
        self.after(seconds, self.end_child, pod, process, code, "")

    def harm(self, lost: Pod, job: Job, whose: str) -> None:
        """What a lost task does to the programs that work with it."""
        if lost.task.role == EVALUATOR:
            return
        mode = job.mode.name
        if mode != "all-reduce" and lost.task.role != "ps":
            return
        chance = 0.7 if mode == "all-reduce" else 0.5
        for pod in list(self.running):
            process = pod.process
            if not process or not process.program or pod.task.role == EVALUATOR or pod is lost:
                continue
            if self.random() < chance:
                self.doom(pod, process, self.random() ** 2 * 4, 1, whose)
            elif self.random() < 0.3:
                self.hang(pod, process, whose)

    def hang(self, pod: Pod, process: Process, whose: str) -> None:
        if process.job.hang_timeout and not process.stopping:
            process.doomed = "hung"
            self.after(HANG_SECONDS, self.tell_hang, pod, process, whose)

    def tell_hang(self, pod: Pod, process: Process, whose: str) -> None:
        if pod.process is process and process.doomed == "hung":
            self.log("the child of {} makes no progress ({})", pod.task, whose)
            self.blame(pod, process.job, int(Code.DEADLINE), whose)
            self.take(pod, task_state.Seen(self.now, up=process.up, quiet=HANG_SECONDS))

    def blame(self, pod: Pod, job: Job, code: int, whose: str) -> None:
        if whose == "program":
            self.caused[job.run] += 1
            self.codes.add((job.run, str(pod.task), code))

    # What must hold.

    def check_running(self, started: Pod, new: Process) -> None:
        """Something has just started."""
        job = new.job
        ended_at = self.ended.get(job.run)
        if ended_at is not None and started.sent_at > ended_at:
            sender = started.sent_by
            if sender and self.claims == sender.number:
                raise Violation("after the end", f"{started.task} starts: {self.describe()}")
        if started.task.role == EVALUATOR:
            return
        mode = job.mode
        for pod in self.running:
            process = pod.process
            if not process or pod is started or pod.task.role == EVALUATOR:
                continue
            other = process.job
            if pod.task.index >= job.replicas.get(pod.task.role, 0) and not pod.reachable:
                continue  # it was to leave, and nobody can know whether it has
            differ = other.program_digest != job.program_digest
            if mode.name != "coordinator":
                differ = differ or other.cluster_digest != job.cluster_digest
            if differ:
                raise Violation(
                    "one cluster",
                    f"{started.task} starts with {_spec(job)} while {pod.task} runs with "
                    f"{_spec(other)}: {self.describe()}",
                )
            if process.stands_in or new.stands_in:
                continue
            if process.program and new.program and process.code != new.code:
                raise Violation(
                    "one code",
                    f"{started.task} starts code {new.code} while {pod.task} runs {process.code}",
                )
            runs, starts = process.generation, new.generation
            torn = mode.name == "all-reduce" and runs != starts
            torn |= started.task.role == "ps" and process.program and runs < starts
            if torn:
                raise Violation(
                    "one generation",
                    f"{started.task} starts in {starts} while {pod.task} runs in {runs}",
                )

    def check_charge(self, controller: Controller) -> None:
        """Losses that nobody could know of yet are taken back later."""
        state, run = controller.state, controller.job.run
        if len(state.charges) <= self.caused[run]:
            return
        for task in controller.job.tasks:
            pod, heard = self.pods.get(task), state.seat(task).report
            if not pod or not heard or not pod.alive or pod.going or not pod.reachable:
                return
            if not pod.state or heard.incarnation != pod.state.incarnation:
                return
            if pod.child and (not heard.child or heard.child.code != pod.child.code):
                return
        raise Violation(
            "budget", f"{len(state.charges)} are charged, the program failed {self.caused[run]}"
        )

    def check_charges(self) -> None:
        for controller in self.controllers:
            if controller.alive:
                self.check_charge(controller)

    def check_end(self, controller: Controller, end: End) -> None:
        job = controller.job
        run = job.run
        self.check_charge(controller)
        if end.found:
            if run not in self.ended:
                raise Violation("end", f"it has not: {end}")
            if end.phase is not self.records[run].phase:
                raise Violation("end", f"it was {self.records[run]}: {end}")
            return
        if end.phase is Phase.SUCCEEDED:
            led = controller.state.job  # it may have waited in vain for more pods
            tasks = [task for task in led.tasks if job.mode.decides_success(task)]
            if job.success == "Chief":
                tasks = [job.mode.chief]
            for task in tasks:
                if (job.program_digest, task) not in self.succeeded:
                    raise Violation("end", f"{task} has not finished: {end}")
            return
        if end.code == Code.DEADLINE and job.deadline and "deadline" in end.reason:
            if self.now - self.run_began[run] < job.deadline:
                raise Violation("end", f"it is too early: {end}")
            return
        if end.code == Code.CODE_MISSING and "the code of all tasks" in end.reason:
            if not self.edits:
                raise Violation("end", f"nobody has edited the code: {end}")
            return
        if not end.task or not end.reason or not end.code:
            raise Violation("end", f"it has no name: {end}")
        if (run, end.task, end.code) not in self.codes:
            raise Violation("end", f"the program did not do that: {end}")
        permanent = end.code in (PERMANENT, *failures.PERMANENT)
        if not permanent and self.caused[run] <= job.restarts.limit:
            raise Violation("budget", f"the program failed {self.caused[run]}: {end}")

    # Faults.

    def fault(self, fault: Fault) -> None:
        kind, how = fault.kind, fault.how
        if kind == "controller crashes":
            alive = [controller for controller in self.controllers if controller.alive]
            if alive:
                self.log("fault: {}", kind)
                self.crash(alive[int(fault.pick * len(alive))])
            return
        if kind == "upgrade":
            self.upgrade(fault)
            return
        if kind == "code is edited":
            self.edits += 1
            self.log("fault: {}", kind)
            return
        if kind == "no room":
            self.room_at = max(self.room_at, self.now + how * 80)
            self.log("fault: {} until {:.2f}", kind, self.room_at)
            return
        if kind == "program always fails":
            role = "chief" if self.job.mode.name == "coordinator" else "worker"
            code = PERMANENT if how < 0.2 else 1
            self.log("fault: from now on each {} ends with {}", role, code)
            self.poison[(self.job.run, self.wish.args)] = (role, code)
            return
        if kind == "all pods are gone":
            self.log("fault: {}", kind)
            for pod in list(self.pods.values()):
                self.gone(pod)
            return
        pods = sorted(self.pods.values(), key=lambda pod: pod.task)
        if kind.startswith("child"):
            pods = [pod for pod in pods if _may_fail(pod)]
        if not pods:
            return
        pod = pods[int(fault.pick * len(pods))]
        process = pod.process
        self.log("fault: {}: {}", pod.task, kind)
        if kind.startswith("child"):
            assert process
            self.fault_of_child(kind, how, pod, process)
        elif kind == "launcher restarts":
            if pod.going:
                self.gone(pod)
                return
            left = None
            if pod.running and pod.child and process:
                # The container is killed: nobody can tell that from a program that takes too much.
                left = replace(pod.child, code=137, stopped=False, reason="killed", up=False)
                self.blame(pod, process.job, 137, "program")
            self.end_launcher(pod)
            pod.left = left
            self.forget()
            self.after(0.2 + how * 10, self.start_launcher, pod, pod.token)
        elif kind == "pod is deleted":
            self.delete(pod)
        elif kind == "pod is gone":
            self.gone(pod)
        elif kind == "pod is out of reach":
            if pod.reachable:
                pod.reachable = False
                if process:  # nobody can tell it from the program's own failure
                    self.harm(pod, process.job, "program")
                self.after(how * 40, self.reach_again, pod)
                if how > 0.7:
                    self.after(how * 30, self.gone, pod)
        elif kind == "pull fails":
            self.pull_fails[pod.task] = 1 + int(how * 2)

    def fault_of_child(self, kind: str, how: float, pod: Pod, process: Process) -> None:
        if kind == "child fails":
            code = PERMANENT if how < 0.1 else 1 if how < 0.8 else 139
            self.end_child(pod, process, code, "program")
        elif kind == "child is killed":
            self.end_child(pod, process, 137, "program")
        elif kind == "child is terminated":
            self.drains[pod.task] += 1
            outside = self.drains[pod.task] <= failures.DRAINS
            self.end_child(pod, process, 143, "outside" if outside else "program")
        elif process.program:
            self.hang(pod, process, "program")

    def reach_again(self, pod: Pod) -> None:
        if self.pods.get(pod.task) is not pod or pod.reachable:
            return
        self.log("{} is in reach again", pod.task)
        pod.reachable = True
        if pod.going:
            if pod.alive:
                self.leave(pod)
            else:
                self.after(0.5, self.gone, pod)
        elif pod.alive:
            self.after(self.random() * 4, self.resend, pod, pod.token, pod.epoch)

    def upgrade(self, fault: Fault) -> None:
        dice = random.Random(fault.how)
        wish, what = self.wish, fault.pick
        if what < 0.55:
            wish = wish._replace(ps=dice.randint(1, 2), worker=dice.randint(1, 4))
        elif what < 0.65:
            wish = wish._replace(args=wish.args + 1)
        elif what < 0.75:
            wish = wish._replace(limit=dice.choice([0, 1, 3]), keep=dice.random() < 0.5)
        elif what < 0.85:
            wish = wish._replace(revision=wish.revision + 1, args=wish.args + 1)
        elif what < 0.9:
            wish = wish._replace(evaluator=not wish.evaluator)
        elif what < 0.95:
            wish = self.before._replace(revision=wish.revision)  # helm rollback
        else:
            wish = wish._replace(attempt=wish.attempt + 1)
        self.log("fault: upgrade to {}", wish)
        self.helm(wish)


def _may_fail(pod: Pod) -> bool:
    return pod.process is not None and not pod.process.stands_in and not pod.process.stopping


def _holds(holds: Holds | None) -> str:
    if holds is None:
        return "nothing"
    return f"{holds.action.value} {holds.generation} of {holds.leader.number} {holds.leader.id}"


def _child(pod: Pod) -> str:
    process, child = pod.process, pod.child
    if process:
        what = "stands in" if process.stands_in else "runs"
        return f"{process.generation} {what}" + ", stopping" * process.stopping
    return f"{child.generation} ended {child.code}" if child else "none"


def _spec(job: Job) -> str:
    return f"{dict(job.replicas)} {job.document['program']['args']}"


# Many schedules.


def play(schedule: Schedule) -> Violation | None:
    try:
        Simulation(schedule).run()
    except Violation as violation:
        return violation
    except Exception as error:
        return Violation("crash", repr(error))
    return None


def shrink(schedule: Schedule, rule: str) -> Schedule:
    """Leaves out faults as long as the same rule is still broken."""
    index = 0
    while index < len(schedule.faults):
        fewer = schedule.faults[:index] + schedule.faults[index + 1 :]
        smaller = schedule._replace(faults=fewer)
        violation = play(smaller)
        if violation and violation.rule == rule:
            schedule, index = smaller, 0
        else:
            index += 1
    return schedule


def tell(schedule: Schedule) -> str:
    """The history of a schedule, for a person."""
    simulation = Simulation(schedule, tell=True)
    try:
        end = _end(simulation.run())
    except Exception as error:
        end = f"{type(error).__name__}: {error}"
    assert simulation.history is not None
    faults = [f"  {fault}" for fault in schedule.faults]
    head = [f"seed {schedule.seed}: {schedule.wish}", *faults]
    return "\n".join([*head, *simulation.history, end])


def _end(end: End) -> str:
    return (
        f"End(phase={end.phase!r}, code={end.code!r}, reason={end.words!r}, task={end.task!r}, "
        f"last_lines={end.last_lines!r})"
    )


def explain(seed: int) -> str:
    """A failing seed, shrunk and told."""
    schedule = schedule_for(seed)
    violation = play(schedule)
    assert violation
    return tell(shrink(schedule, violation.rule))


def _batch(seeds: range) -> tuple[int, list[tuple[int, str]]]:
    failed = []
    for seed in seeds:
        violation = play(schedule_for(seed))
        if violation:
            failed.append((seed, violation.rule))
    return len(seeds), failed


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Seeded schedules against launcher.decisions.")
    parser.add_argument("--seeds", type=int, default=2000, help="how many schedules")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--tell", action="store_true", help="print each schedule's history")
    parser.add_argument("--digest", action="store_true", help="print what names all histories")
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    options = parser.parse_args(argv)
    seeds = range(options.start, options.start + options.seeds)
    if options.tell:
        for seed in seeds:
            print(tell(schedule_for(seed)))
        return 0
    if options.digest:
        histories = "\n".join(tell(schedule_for(seed)) for seed in seeds)
        print(hashlib.sha256(histories.encode()).hexdigest())
        return 0
    began = said = time.monotonic()
    played, failed = 0, []
    batches = [seeds[i : i + 100] for i in range(0, len(seeds), 100)]
    with multiprocessing.Pool(options.jobs) as pool:
        for count, bad in pool.imap_unordered(_batch, batches):
            played += count
            failed += bad
            if time.monotonic() - said > 4:
                said = time.monotonic()
                print(f"{played} schedules, {len(failed)} broken", flush=True)
    seconds = time.monotonic() - began
    print(f"{played} schedules in {seconds:.1f} s, {len(failed)} broken")
    rules = Counter(rule for _, rule in failed)
    for rule, count in rules.most_common():
        print(f"  {rule}: {count}, as seeds {[s for s, r in sorted(failed) if r == rule][:8]}")
    if failed:
        print(explain(min(failed)[0]))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
