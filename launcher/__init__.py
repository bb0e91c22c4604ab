"""The tfrun launcher. It runs one task, the controller of a run, or a whole run on one machine.

    shared      everywhere: who a task is, modes, job.json, protocol, ClusterSpec, exits, log
    task        a task pod: one task's story, and the child process
    code        a task pod: how the program's code gets there, and its digest
    controller  the controller pod: HTTP, clock and Kubernetes calls around the decisions
    decisions   the controller pod and the simulator: what a run does next, as a pure function
    local       a person's machine: the same controller and tasks as processes; the command `status`
    __main__    the subcommands; the only place that exits

What runs in a pod needs nothing but the standard library of Python 3.9 or later.
"""
