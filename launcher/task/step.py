"""What one task does, as a pure function: `step(state, event)`.

    a directive -> the code -> the peers -> a child -> its end -> one exit code

Events say what has happened, effects say what to do. No thread, clock or process is used here:
`loop` carries effects out for real, the simulator in simulated time. `state` defines the state, the
events and the effects.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import replace

from launcher.shared.exits import End, Phase, describe, signalled
from launcher.shared.protocol import QUIET_SECONDS, Action, ChildReport, Directive
from launcher.task.state import (
    CHILDREN,
    Activity,
    Cancel,
    ChiefCalled,
    ChildEnded,
    Code,
    CodePulled,
    Doing,
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
    Step,
    Stop,
    Tell,
    Told,
    awaits_call,
    awaits_chief,
    has_child,
    has_code,
    is_chief,
)

STOPPING = (signal.SIGTERM, signal.SIGINT)
PROGRESS_SECONDS = 5.0  # between two reports of the chief's step


def step(state: State, event: Event) -> Step:
    """The next state, and the effects to carry out in this order."""
    before = state
    state, effects = _take(state, event)
    state, more = _advance(state)
    end = _end(state)
    last: Sequence[Effect] = ()
    if end:
        last = (Leave(end),)
    elif state is not before or isinstance(event, Told):
        last = (Tell(),)  # the link waits for a report after each directive
    return state, (*effects, *more, *last)


# Events.


def _take(state: State, event: Event) -> Step:
    if isinstance(event, Told):
        return _told(state, event.directive), ()
    if isinstance(event, Signalled):
        return _signalled(state, event)
    if isinstance(event, CodePulled):
        assert state.doing
        wanted = state.doing.directive
        code = Code(wanted.job.run, wanted.pull, event.digest, event.commit)
        # From now on an end in this generation is the child's, not the pull's.
        return replace(state, doing=None, code=code, failed=None), ()
    if isinstance(event, PeersReached):
        assert state.doing
        reached = state.reached if state.doing.ending else state.doing.directive.generation
        return replace(state, doing=None, reached=reached), ()
    if isinstance(event, Failed):
        return _failed(state, event)
    if isinstance(event, ChildEnded):
        return _child_ended(state, event)
    if isinstance(event, Seen):
        return _seen(state, event)
    if isinstance(event, ChiefCalled):
        return _called(state, event.host), ()
    return replace(state, chief_left=True), ()


def _told(state: State, directive: Directive) -> State:
    current = state.directive
    if current and (directive.leader, directive.generation) < (current.leader, current.generation):
        return state  # an older controller, still alive, sent it
    return replace(state, directive=directive)


def _signalled(state: State, event: Signalled) -> Step:
    if event.number not in STOPPING:
        return state, (Send(event.number),) if has_child(state) else ()
    # A second signal ends the grace period.
    asked_twice = state.leaving is not None and has_child(state)
    grace = state.directive.job.grace if state.directive else 0.0
    state = replace(state, leaving=event.number, leave_by=event.at + grace)
    return state, (Send(signal.SIGKILL),) if asked_twice else ()


def _failed(state: State, event: Failed) -> Step:
    doing = state.doing
    assert doing
    state = replace(state, doing=None)
    if doing.activity is Activity.STANDING_IN:
        return state, (Say(event.reason),)
    if doing.activity is not Activity.RUNNING:
        if doing.ending:
            return state, ()
        state = replace(state, failed=(doing.directive.generation, doing.directive.pull))
    child = ChildReport(
        doing.directive.generation,
        exit_code=event.exit_code,
        reason=event.reason,
        last_lines=event.last_lines,
    )
    text = "\n".join([event.reason, *event.last_lines])
    return replace(state, child=child, ended_at=event.at), (Say(text),)


def _child_ended(state: State, event: ChildEnded) -> Step:
    doing, child = state.doing, state.child
    assert doing
    state = replace(state, doing=None)
    if doing.activity is Activity.STANDING_IN:
        return state, ()
    assert child
    child = replace(
        child,
        exit_code=event.exit_code,
        reason=describe(event.exit_code),
        last_lines=event.last_lines,
        global_step=event.global_step,
        total_steps=event.total_steps,
    )
    stopped = ", as it was told to" if child.stopped else ""
    text = f"generation {child.generation}: the child ended{stopped}: {child.reason}"
    return replace(state, child=child, ended_at=event.at), (Say(text),)


def _seen(state: State, event: Seen) -> Step:
    """What the program's output shows; the chief's steps are reported every PROGRESS_SECONDS."""
    directive, child = state.directive, state.child
    running = state.doing is not None and state.doing.activity is Activity.RUNNING
    if not directive or not child or not running:
        return state, ()
    timeout = directive.job.hang_timeout
    seen = replace(
        child,
        up=child.up or (is_chief(state) and event.up),
        hung=child.hung or bool(timeout and event.quiet >= timeout),
        global_step=event.global_step,
        total_steps=event.total_steps,
        epoch=event.epoch,
    )
    quiet_since = event.at - event.quiet if event.quiet >= QUIET_SECONDS else None
    urgent = (seen.up, seen.hung) != (child.up, child.hung)
    urgent |= (quiet_since is None) != (state.quiet_since is None)
    due = event.at - state.told_at >= PROGRESS_SECONDS
    if not urgent and not (is_chief(state) and due and seen != child):
        return state, ()
    effects: tuple[Effect, ...] = ()
    if seen.hung or quiet_since is not None:
        seen = replace(seen, last_lines=event.last_lines)
    if seen.hung and not child.hung:
        effects = (Say(f"no progress for {event.quiet:.0f} s"),)
    return replace(state, child=seen, told_at=event.at, quiet_since=quiet_since), effects


def _called(state: State, host: str) -> State:
    directive = state.directive
    if not directive or not awaits_call(state):
        return state  # it waits no longer
    chief = directive.hosts.get(directive.job.mode.chief, host)
    return replace(state, called=directive.job.run) if host == chief else state


# The next activity.


def _advance(state: State) -> Step:
    """The next activity that the directive needs: one at a time, and each ends with an event."""
    directive, doing = state.directive, state.doing
    if state.leaving is not None:
        if not has_child(state) or awaits_chief(state):
            return state, ()
        return _stop(state, state.leaving)
    if directive is None:
        return state, ()
    if doing is None:
        return _begin(state, directive)
    if doing.activity in CHILDREN:
        return (state, ()) if _wants_child(doing, directive) else _stop(state, signal.SIGTERM)
    if doing.directive == directive or doing.ending:
        return state, ()
    return replace(state, doing=replace(doing, ending=True)), (Cancel(),)


def _begin(state: State, directive: Directive) -> Step:
    """Begins the first activity that the directive still needs; none is under way."""
    generation = directive.generation
    if directive.action is Action.END:
        return state, ()
    if directive.action is Action.STAND_IN:
        if state.stood_in == generation:
            return state, ()  # that server has ended by itself; another one would too
        doing = Doing(Activity.STANDING_IN, directive)
        return replace(state, doing=doing, stood_in=generation), (StartServer(directive),)
    if _had_child_in(state, generation) and not _asked_again(state, directive):
        return state, ()
    if not has_code(state, directive, directive.action is Action.RUN):
        if not _may_pull(state, directive):
            return state, ()
        # A pull replaces the last copy. The task still reports a child of a newer generation,
        # because a new controller does not know that generation yet.
        newer = state.child is not None and state.child.generation > generation
        child = state.child if newer else None
        doing = Doing(Activity.PULLING, directive)
        return replace(state, doing=doing, code=None, child=child), (Pull(directive),)
    if directive.action is not Action.RUN:
        return state, ()
    runs_program = directive.job.mode.runs_program(state.task)
    if runs_program and state.reached != generation:
        return replace(state, doing=Doing(Activity.REACHING, directive)), (ReachPeers(directive),)
    start = StartProgram(directive) if runs_program else StartServer(directive)
    doing = Doing(Activity.RUNNING, directive)
    state = replace(state, doing=doing, child=ChildReport(generation), quiet_since=None)
    return state, (start,)


def _wants_child(doing: Doing, directive: Directive) -> bool:
    """Whether the child that runs is the one that the directive asks for."""
    stands_in = doing.activity is Activity.STANDING_IN
    actions = (Action.STAND_IN,) if stands_in else (Action.RUN, Action.STAND_IN)
    return directive.action in actions and directive.generation == doing.directive.generation


def _had_child_in(state: State, generation: int) -> bool:
    """Whether the latest child, running or ended, is of this generation."""
    return state.child is not None and state.child.generation == generation


def _asked_again(state: State, directive: Directive) -> bool:
    """Whether a preparation has failed, and the directive asks for another pull."""
    if state.failed is None:
        return False
    generation, pull = state.failed
    return generation == directive.generation and pull != directive.pull


def _may_pull(state: State, directive: Directive) -> bool:
    """The chief resolves a branch to a commit; all others wait until a directive has it."""
    known = directive.commit or not directive.job.source.moves
    return bool(known or is_chief(state))


def _stop(state: State, number: int) -> Step:
    doing = state.doing
    assert doing
    if doing.ending:
        return state, ()
    child = state.child
    if doing.activity is Activity.RUNNING and child:
        child = replace(child, stopped=True)
    return replace(state, doing=replace(doing, ending=True), child=child), (Stop(number),)


def _end(state: State) -> End | None:
    """How the launcher ends now; None if it goes on."""
    task, child = str(state.task), state.child
    if has_child(state):
        return None
    if state.leaving is not None:
        reason = f"stopped by {signal.Signals(state.leaving).name}"
        return End(Phase.STOPPED, signalled(state.leaving), reason, task)
    if state.alone and child and child.exit_code is not None:
        phase = Phase.FAILED if child.exit_code else Phase.SUCCEEDED
        return End(phase, child.exit_code, child.reason, task, child.last_lines)
    if state.leaves and state.directive and state.directive.action is Action.END:
        return End(Phase.STOPPED, 0, "the run has ended", task)
    return None
