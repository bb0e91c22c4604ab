"""Which values are refused, and in which words: each rule with values that fail and that pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import pytest

from tests.chart.render import HELMS, RELEASE, refusal, render

Values = dict[str, Any]


@dataclass(frozen=True)
class Rule:
    """`fails` is answered by `says` and nothing else; `passes` is what to do about it."""

    name: str
    fails: Values
    says: str
    passes: Values = field(default_factory=dict)
    release: str = RELEASE
    passing_release: str = RELEASE


def nfs(server: str, path: str) -> Values:
    return {"code": {"nfs": {"server": server, "path": path}, "image": {"path": ""}}}


def code(**source: Any) -> Values:
    return {"code": {"image": {"path": ""}, **source}}


def archive(**changes: str) -> Values:
    return code(archive={"url": "https://e.com/a.tgz", "sha256": "0a" * 32, **changes})


def git(**changes: str) -> Values:
    return code(git={"url": "https://e.com/a.git", "ref": "0a" * 20, **changes})


def volume(**fields: Any) -> Values:
    return {"volumes": [{"name": "data", "mountPath": "/data", "emptyDir": {}} | fields]}


DATA = {"name": "data", "mountPath": "/data", "emptyDir": {}}

RULES = [
    Rule(
        "code is given",
        {"code": {"image": {"path": ""}}},
        "code must be exactly one source: it is where the program is found; got none. "
        "Fill in one of code.nfs (an NFS export that every node can mount), code.claim (a "
        "PersistentVolumeClaim), code.archive (the address of a tar or zip), code.git (a commit of "
        "a repository), code.inline (files in the values) and code.image.path (a folder of the "
        "image, or the mountPath of one of volumes).",
    ),
    Rule(
        "code is given once",
        {"code": {"nfs": {"server": "nfs", "path": "/app"}}},
        "code must be exactly one source: it is where the program is found; "
        "got code.image and code.nfs.",
        nfs("nfs", "/app"),
    ),
    Rule(
        "code.nfs has a server",
        nfs("", "/app"),
        "code.nfs.server must be a host name or an address: the kubelet mounts code.nfs.path "
        'from there; got "".',
        nfs("nfs", "/app"),
    ),
    Rule(
        "code.nfs has a path",
        nfs("nfs", ""),
        'code.nfs.path must be an absolute path: it is what the server exports; got "".',
        nfs("nfs", "/"),
    ),
    Rule(
        "code.nfs.path is absolute",
        nfs("nfs", "app"),
        'code.nfs.path must be an absolute path: it is what the server exports; got "app".',
        nfs("nfs", "/app"),
    ),
    Rule(
        "code.image.path is absolute",
        {"code": {"image": {"path": "app"}}},
        'code.image.path must be an absolute path: it is a folder of the container; got "app".',
    ),
    Rule(
        "code.claim has a name",
        code(claim={"subPath": "app"}),
        "code.claim.name must be the name of a PersistentVolumeClaim in the release's namespace: "
        'the kubelet mounts it; got "".',
        code(claim={"name": "code", "subPath": "app/src"}),
    ),
    *(
        Rule(
            f"code.claim.subPath is not {path}",
            code(claim={"name": "code", "subPath": path}),
            "code.claim.subPath must be a folder inside the claim: the code is looked for there; "
            f'got "{path}". Give it without a / at its ends and without .. parts.',
        )
        for path in ("/app", "app/", "a/../..", "./app")
    ),
    *(
        Rule(
            f"code.archive.url is not {url}",
            archive(url=url),
            "code.archive.url must be an http, https or file address without a password: each task "
            f'fetches it, and everybody can read the values; got "{url}".',
            archive(url="file:///data/code.tar"),
        )
        for url in (
            "",
            "ftp://e.com/a",
            "https://a:b@e.com/a",
            "https://",
            "s3://a/b",
            "https://e.com:x/a",
            "https://[::1/a",
            "https://größe.de/a",
            "https://e.com/größe",
        )
    ),
    *(
        Rule(
            f"code.archive.sha256 is not {text}",
            archive(sha256=text),
            "code.archive.sha256 must be 64 lower-case hexadecimal digits: no other archive is "
            f'opened; got "{text}". `sha256sum FILE` tells them.',
            archive(sha256="0" * 64),
        )
        for text in ("", "0a", "0A" * 32)
    ),
    *(
        Rule(
            f"code.git.url is not {url}",
            git(url=url),
            "code.git.url must be an https, http, ssh or file address without a password: each "
            f'task fetches it, and everybody can read the values; got "{url}".',
            git(url="ssh://git@e.com/a.git"),
        )
        for url in (
            "",
            "git@e.com:a.git",
            "https://token@e.com/a.git",
            "ext::sh -c x",
            "ssh://e.com:x/a",
            "https://größe.de/a",
        )
    ),
    *(
        Rule(
            f"code.git.ref is not {ref}",
            git(ref=ref),
            "code.git.ref must be a branch, a tag, or a whole commit id: it is what all tasks "
            f'fetch; got "{ref}". `git rev-parse BRANCH` tells a commit, which never moves.',
            git(ref="release/2.1"),
        )
        for ref in ("", "--output=x", "a..b", "a b")
    ),
    *(
        Rule(
            f"code.inline has no {name}",
            code(inline={name: "x"}),
            f'code.inline must be files by names inside the code folder; got "{name}".',
            code(inline={"lib/train.py": "x"}),
        )
        for name in ("", "/etc/passwd", "../x", "a//b")
    ),
    Rule(
        "code.inline has a folder for a file",
        code(inline={"lib": "x", "lib/train.py": "x"}),
        "code.inline must be files alone, none of them a folder of others; got "
        '"lib" and "lib/train.py".',
        code(inline={"lib.py": "x", "lib/train.py": "x"}),
    ),
    Rule(
        "code.inline is small",
        code(inline={"train.py": "x" * 600_000}),
        "code.inline must be at most 524288 bytes: it travels in a ConfigMap; got 600015 bytes. "
        "Use another source.",
        code(inline={"train.py": "x" * 500_000}),
    ),
    Rule(
        "code.digest is one",
        code(nfs={"server": "nfs", "path": "/app"}, digest="0a"),
        'code.digest must be 32 hexadecimal digits: no other code is run; got "0a". A task tells '
        "them in its log: `code DIGEST is in ...`.",
        code(nfs={"server": "nfs", "path": "/app"}, digest="0a" * 16),
    ),
    Rule(
        "code.digest is not of the image",
        {"code": {"digest": "0a" * 16}},
        "code.digest must be empty with code.image.path: code of the image is not copied, and "
        "image.digest names it; got",
    ),
    Rule(
        "code.secret has a use",
        {"code": {"secret": "login"}},
        "code.secret must be empty unless code.archive or code.git is the source: nothing else is "
        'logged in to; got "login". Remove it.',
    ),
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
        "workers join alone in mode parameter-server only",
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
        "program.workingDir stays inside",
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
            f"program.env does without {name}",
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
    *(
        Rule(
            f"env does without {name}",
            {"env": [{"name": "MINE", "value": "x"}, {"name": name, "value": "x"}]},
            "env[1].name must be a name of your own: the chart or the launcher sets it; "
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
            f"{path} does without {name}",
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
        "volumes[0].name must be 1 to 63 lower-case letters, digits and hyphens: Kubernetes asks "
        'so; got "".',
        volume(),
    ),
    Rule(
        "a volume's name is Kubernetes'",
        volume(name="My_data"),
        "volumes[0].name must be 1 to 63 lower-case letters, digits and hyphens: Kubernetes asks "
        'so; got "My_data".',
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
        "a volume's name is its own",
        {"volumes": [DATA, DATA | {"mountPath": "/more"}]},
        'volumes[1].name must be unique: each volume has a name of its own; got "data" again.',
        {"volumes": [DATA, DATA | {"name": "more", "mountPath": "/more"}]},
    ),
    Rule(
        "a volume's mountPath is absolute",
        volume(mountPath="data"),
        "volumes[0].mountPath must be an absolute path: it is a folder of the container; "
        'got "data".',
        volume(mountPath="/data"),
    ),
    *(
        Rule(
            f"a volume's mountPath is not {path}",
            volume(mountPath=path),
            f'volumes[0].mountPath must be outside /tfrun: the launcher lives there; got "{path}".',
            volume(mountPath="/tfruns/tfrun"),
        )
        for path in ("/tfrun", "/tfrun/work/data", "//tfrun/", "/data/../tfrun", "/")
    ),
    Rule(
        "a volume's mountPath is its own",
        {"volumes": [DATA, DATA | {"name": "more", "mountPath": "/data/"}]},
        'volumes[1].mountPath must be unique: one volume would hide the other; got "/data/" again.',
        {"volumes": [DATA, DATA | {"name": "more", "mountPath": "/data/more"}]},
    ),
    Rule(
        "a volume has a source",
        {"volumes": [{"name": "data", "mountPath": "/data"}]},
        "volumes[0] must be one Kubernetes volume source beside name, mountPath, readOnly and "
        "subPath: it is what gets mounted; got none.",
        volume(),
    ),
    Rule(
        "a volume has one source",
        volume(hostPath={"path": "/data"}),
        "volumes[0] must be one Kubernetes volume source beside name, mountPath, readOnly and "
        "subPath: it is what gets mounted; "
        'got {"emptyDir":{},"hostPath":{"path":"/data"}}.',
        volume(readOnly=True, subPath="a"),
    ),
    Rule(
        "a volume's source is a mapping",
        {"volumes": [{"name": "data", "mountPath": "/data", "persistentVolumeClaim": "data"}]},
        "volumes[0] must be one Kubernetes volume source beside name, mountPath, readOnly and "
        'subPath: it is what gets mounted; got {"persistentVolumeClaim":"data"}. '
        "Give one mapping, like persistentVolumeClaim: {claimName: data}.",
        volume(),
    ),
]
IDS = [rule.name for rule in RULES]


@pytest.mark.parametrize("rule", RULES, ids=IDS)
def test_refuses(rule: Rule) -> None:
    (said,) = refusal(rule.fails, release=rule.release)
    assert said.startswith(rule.says)


@pytest.mark.parametrize("rule", RULES, ids=IDS)
def test_accepts(rule: Rule) -> None:
    render(rule.passes, release=rule.passing_release)


SHAPES = [
    ("an unknown key", {"workers": 3}, "additional properties 'workers' not allowed"),
    (
        "an unknown key below",
        {"worker": {"replica": 3}},
        "at '/worker': additional properties 'replica' not allowed",
    ),
    (
        "another mode",
        {"mode": "mirrored"},
        "at '/mode': value must be one of 'parameter-server', 'coordinator', 'all-reduce'",
    ),
    ("chiefs", {"chief": {"replicas": 2}}, "at '/chief': additional properties 'replicas'"),
    ("no limit", {"deadline": -1}, "at '/deadline': minimum: got -1, want 0"),
    ("a word for a flag", {"chiefFirst": "no"}, "at '/chiefFirst': got string, want boolean"),
    ("success by half", {"success": "Half"}, "at '/success': value must be one of 'AllWorkers'"),
    ("a text for a number", {"grace": "25s"}, "at '/grace': got string, want integer"),
    (
        "half a worker",
        {"worker": {"replicas": 1.5}},
        "at '/worker/replicas': got number, want integer",
    ),
    ("port 0", {"port": 0}, "at '/port': minimum: got 0, want 1"),
    ("a tag that is a number", {"image": {"tag": 2.2}}, "at '/image/tag': got number, want string"),
    ("a word that is null", {"program": {"args": [None]}}, "at '/program/args/0': got null"),
    ("a part that is taken out", {"image": None}, "missing property 'image'"),
    (
        "an exit code that is none",
        {"restarts": {"permanentCodes": [256]}},
        "at '/restarts/permanentCodes/0': maximum: got 256, want 255",
    ),
]


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize(
    ("values", "says"), [shape[1:] for shape in SHAPES], ids=[shape[0] for shape in SHAPES]
)
def test_refuses_shape(values: Values, says: str, helm: str) -> None:
    (said,) = refusal(values, helm=helm)
    assert says in said


def test_everything_wrong_is_told_at_once(helm: str) -> None:
    everything: Values = {"pod": {}, "volumes": [], "env": []}
    for rule in RULES:
        for key, value in rule.fails.items():
            if isinstance(value, list):
                everything[key] = everything[key] + value
            elif key not in ("code", "mode"):  # in the first mode alone
                both = isinstance(value, dict)
                everything[key] = {**everything.get(key, {}), **value} if both else value
    said = refusal(everything, helm=helm, release="2" * 46, base={})
    for path in ("release", "ps.replicas", "worker.replicas", "program.command", "code must"):
        assert any(path in line for line in said), path
    for path in ("program.env", "pod must", "controller.pod", "env[1]", "volumes[", "checkpoints"):
        assert any(path in line for line in said), path
    assert len(said) > 20


def test_free_form_values_can_be_emptied(helm: str) -> None:
    render(
        {
            "pod": None,
            "worker": {"resources": None, "pod": None},
            "podSecurityContext": None,
            "securityContext": None,
            "controller": {"resources": None, "pod": None},
            "program": {"env": None},
        },
        helm=helm,
    )
