"""The rules of a run: its name, its counts, its checkpoints and logs, and its program."""

from __future__ import annotations

from tests.chart.rule import Rule, volume

RULES = [
    Rule(
        "the release's name is short",
        {},
        "the release name must be at most 45 characters: Kubernetes puts the name of the "
        f"StatefulSet {'n' * 46}-worker into a label of its pods; got 46 characters. "
        "Choose a shorter name.",
        release="n" * 46,
        passing_release="n" * 45,
    ),
    Rule(
        "the release's name starts with a letter",
        {},
        "the release name must be lower-case letters, digits and hyphens, a letter first: "
        'it names Services; got "2nd". Choose another name.',
        release="2nd",
        passing_release="n2-d",
    ),
    Rule(
        "the release's name has no dots",
        {},
        "the release name must be lower-case letters, digits and hyphens, a letter first: "
        'it names Services; got "a.b".',
        release="a.b",
    ),
    Rule(
        "there is a ps",
        {"ps": {"replicas": 0}},
        "ps.replicas must be 1 or more: the variables are kept there; got 0.",
        {"ps": {"replicas": 1}},
    ),
    Rule(
        "no more workers run than are listed",
        {"worker": {"replicas": 3, "maxReplicas": 2}},
        "worker.maxReplicas must be 0, or no less than worker.replicas (3): it counts the names "
        "that every task knows; got 2. Raise it: that starts all tasks again, once.",
        {"worker": {"replicas": 3, "maxReplicas": 3}},
    ),
    Rule(
        "only mode parameter-server lets workers join alone",
        {"mode": "all-reduce", "worker": {"maxReplicas": 4}},
        "worker.maxReplicas must be 0 in mode all-reduce: its tasks start again for another size; "
        "got 4. Remove it.",
        {"mode": "parameter-server", "worker": {"maxReplicas": 4}},
    ),
    Rule(
        "there is a worker",
        {"worker": {"replicas": -1}},
        "worker.replicas must be 1 or more: workers run the program; got -1.",
        {"worker": {"replicas": 1}},
    ),
    Rule(
        "there is a ps in mode coordinator",
        {"mode": "coordinator", "ps": {"replicas": 0}},
        "ps.replicas must be 1 or more: the variables are kept there; got 0. "
        "Only mode all-reduce does without.",
        {"mode": "all-reduce", "ps": {"replicas": 0}},
    ),
    Rule(
        "there is a worker in mode coordinator",
        {"mode": "coordinator", "worker": {"replicas": 0}},
        "worker.replicas must be 1 or more: the chief hands its steps to workers; got 0.",
        {"mode": "coordinator", "worker": {"replicas": 1}},
    ),
    Rule(
        "there is a worker in mode all-reduce",
        {"mode": "all-reduce", "worker": {"replicas": 0}},
        "worker.replicas must be 1 or more: workers run the program; got 0.",
        {"mode": "all-reduce", "worker": {"replicas": 1}},
    ),
    *(
        Rule(
            f"there are not {count} evaluators",
            {"evaluator": {"replicas": count}},
            "evaluator.replicas must be 0 or 1: TensorFlow knows no more than one evaluator; "
            f"got {count}.",
            {"evaluator": {"replicas": 1}},
        )
        for count in (-1, 2)
    ),
    Rule(
        "the release's name is shorter with an evaluator",
        {"evaluator": {"replicas": 1}},
        "the release name must be at most 42 characters: Kubernetes puts the name of the "
        f"StatefulSet {'n' * 43}-evaluator into a label of its pods; got 43 characters.",
        {"evaluator": {"replicas": 1}},
        release="n" * 43,
        passing_release="n" * 42,
    ),
    Rule(
        "checkpoints is an absolute path",
        {"checkpoints": "gs://bucket/mnist"},
        "checkpoints must be an absolute path: the launcher looks at it as a folder of the chief's "
        'container; got "gs://bucket/mnist". Leave it empty where checkpoints go elsewhere',
        {"checkpoints": "/data/mnist"},
    ),
    *(
        Rule(
            f"logs is on a volume, not {logs!r} with {fields}",
            {"logs": logs, **volume(**fields)},
            "logs must be inside the mountPath of one of volumes that is not readOnly: anywhere "
            f'else the output would be lost with its pod; got "{logs}".',
            {"logs": passes, **volume()},
        )
        for logs, fields, passes in [
            ("logs", {}, "/data"),
            ("/logs", {}, "/data/logs"),
            ("/database", {}, "/data/base"),
            ("/data/../logs", {}, "/data/mnist/../logs/"),
            ("/data/logs", {"readOnly": True}, "/data/logs"),
        ]
    ),
    Rule(
        "there is a program",
        {"program": {"command": []}},
        "program.command must be a list of at least one word: it is what trains; "
        "got []. Set it, like [python, train.py].",
        {"program": {"command": ["./train"]}},
    ),
    Rule(
        "program.workingDir is relative",
        {"program": {"workingDir": "/src"}},
        "program.workingDir must be a folder inside the code folder: the program runs in each "
        'task\'s own copy of it; got "/src".',
        {"program": {"workingDir": "src/app"}},
    ),
    Rule(
        "program.workingDir stays inside the code folder",
        {"program": {"workingDir": "src/../.."}},
        "program.workingDir must be a folder inside the code folder: the program runs in each "
        'task\'s own copy of it; got "src/../..".',
        {"program": {"workingDir": "src..old"}},
    ),
    Rule(
        "program.env has names of variables",
        {"program": {"env": {"A-B": "c"}}},
        "program.env must be names of letters, digits and underscores, no digit first: shells know "
        'no other; got "A-B". Rename it.',
        {"program": {"env": {"_a_B2": "c"}}},
    ),
    *(
        Rule(
            f"program.env does not set {name}",
            {"program": {"env": {name: "x"}}},
            f"program.env must be without {name}: the launcher tells each task's program its own; "
            'got "x". Remove it.',
            {"program": {"env": {f"MY_{name}": "x", "HOME": "/data"}}},
        )
        for name in (
            "TFRUN_X",
            "TF_CONFIG",
            "CHIEF_HOSTS",
            "PS_HOSTS",
            "WORKER_HOSTS",
            "JOB_NAME",
            "TASK_INDEX",
        )
    ),
]
