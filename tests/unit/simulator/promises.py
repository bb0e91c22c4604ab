"""What must hold, whatever happens: checked when something starts, ends or is charged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.decisions import failures
from launcher.shared.exits import End, ExitCode, Phase
from launcher.shared.job import Job
from launcher.shared.modes import EVALUATOR
from launcher.shared.protocol import Directive, Holds
from tests.unit.simulator.schedule import (
    PERMANENT,
)

if TYPE_CHECKING:
    from tests.unit.simulator.world import Controller, Pod, Process, Simulation


class Violation(AssertionError):  # noqa: N818 a broken promise, no error of a caller
    """A promise is broken."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule


def check_obedience(pod: Pod, held: Holds | None) -> None:
    """A task has received a directive; `held` is the one that it followed before."""
    holds = pod.holds
    if not held or not holds:
        return
    if holds.leader < held.leader:
        raise Violation("leader", f"{pod.task} goes back to an older controller")
    if holds.generation < held.generation:
        raise Violation("generation", f"{pod.task} goes back to generation {holds.generation}")


def check_running(
    world: Simulation, started: Pod, new: Process, sender: Controller, sent_at: float
) -> None:
    """A child has just started, by a directive that `sender` sent at `sent_at`."""
    job = new.job
    ended_at = world.ended.get(job.run)
    if ended_at is not None and sent_at > ended_at and world.claims == sender.number:
        raise Violation("after the end", f"{started.task} starts: {world.describe()}")
    if started.task.role == EVALUATOR:
        return
    mode = job.mode
    for pod in world.running:
        process = pod.process
        if not process or pod is started or pod.task.role == EVALUATOR:
            continue
        other = process.job
        if pod.task.index >= job.replicas.get(pod.task.role, 0) and not pod.reachable:
            continue  # it was to leave, and no controller can know whether it has
        differ = other.program_digest != job.program_digest
        if mode.name != "coordinator":
            differ = differ or other.cluster_digest != job.cluster_digest
        if differ:
            raise Violation(
                "one cluster",
                f"{started.task} starts with {_spec(job)} while {pod.task} runs with "
                f"{_spec(other)}: {world.describe()}",
            )
        if process.stands_in or new.stands_in:
            continue
        if process.program and new.program and process.digest != new.digest:
            raise Violation(
                "one code",
                f"{started.task} starts code {new.digest} while {pod.task} runs {process.digest}",
            )
        runs, starts = process.generation, new.generation
        torn = mode.name == "all-reduce" and runs != starts
        torn |= started.task.role == "ps" and process.program and runs < starts
        if torn:
            raise Violation(
                "one generation",
                f"{started.task} starts in {starts} while {pod.task} runs in {runs}",
            )


def check_called(world: Simulation, pod: Pod, held: Directive, chief: Process) -> None:
    """The chief has needed this task for CALLED_SECONDS, and still does."""
    leads = any(each.alive and each.state.leader == held.leader for each in world.controllers)
    waits = pod.state is not None and pod.state.directive is held and chief.waits
    running = any(each.process is chief for each in world.running)
    if waits and running and leads and pod.alive and pod.reachable:
        raise Violation("called", f"{pod.task} waits: {world.describe()}")


def check_charge(world: Simulation, controller: Controller) -> None:
    """Too many charges are a violation only if the controller knows of all losses.

    It withdraws a charge when it learns of the loss that explains it.
    """
    state, run = controller.state, controller.job.run
    if len(state.charges) <= world.caused[run]:
        return
    for task in controller.job.tasks:
        pod, heard = world.pods.get(task), state.seat(task).report
        if not pod or not heard or not pod.alive or pod.going or not pod.reachable:
            return
        if not pod.state or heard.incarnation != pod.state.incarnation:
            return
        if pod.child and (not heard.child or heard.child.exit_code != pod.child.exit_code):
            return
    raise Violation(
        "budget", f"{len(state.charges)} are charged, the program failed {world.caused[run]}"
    )


def check_charges(world: Simulation) -> None:
    for controller in world.controllers:
        if controller.alive:
            check_charge(world, controller)


def check_end(world: Simulation, controller: Controller, end: End) -> None:
    job = controller.job
    run = job.run
    check_charge(world, controller)
    if end.found:
        if run not in world.ended:
            raise Violation("end", f"the run has not ended: {end}")
        if end.phase is not world.records[run].phase:
            raise Violation("end", f"the record is {world.records[run]}, not {end}")
        return
    if end.phase is Phase.SUCCEEDED:
        led = controller.state.job  # a smaller job than is wanted, if pods never came
        tasks = [task for task in led.tasks if job.mode.decides_success(task)]
        if job.success == "Chief":
            tasks = [job.mode.chief]
        for task in tasks:
            if (job.program_digest, task) not in world.succeeded:
                raise Violation("end", f"{task} has not finished: {end}")
        return
    if end.exit_code == ExitCode.DEADLINE and job.deadline and "deadline" in end.reason:
        if world.now - world.run_began[run] < job.deadline:
            raise Violation("end", f"the deadline has not passed: {end}")
        return
    if end.exit_code == ExitCode.CODE_MISSING and "the code of all tasks" in end.reason:
        if not world.edits:
            raise Violation("end", f"nobody has edited the code: {end}")
        return
    if not end.task or not end.reason or not end.exit_code:
        raise Violation("end", f"a task, a reason or a code is missing: {end}")
    if (run, end.task, end.exit_code) not in world.codes:
        raise Violation("end", f"the program did not do that: {end}")
    permanent = end.exit_code in (PERMANENT, *failures.PERMANENT)
    if not permanent and world.caused[run] <= job.restarts.limit:
        raise Violation("budget", f"the program failed {world.caused[run]}: {end}")


def _spec(job: Job) -> str:
    return f"{dict(job.replicas)} {job.document['program']['args']}"
