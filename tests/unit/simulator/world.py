"""One schedule in simulated time: network, Kubernetes, Helm, controllers, launchers, children."""

from __future__ import annotations

import heapq
import random
import signal
from collections import Counter
from dataclasses import dataclass
from typing import Any, Callable

from launcher.decisions import directive, forming
from launcher.decisions import state as decisions_state
from launcher.decisions.step import step
from launcher.shared.exits import End, ExitCode
from launcher.shared.identity import Task
from launcher.shared.job import Job
from launcher.shared.modes import EVALUATOR
from launcher.shared.protocol import Action, ChildReport, Directive, Holds, Leader, Report
from launcher.task import state as task_state
from launcher.task import step as task_step
from launcher.task.state import Activity
from tests.unit.simulator import faults, promises
from tests.unit.simulator.promises import Violation
from tests.unit.simulator.schedule import (
    CALLED_SECONDS,
    FAULTS_SECONDS,
    GRACE,
    HANG_SECONDS,
    HOLD_SECONDS,
    PATIENCE_SECONDS,
    STOP_SECONDS,
    TICK_SECONDS,
    WORK_SECONDS,
    Schedule,
    Wish,
    job_for,
)


@dataclass(eq=False)
class Process:
    """A child process of a launcher, and its state."""

    job: Job
    generation: int
    program: bool
    stands_in: bool
    digest: str  # of the code that it runs
    began_at: float
    up: bool = False
    stopping: bool = False
    hung: bool = False
    waits: bool = False  # for other workers, before it computes


@dataclass(eq=False)
class Pod:
    """A pod with its launcher, which follows directives by `launcher.task.step`."""

    task: Task
    revision: int
    token: int = 0  # numbers the launchers in this pod; events for an earlier one are void
    alive: bool = False  # the launcher
    reachable: bool = True
    going: bool = False  # it was told to end
    state: task_state.State | None = None  # the launcher's
    left: ChildReport | None = None  # the child that died with this pod's last launcher
    sequence: int = 0
    edition: int = 0  # of the code that was pulled
    process: Process | None = None
    epoch: int = 0  # numbers the requests; answers to earlier ones are void
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
        """Whether a child runs that is no stand-in."""
        return self.process is not None and not self.process.stands_in


@dataclass(eq=False)
class Controller:
    """One life of a controller."""

    serial: int
    job: Job
    wish: Wish
    offset: float
    state: decisions_state.State
    alive: bool = True
    number: int = 0  # of its claim on the StatefulSets
    recorded: bool = False
    waiting: dict[Task, tuple[Pod, int, int, Report]] | None = None
    effects: list[decisions_state.Effect] | None = None
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
        # What has really happened; the promises are checked against it.
        self.running: dict[Pod, None] = {}
        self.ended: dict[str, float] = {}  # when a run's end was recorded
        self.caused: Counter[str] = Counter()  # failures that the program caused, by run
        self.codes: set[tuple[str, str, int]] = set()
        self.finished: set[tuple[str, Task, int]] = set()  # which a task or the leader knows
        self.succeeded: set[tuple[str, Task]] = set()
        self.progress: dict[tuple[str, Task], float] = {}
        self.poison: dict[tuple[str, int], tuple[str, int, tuple[str, ...]]] = {}
        self.steps: Counter[str] = Counter()  # what programs print as they end, by run
        self.mistaken_at: dict[str, float] = {}  # when TensorFlow last made its mistake, by run
        self.pull_fails: dict[Task, int] = {}
        self.drains: Counter[Task] = Counter()  # children that were terminated
        self.edits = 0  # of the code
        self.sent: dict[int, tuple[Controller, float, Directive]] = {}  # by the directive's id()

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
            self.after(fault.at, faults.happen, self, fault)
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
            self.poison.clear()  # otherwise it would be retried for ever
        for pod in list(self.pods.values()):
            if not pod.reachable:
                faults.reach_again(self, pod)

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
        """Makes the missing pods of a role. A lost pod is missing once it is confirmed dead."""
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
            return  # its node does not know it yet
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
        """A server that is told to end serves until its chief has stopped; it polls for that."""
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
        pod.token += 1  # what it has begun ends with it
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
        """A finished task that no task and no leader knows of may run again."""
        for program, task, generation in list(self.finished):
            pod = self.pods.get(task)
            knows = False
            if pod and pod.holds and pod.holds.generation == generation:
                stands_in = pod.process is not None and pod.process.stands_in
                knows = stands_in or pod.child is not None
            for controller in self.controllers:
                state = controller.state
                # An older controller, which can write nothing, does not count.
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
        state = decisions_state.State(self.job, self.job, Leader(0, f"{self.random():.6f}"))
        controller = Controller(serial, self.job, self.wish, self.random() * 1e6, state)
        controller.waiting, controller.effects, controller.farewell = {}, [], set()
        self.controllers.append(controller)
        self.log("a controller {} starts: {}", serial, dict(self.job.replicas))
        self.after(self.random() * 3, self.begin, controller)

    def begin(self, controller: Controller) -> None:
        """It claims and reads the StatefulSets. Older controllers can no longer write them."""
        if not controller.alive:
            return
        self.claims += 1
        controller.number = number = self.claims
        self.forget()
        run = controller.job.run
        if run in self.records:
            self.log("the record says that {} has ended", run)
            there = {role: self.replicas.get(role, 0) for role in controller.job.replicas}
            self.step(controller, decisions_state.Begin(number, there, {}, end=self.records[run]))
            return
        began_at = self.run_began.setdefault(run, self.now)
        roles = [role for role in controller.job.replicas if role in self.replicas]
        revisions = {role: str(self.wish.revision) for role in roles}
        replicas = {role: self.replicas[role] for role in roles}
        self.step(
            controller, decisions_state.Begin(number, replicas, revisions, self.now - began_at)
        )
        self.tick(controller)

    def tick(self, controller: Controller) -> None:
        if controller.alive:
            self.step(controller, decisions_state.Tick())
            self.after(TICK_SECONDS, self.tick, controller)

    def crash(self, controller: Controller, again: bool = True) -> None:
        """It dies. Its Job restarts it if it is still wanted."""
        if not controller.alive:
            return
        self.log("controller {} dies", controller.serial)
        controller.alive = False
        self.forget()
        if again and controller.serial == self.newest and self.outcome is None:
            self.after(0.5 + self.random() * 8, self.start_controller, controller.serial)

    def step(self, controller: Controller, event: decisions_state.Event) -> None:
        before = controller.state
        now = self.now + controller.offset
        state, effects = step(before, event, now)
        controller.state = state
        if self.history is not None:
            for effect in effects:
                if isinstance(effect, decisions_state.Say):
                    self.log("[{}] {}", controller.serial, effect.text)
        if (
            len(state.charges) > len(before.charges)
            and before.phase is decisions_state.RunPhase.LEADING
        ):
            promises.check_charge(self, controller)
            for seconds in (5.0, 15.0, 30.0):
                self.after(seconds, promises.check_charges, self)
        for effect in effects:
            if not isinstance(effect, decisions_state.Say):
                assert controller.effects is not None
                controller.effects.append(effect)
        if effects:
            self.follow(controller)
        if state.phase is decisions_state.RunPhase.YIELDED:
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

    def carry_out(self, controller: Controller, effect: decisions_state.Effect) -> None:
        controller.busy = False
        if not controller.alive:
            return
        if self.claims != controller.number:
            self.log("controller {} leads no more", controller.serial)
            self.crash(controller)
            return
        if isinstance(effect, decisions_state.Scale):
            self.scale(effect.role, effect.replicas)
        elif isinstance(effect, decisions_state.Finish):
            self.finish(controller, effect.end)
            return
        self.follow(controller)

    def finish(self, controller: Controller, end: End) -> None:
        self.log("the end is recorded: {} {} {}", end.phase.value, end.exit_code, end.words)
        run = controller.job.run
        if self.records.get(run) != end:
            promises.check_end(self, controller, end)
        self.records[run] = end
        self.ended.setdefault(run, self.now)
        controller.recorded = True
        if not controller.wish.keep:
            for role in controller.job.replicas:
                self.scale(role, 0)
        self.wake(controller)
        self.after(0.5, self.conclude, controller, end, self.now)

    def conclude(self, controller: Controller, end: End, since: float) -> None:
        """It stays until all of its tasks know the end. Pods that are kept learn it only here."""
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
        if ended and not decisions_state.runs(report):
            controller.farewell.add(report.task)
        self.step(controller, decisions_state.Heard(report))
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
            return  # the task has given up this request
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
        """An event happens to a task, and all of its effects."""
        assert pod.state
        token = pod.token
        before = pod.state
        pod.state, effects = task_step.step(before, event)
        if pod.state.directive is not before.directive:
            self.log("{} holds {}", pod.task, _holds(pod.holds))
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
        held = pod.holds
        self.sent[id(directive)] = (controller, sent_at, directive)
        pod.answered = False
        self.take(pod, task_state.Told(directive))
        promises.check_obedience(pod, held)

    def pull(self, pod: Pod, token: int) -> None:
        if pod.token != token:
            return
        doing = pod.state.doing if pod.state else None
        assert doing
        assert doing.activity is Activity.PULLING
        if doing.ending and self.random() < 0.5:
            code = int(ExitCode.TRY_AGAIN)
            self.take(pod, task_state.Failed(code, "nobody wants it", (), self.now))
        elif not doing.ending and self.pull_fails.get(pod.task, 0):
            self.pull_fails[pod.task] -= 1
            code = int(ExitCode.IO)
            self.log("{} cannot pull the code", pod.task)
            self.blame(pod, doing.directive.job, code, "program")
            self.take(pod, task_state.Failed(code, "no code", (), self.now))
        else:
            # A file system may still show the code from before the last edit.
            pod.edition = self.edits if self.random() < 0.7 else max(pod.edition, self.edits - 1)
            self.take(pod, task_state.CodePulled(str(pod.edition), ""))

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
        process = Process(job, generation, program, stands_in, str(pod.edition), self.now)
        pod.process = process
        self.running[pod] = None
        self.log("{} starts its child in generation {}", task, generation)
        promises.check_running(self, pod, process, *self.sent[id(effect.directive)][:2])
        if not program:
            return
        poison = self.poison.get((job.run, self.wish.args))
        if poison and poison[0] == task.role:
            self.doom(pod, process, self.random() * 3, poison[1], "program", poison[2])
        elif task.role == EVALUATOR:
            if self.random() < 0.3:
                self.after(self.random() * 20, self.end_child, pod, process, 0, "")
        elif task == job.mode.chief and job.mode.chief_first and self.schedule.wish.calls:
            process.waits = True
            self.after(0.5 + self.random() * 3, self.call, pod, process)
            return
        else:
            self.compute(pod, process)
        if task == job.mode.chief and self.random() < 0.8:
            self.after(0.5 + self.random() * 3, self.come_up, pod, process)

    def compute(self, pod: Pod, process: Process) -> None:
        left = WORK_SECONDS - self.progress.get((process.job.run, pod.task), 0.0)
        self.after(max(left, 1.0), self.end_child, pod, process, 0, "")

    def call(self, chief: Pod, process: Process) -> None:
        """A chief's session connects to all other workers, until all of them run."""
        if chief.process is not process or not chief.state:
            return
        others = [
            self.pods.get(task)
            for task in process.job.tasks
            if process.job.mode.decides_success(task) and task != chief.task
        ]
        if all(pod and pod.process and pod.reachable for pod in others):
            process.waits, process.began_at = False, self.now
            self.compute(chief, process)
            self.come_up(chief, process)
            return
        for pod in others:
            if pod and pod.reachable and pod.state and task_state.awaits_call(pod.state):
                self.log("{} calls {}", chief.task, pod.task)
                self.take(pod, task_state.ChiefCalled(chief.state.address))
                held = pod.state.directive
                self.after(CALLED_SECONDS, promises.check_called, self, pod, held, process)
        self.after(1.0, self.call, chief, process)

    def come_up(self, pod: Pod, process: Process) -> None:
        if pod.process is process:
            process.up = True
            self.take(pod, task_state.Seen(self.now, up=True, quiet=0.0))

    def doom(
        self,
        pod: Pod,
        process: Process,
        seconds: float,
        code: int,
        whose: str,
        lines: tuple[str, ...] = (),
    ) -> None:
        """Its child will fail; `whose` says whether that is the program's fault."""
        self.after(seconds, self.end_child, pod, process, code, whose, lines)

    def end_child(
        self, pod: Pod, process: Process, code: int, whose: str, lines: tuple[str, ...] = ()
    ) -> None:
        if pod.process is not process or process.hung:
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
        # A failure harms the other programs, whatever its cause.
        if not ended_well and not process.stands_in:
            self.harm(pod, job, whose or "outside")
        step = self.steps[job.run] if process.program else None
        self.take(pod, task_state.ChildEnded(code, lines, self.now, step))

    def note_end(self, pod: Pod) -> None:
        process = pod.process
        assert process
        self.running.pop(pod, None)
        pod.process = None
        if process.program and not process.waits:
            key = (process.job.run, pod.task)
            self.progress[key] = self.progress.get(key, 0.0) + self.now - process.began_at

    def stop_child(self, pod: Pod) -> None:
        """SIGTERM, and SIGKILL after the grace."""
        process = pod.process
        assert process
        process.stopping, process.hung = True, False
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
            process.hung = True
            self.after(HANG_SECONDS, self.tell_hang, pod, process, whose)

    def tell_hang(self, pod: Pod, process: Process, whose: str) -> None:
        if pod.process is process and process.hung:
            self.log("the child of {} makes no progress ({})", pod.task, whose)
            self.blame(pod, process.job, int(ExitCode.DEADLINE), whose)
            self.take(pod, task_state.Seen(self.now, up=process.up, quiet=HANG_SECONDS))

    def blame(self, pod: Pod, job: Job, code: int, whose: str) -> None:
        if whose == "program":
            self.caused[job.run] += 1
            self.codes.add((job.run, str(pod.task), code))


def _holds(holds: Holds | None) -> str:
    if holds is None:
        return "nothing"
    return f"{holds.action.value} {holds.generation} of {holds.leader.number} {holds.leader.id}"


def _child(pod: Pod) -> str:
    process, child = pod.process, pod.child
    if process:
        what = "stands in" if process.stands_in else "runs"
        return f"{process.generation} {what}" + ", stopping" * process.stopping
    return f"{child.generation} ended {child.exit_code}" if child else "none"
