"""The tfrun launcher: runs one task, the controller of a run, or a whole run on one machine.

    shared      everywhere: who a task is, modes, job.json, protocol, ClusterSpec, exits, log
    task        a task pod: the decisions of one task, and its child process
    code        a task pod: brings the program's code into the pod; its digest
    controller  the controller pod: HTTP, clock and Kubernetes calls around the decisions
    decisions   the controller pod and the simulator: what a run does next, as a pure function
    local       a person's machine: the same controller and tasks as processes; the command `status`
    __main__    the subcommands; the only place that exits

The parts that run in a pod need only Python 3.9 or later and its standard library.
"""
