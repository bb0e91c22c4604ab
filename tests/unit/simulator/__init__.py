"""Whole runs under seeded faults against the pure decisions, in simulated time.

Around the two pure steps, `decisions.step` of a controller and `task.step` of each task, it plays
the network (messages are lost, delayed, repeated and overtaken), the child processes, the
StatefulSet controller, Helm, and controllers that crash, restart and overlap.
The promises are checked whenever something starts, ends or is charged. After the faults every run
must end in success or in one named failure.

    python -m tests.unit.simulator --seeds 100000     # the nightly form
    python -m tests.unit.simulator --start 17 --seeds 1 --tell

A schedule that fails is shrunk, fault by fault, and its history is printed.
"""
