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
        "the release name must be lower-case letters, digits and hyphens, a letter first and no "
        'hyphen last: Services are named after it; got "2nd". Choose another name.',
        release="2nd",
        passing_release="n2-d",
    ),
    Rule(
        "the release's name has no dots",
        {},
        "the release name must be lower-case letters, digits and hyphens, a letter first and no "
        'hyphen last: Services are named after it; got "a.b".',
        release="a.b",
    ),
    Rule(
        "there is a ps",
        {"ps": {"replicas": 0}},
        "ps.replicas must be 1 or more: ps tasks keep the variables; got 0.",
        {"ps": {"replicas": 1}},
    ),
    Rule(
        "no more workers run than are listed",
        {"worker": {"replicas": 3, "maxReplicas": 2}},
        "worker.maxReplicas must be 0, or at least worker.replicas (3): it is how many workers the "
        "ClusterSpec lists; got 2. Raise it; this restarts all tasks once.",
        {"worker": {"replicas": 3, "maxReplicas": 3}},
    ),
    Rule(
        "only mode parameter-server lets workers join alone",
        {"mode": "all-reduce", "worker": {"maxReplicas": 4}},
        "worker.maxReplicas must be 0 in mode all-reduce: tasks restart there when the size "
        "changes; got 4. Remove it.",
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
        "ps.replicas must be 1 or more: ps tasks keep the variables; got 0. "
        "Only mode all-reduce needs no ps.",
        {"mode": "all-reduce", "ps": {"replicas": 0}},
    ),
    Rule(
        "there is a worker in mode coordinator",
        {"mode": "coordinator", "worker": {"replicas": 0}},
        "worker.replicas must be 1 or more: the chief sends its steps to workers; got 0.",
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
            "evaluator.replicas must be 0 or 1: TensorFlow supports only one evaluator; "
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
        "checkpoints must be an absolute path: the launcher watches that folder in the chief's "
        'container; got "gs://bucket/mnist". Leave it empty if checkpoints go elsewhere',
        {"checkpoints": "/data/mnist"},
    ),
    *(
        Rule(
            f"logs is on a volume, not {logs!r} with {fields}",
            {"logs": logs, **volume(**fields)},
            "logs must be inside the mountPath of one of volumes that is not readOnly: elsewhere "
            f'the output is lost with its pod; got "{logs}".',
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
        "program.command must be a list of at least one word: it starts the program; "
        "got []. Set it, for example to [python, train.py].",
        {"program": {"command": ["./train"]}},
    ),
    Rule(
        "program.workingDir is relative",
        {"program": {"workingDir": "/src"}},
        "program.workingDir must be a folder inside the code folder: the program runs in the "
        'task\'s copy of it; got "/src".',
        {"program": {"workingDir": "src/app"}},
    ),
    Rule(
        "program.workingDir stays inside the code folder",
        {"program": {"workingDir": "src/../.."}},
        "program.workingDir must be a folder inside the code folder: the program runs in the "
        'task\'s copy of it; got "src/../..".',
        {"program": {"workingDir": "src..old"}},
    ),
    Rule(
        "program.env has names of variables",
        {"program": {"env": {"A-B": "c"}}},
        "program.env must be names of letters, digits and underscores, no digit first: shells "
        'accept no others; got "A-B". Rename it.',
        {"program": {"env": {"_a_B2": "c"}}},
    ),
    *(
        Rule(
            f"program.env does not set {name}",
            {"program": {"env": {name: "x"}}},
            f"program.env must be without {name}: the launcher sets it for each task; "
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
    *(
        Rule(
            f"{path} is not rounded",
            {"program": program},
            f"{path} must be quoted: Helm rounds numbers from 2^53 (9007199254740992) on; got "
            f"{got}. Write all its digits between quotes, or use --set-string.",
            {"program": passes},
        )
        for path, program, got, passes in [
            (
                "program.args[1]",
                {"args": ["--seed", 2**53 + 1]},
                "9007199254740992",
                {"args": ["--seed", 2**53 - 1, str(2**53 + 1)]},
            ),
            ("program.command[0]", {"command": [-(2**53)]}, "-9007199254740992", {"command": [1]}),
            (
                "program.env.SEED",
                {"env": {"SEED": 1.5e21}},
                "1.5e+21",
                {"env": {"SEED": -(2**53) + 1}},
            ),
        ]
    ),
    Rule(
        "enabled is for umbrella charts",
        {"enabled": False},
        "enabled must be true or left out: only the `condition` of a dependency in an umbrella "
        "chart's Chart.yaml reads it, and none did; got false. Add the condition, or remove the "
        "chart.",
        {"enabled": True},
    ),
]
