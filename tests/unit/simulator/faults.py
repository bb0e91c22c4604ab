"""The faults of a schedule, as they happen."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

from launcher.decisions import failures
from launcher.shared.modes import EVALUATOR
from tests.unit.simulator.schedule import (
    MISTAKE,
    MISTAKE_SECONDS,
    PERMANENT,
    Fault,
)

if TYPE_CHECKING:
    from tests.unit.simulator.world import Pod, Process, Simulation


def happen(world: Simulation, fault: Fault) -> None:
    kind, how = fault.kind, fault.how
    if kind == "controller crashes":
        alive = [controller for controller in world.controllers if controller.alive]
        if alive:
            world.log("fault: {}", kind)
            world.crash(alive[int(fault.pick * len(alive))])
        return
    if kind == "upgrade":
        _upgrade(world, fault)
        return
    if kind == "code is edited":
        world.edits += 1
        world.log("fault: {}", kind)
        return
    if kind == "no room":
        world.room_at = max(world.room_at, world.now + how * 80)
        world.log("fault: {} until {:.2f}", kind, world.room_at)
        return
    if kind == "program always fails":
        role = "chief" if world.job.mode.name == "coordinator" else "worker"
        code = PERMANENT if how < 0.2 else 1
        lines = MISTAKE if how > 0.6 else ()
        world.log("fault: from now on each {} ends with {} {}", role, code, lines)
        world.poison[(world.job.run, world.wish.args)] = (role, code, lines)
        return
    if kind == "replicas become 1":  # as `helm upgrade --force-replace` does
        if not world.outcome:
            world.log("fault: {}", kind)
            for role in list(world.replicas):
                world.scale(role, 1)
        return
    if kind == "all pods are gone":
        world.log("fault: {}", kind)
        for pod in list(world.pods.values()):
            world.gone(pod)
        return
    pods = sorted(world.pods.values(), key=lambda pod: pod.task)
    if kind.startswith("child"):
        pods = [pod for pod in pods if _may_fail(pod)]
    if kind == "child meets TensorFlow's mistake":
        pods = [pod for pod in pods if _has_session(pod)]
    if not pods:
        return
    pod = pods[int(fault.pick * len(pods))]
    process = pod.process
    world.log("fault: {}: {}", pod.task, kind)
    if kind.startswith("child"):
        assert process
        _harm_child(world, kind, how, pod, process)
    elif kind == "launcher restarts":
        if pod.going:
            world.gone(pod)
            return
        left = None
        if pod.running and pod.child and process:
            # The controller cannot tell this from a program that uses too much memory.
            left = replace(pod.child, exit_code=137, stopped=False, reason="killed", up=False)
            world.blame(pod, process.job, 137, "program")
        world.end_launcher(pod)
        pod.left = left
        world.forget()
        world.after(0.2 + how * 10, world.start_launcher, pod, pod.token)
    elif kind == "pod is deleted":
        world.delete(pod)
    elif kind == "pod is gone":
        world.gone(pod)
    elif kind == "pod is out of reach":
        if pod.reachable:
            pod.reachable = False
            if process:  # the controller may take it for the program's failure
                world.harm(pod, process.job, "program")
            world.after(how * 40, reach_again, world, pod)
            if how > 0.7:
                world.after(how * 30, world.gone, pod)
    elif kind == "pull fails":
        world.pull_fails[pod.task] = 1 + int(how * 2)


def _harm_child(world: Simulation, kind: str, how: float, pod: Pod, process: Process) -> None:
    if kind == "child fails":
        code = PERMANENT if how < 0.1 else 1 if how < 0.8 else 139
        world.end_child(pod, process, code, "program")
    elif kind == "child is killed":
        world.end_child(pod, process, 137, "program")
    elif kind == "child is terminated":
        world.drains[pod.task] += 1
        outside = world.drains[pod.task] <= failures.DRAINS
        world.end_child(pod, process, 143, "outside" if outside else "program")
    elif kind == "child meets TensorFlow's mistake":
        _meet_mistake(world, pod, process)
    elif process.program:
        world.hang(pod, process, "program")


def _meet_mistake(world: Simulation, pod: Pod, process: Process) -> None:
    """The run has advanced. Two reports that overtake each other look as if it had not."""
    run = process.job.run
    world.steps[run] += 1
    soon = world.now - world.mistaken_at.get(run, -MISTAKE_SECONDS) < MISTAKE_SECONDS
    world.mistaken_at[run] = world.now
    world.end_child(pod, process, 1, "program" if soon else "", MISTAKE)


def reach_again(world: Simulation, pod: Pod) -> None:
    if world.pods.get(pod.task) is not pod or pod.reachable:
        return
    world.log("{} is in reach again", pod.task)
    pod.reachable = True
    if pod.going:
        if pod.alive:
            world.leave(pod)
        else:
            world.after(0.5, world.gone, pod)
    elif pod.alive:
        world.after(world.random() * 4, world.resend, pod, pod.token, pod.epoch)


def _upgrade(world: Simulation, fault: Fault) -> None:
    dice = random.Random(fault.how)
    wish, what = world.wish, fault.pick
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
        wish = world.before._replace(revision=wish.revision)  # helm rollback
    else:
        wish = wish._replace(attempt=wish.attempt + 1)
    world.log("fault: upgrade to {}", wish)
    world.helm(wish)


def _has_session(pod: Pod) -> bool:
    """Whether its child may have a session of TensorFlow 1, whose requests can be repeated."""
    process = pod.process
    if not process or not process.program or pod.task.role == EVALUATOR:
        return False
    return process.job.mode.name == "parameter-server"


def _may_fail(pod: Pod) -> bool:
    return pod.process is not None and not pod.process.stands_in and not pod.process.stopping
