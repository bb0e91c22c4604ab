"""The rules of pods: variables, fields that the chart sets, and volumes."""

from __future__ import annotations

from functools import reduce

from tests.chart.rule import DATA, Rule, volume

RULES = [
    *(
        Rule(
            f"env does not set {name}",
            {"env": [{"name": "MINE", "value": "x"}, {"name": name, "value": "x"}]},
            "env[1].name must be another name: the chart or the launcher sets this one; "
            f'got "{name}".',
            {"env": [{"name": f"MY_{name}", "value": "x"}]},
        )
        for name in ("TFRUN_ROLE", "TF_CONFIG", "HOME", "USER", "PYTHONUNBUFFERED")
    ),
    Rule(
        "env has each name once",
        {"env": [{"name": "A", "value": "x"}, {"name": "A", "value": "y"}]},
        'env[1].name must be unique: Kubernetes merges the list by name; got "A" again.',
        {"env": [{"name": "A", "value": "x"}, {"name": "B", "value": "y"}]},
    ),
    *(
        Rule(
            f"{path} does not set {name}",
            reduce(lambda inner, key: {key: inner}, reversed(path.split(".")), {name: {}}),
            f"{path} must be without {name}: the chart sets it; got {{}}. {instead}",
            {"pod": {"nodeSelector": {"disk": "fast"}}},
        )
        for path, name, instead in [
            ("pod", "volumes", "See volumes."),
            ("pod", "terminationGracePeriodSeconds", "See grace."),
            ("ps.pod", "containers", "See image, program, env and volumes;"),
            ("worker.pod", "serviceAccountName", "Remove it."),
            ("controller.pod", "securityContext", "See podSecurityContext."),
        ]
    ),
    Rule(
        "a volume has a name",
        {"volumes": [{"mountPath": "/data", "emptyDir": {}}]},
        "volumes[0].name must be 1 to 63 lower-case letters, digits and hyphens: Kubernetes "
        'requires it; got "".',
        volume(),
    ),
    Rule(
        "a volume's name is valid in Kubernetes",
        volume(name="My_data"),
        "volumes[0].name must be 1 to 63 lower-case letters, digits and hyphens: Kubernetes "
        'requires it; got "My_data".',
        volume(name="n" * 63),
    ),
    Rule(
        "a volume's name is not the chart's",
        volume(name="tfrun-work"),
        "volumes[0].name must be without the prefix tfrun-: the chart's own volumes have it; "
        'got "tfrun-work".',
        volume(name="work"),
    ),
    Rule(
        "a volume's name is unique",
        {"volumes": [DATA, DATA | {"mountPath": "/more"}]},
        'volumes[1].name must be unique: a pod tells its volumes apart by name; got "data" again.',
        {"volumes": [DATA, DATA | {"name": "more", "mountPath": "/more"}]},
    ),
    Rule(
        "a volume's mountPath is absolute",
        volume(mountPath="data"),
        "volumes[0].mountPath must be an absolute path: it is a folder in the container; "
        'got "data".',
        volume(mountPath="/data"),
    ),
    *(
        Rule(
            f"a volume's mountPath is not {path}",
            volume(mountPath=path),
            f'volumes[0].mountPath must be outside /tfrun: the launcher runs there; got "{path}".',
            volume(mountPath="/tfruns/tfrun"),
        )
        for path in ("/tfrun", "/tfrun/work/data", "//tfrun/", "/data/../tfrun", "/")
    ),
    Rule(
        "a volume's mountPath is unique",
        {"volumes": [DATA, DATA | {"name": "more", "mountPath": "/data/"}]},
        'volumes[1].mountPath must be unique: one volume would hide the other; got "/data/" again.',
        {"volumes": [DATA, DATA | {"name": "more", "mountPath": "/data/more"}]},
    ),
    Rule(
        "a volume has a source",
        {"volumes": [{"name": "data", "mountPath": "/data"}]},
        "volumes[0] must be one Kubernetes volume source besides name, mountPath, readOnly and "
        "subPath: Kubernetes mounts it; got none.",
        volume(),
    ),
    Rule(
        "a volume has one source",
        volume(hostPath={"path": "/data"}),
        "volumes[0] must be one Kubernetes volume source besides name, mountPath, readOnly and "
        "subPath: Kubernetes mounts it; "
        'got {"emptyDir":{},"hostPath":{"path":"/data"}}.',
        volume(readOnly=True, subPath="a"),
    ),
    Rule(
        "a volume's source is a mapping",
        {"volumes": [{"name": "data", "mountPath": "/data", "persistentVolumeClaim": "data"}]},
        "volumes[0] must be one Kubernetes volume source besides name, mountPath, readOnly and "
        'subPath: Kubernetes mounts it; got {"persistentVolumeClaim":"data"}. '
        "Give one mapping, like persistentVolumeClaim: {claimName: data}.",
        volume(),
    ),
]
