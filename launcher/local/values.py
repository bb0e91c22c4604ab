"""Reads values files as Helm does, and makes the job.json that the chart would make."""

from __future__ import annotations

import decimal
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from launcher.local.helm_yaml import NotYamlError, documents
from launcher.shared.exits import ExitCode, LauncherError
from launcher.shared.job import JOB_VERSION, POLICIES, Job, job_of
from launcher.shared.modes import EVALUATOR, MODES
from launcher.shared.sources import SOURCES

PACKAGE = Path(__file__).absolute().parent.parent
# The chart's defaults: in the package in a wheel, in the chart in a checkout.
DEFAULTS = (PACKAGE / "values.yaml", PACKAGE.parent / "charts" / "tfrun" / "values.yaml")
# Values whose keys Kubernetes or the user defines.
FREE = {
    "env",
    "exports",
    "global",
    "inline",
    "pod",
    "resources",
    "podSecurityContext",
    "securityContext",
}
HOST = "127.0.0.1"
# What Helm gives a chart that is a dependency of another; the chart's schema allows them too.
DEPENDENCY = {"enabled": True, "exports": {}, "global": {}}
# Values that only a cluster can apply: parts, or single keys of a part.
ONLY_CLUSTER = (
    "image",
    "imagePullSecrets",
    "code.secret",
    "chief",
    *(f"{role}.{key}" for role in ("ps", "worker", "evaluator") for key in ("resources", "pod")),
    "pod",
    "volumes",
    "podSecurityContext",
    "securityContext",
    "port",
    "run",
    "cleanup",
    "controller",
    "networkPolicy",
    "launcher",
    *DEPENDENCY,
)
# Variables that the launcher sets for the program, and those that only program.env can set.
RESERVED = {"TF_CONFIG", "CHIEF_HOSTS", "PS_HOSTS", "WORKER_HOSTS", "JOB_NAME", "TASK_INDEX"}
ONLY_PROGRAM = {"HOME", "USER", "PYTHONUNBUFFERED"}
# Helm keeps numbers as float64, which cannot tell whole numbers apart from here on.
ROUNDED = 2**53


def read_values(files: Sequence[Path], mistakes: list[str]) -> dict[str, Any]:
    """The chart's defaults, overridden by the files; a later file overrides an earlier one.

    Adds to `mistakes`. Raises LauncherError(CONFIGURATION) if a file cannot be read.
    """
    defaults = _defaults()
    known = {**defaults, **DEPENDENCY}
    given: dict[str, Any] = {}
    for file in files:
        for document in _load(file):
            mistakes += [f"{mistake} in {file}" for mistake in _mistakes(document, known)]
            given = _over(given, document)
    return _merge(defaults, given)


def left_out(values: Mapping[str, Any]) -> list[str]:
    """The keys of values that differ from the defaults and that a local run cannot apply."""

    def at(path: str, tree: Any) -> Any:
        for key in path.split("."):
            tree = tree.get(key) if isinstance(tree, dict) else None
        return tree

    defaults = {**_defaults(), **DEPENDENCY}
    # A key that is null, or that the defaults lack, is absent from the values.
    return [
        path for path in ONLY_CLUSTER if at(path, {**DEPENDENCY, **values}) != at(path, defaults)
    ]


def task_env(
    values: Mapping[str, Any], shell: Mapping[str, str], mistakes: list[str]
) -> tuple[dict[str, str], list[str]]:
    """The variables of `env` as Kubernetes sets them, and the names that only a cluster can set.

    The latter have a `valueFrom`; tasks get those of the shell instead. Adds to `mistakes`.
    """
    known: dict[str, str] = {}
    env: dict[str, str] = {}
    elsewhere: list[str] = []
    for i, item in enumerate(values.get("env") or []):
        name = item.get("name") if isinstance(item, dict) else None
        if not isinstance(name, str) or not isinstance(item.get("value", ""), str):
            mistakes.append(
                f"env[{i}] must be a mapping with name and value, both strings: Kubernetes sets "
                f"the variable; got {json.dumps(item, default=str)}. Quote a number."
            )
        elif name.startswith("TFRUN_") or name in RESERVED | ONLY_PROGRAM:
            mistakes.append(
                f"env[{i}].name must be another name: the chart or the launcher sets this one; got "
                f'"{name}". Rename it; HOME, USER and PYTHONUNBUFFERED can be set in program.env.'
            )
        elif name in env or name in elsewhere:
            mistakes.append(
                f"env[{i}].name must be unique: Kubernetes merges the list by name; got "
                f'"{name}" again.'
            )
        elif "valueFrom" in item:
            elsewhere.append(name)
            known |= {name: shell[name]} if name in shell else {}
        else:
            known[name] = env[name] = _expand(item.get("value", ""), known)
    return env, elsewhere


def _expand(text: str, known: Mapping[str, str]) -> str:
    """Replaces $(NAME) as Kubernetes does: unknown names stay, and $$ is a single $."""

    def replace(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else known.get(found[1], found[0])

    return re.sub(r"\$\$|\$\((.*?)\)", replace, text)


def _defaults() -> dict[str, Any]:
    (document,) = _load(next(path for path in DEFAULTS if path.exists()))
    return document


def _load(path: Path) -> list[dict[str, Any]]:
    try:
        found = [each or {} for each in documents(path.read_bytes())]
    except (OSError, NotYamlError) as error:
        raise LauncherError(
            ExitCode.CONFIGURATION, f"{path} must be a readable YAML file: {error}"
        ) from None
    if not all(isinstance(each, dict) for each in found):
        raise LauncherError(ExitCode.CONFIGURATION, f"{path} must hold a mapping of values")
    return found


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merges the values of two files as Helm does, before it merges them with the defaults.

    null stays, because it removes a default.
    """
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict)
        merged[key] = _over(below[key], value) if both else value
    return merged


def _mistakes(given: Mapping[str, Any], known: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, value in given.items():
        if key not in known:
            yield f"{path}{key} must be left out: it is not a known key"
        elif isinstance(known[key], dict) and isinstance(value, dict):
            if key not in FREE:
                yield from _mistakes(value, known[key], f"{path}{key}.")
        elif isinstance(known[key], dict) and value is not None:
            yield f"{path}{key} must be a mapping; got {json.dumps(value, default=str)}"


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merges values as Helm does.

    Mappings are merged key by key. Only null, which removes its key, replaces a mapping.
    """
    merged = {key: value for key, value in below.items() if above.get(key, value) is not None}
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            merged[key] = _merge(below[key], value)
        elif value is not None and not isinstance(below.get(key), dict):
            merged[key] = value
    return merged


def job_from(document: dict[str, Any], port: int, mistakes: Sequence[str]) -> Job:
    """The job, with its first task at this port. Raises LauncherError with every mistake."""
    document["addresses"]["port"] = port
    try:
        job = job_of(document)
    except LauncherError as error:
        # The values say worker.replicas where job.json says replicas.worker.
        text = re.sub(r"\b(replicas|maxReplicas)\.(\w+)", r"\2.\1", error.reason)
        raise LauncherError(error.exit_code, "\n".join([*mistakes, text])) from None
    if mistakes:
        raise LauncherError(ExitCode.CONFIGURATION, "\n".join(mistakes))
    return job


def job_document(
    values: Mapping[str, Any], code: Path | None, mistakes: list[str]
) -> dict[str, Any]:
    """The job.json that the chart renders from these values, but with local addresses and code."""
    program = values.get("program") or {}
    mistakes += _program_mistakes(program)
    document = {
        "version": JOB_VERSION,
        "release": "local",
        "mode": values.get("mode"),
        "replicas": {role: _replicas(values, role) for role in _roles(values)},
        "maxReplicas": {"worker": (values.get("worker") or {}).get("maxReplicas")},
        "addresses": {"host": HOST, "port": 1, "portsPerTask": True},
        "program": {
            **program,
            "command": _texts(program.get("command")),
            "args": _texts(program.get("args")),
            "env": _texts(program.get("env") or {}),  # null removes all variables
        },
        "code": _code(values.get("code") or {}, code, mistakes),
        **{key: values.get(key) for key in POLICIES},
    }
    document["run"] = hashlib.sha256(json.dumps(document).encode()).hexdigest()[:12]
    return document


def _program_mistakes(program: Mapping[str, Any]) -> Iterator[str]:
    """What the chart refuses in a program, and job.json can no longer tell."""
    env = program.get("env") if isinstance(program.get("env"), dict) else {}
    words = {f"program.env.{name}": value for name, value in (env or {}).items()}
    for key in ("command", "args"):
        given = program.get(key)
        items = given if isinstance(given, list) else []
        words |= {f"program.{key}[{i}]": item for i, item in enumerate(items)}
    for path, value in words.items():
        if isinstance(value, (int, float)) and abs(value) >= ROUNDED:
            yield (
                f"{path} must be quoted: Helm rounds numbers from 2^53 (9007199254740992) on; got "
                f"{_text(value)}. Write all its digits between quotes, or use --set-string."
            )
    for name, value in (env or {}).items():
        if name.startswith("TFRUN_") or name in RESERVED:
            yield (
                f"program.env must be without {name}: the launcher sets it for each task; "
                f"got {json.dumps(value)}. Remove it."
            )


def _code(named: Mapping[str, Any], folder: Path | None, mistakes: list[str]) -> dict[str, Any]:
    """The code source that the values name, or the folder instead; the options as in the chart."""
    source = {
        kind: {key: text for key, text in (named.get(kind) or {}).items() if text}
        for kind, keys in SOURCES.items()
        if any((named.get(kind) or {}).get(key) for key in keys)
    }
    if named.get("inline"):
        source["inline"] = named["inline"]
    if folder:
        source = {"folder": {"path": str(folder.absolute())}}
        if not folder.is_dir():
            mistakes.append(f"--code must name a folder; got {str(folder)!r}")
    elif not source or source.keys() & {"nfs", "claim"}:
        source = {"image": {"path": "/"}}
        mistakes.append(
            "--code must name the folder of the program: only a cluster mounts code.nfs and "
            "code.claim"
        )
    elif named.get("secret"):
        mistakes.append("--code must name the folder of the program: only a cluster has Secrets")
    options = {key: named[key] for key in ("requirements", "digest") if named.get(key)}
    return {**source, **options, "timeout": named.get("timeout"), "refresh": named.get("refresh")}


def _texts(value: Any) -> Any:
    if isinstance(value, list):
        return [_text(item) for item in value]
    if isinstance(value, dict):
        return {key: _text(item) for key, item in value.items()}
    return value


def _roles(values: Mapping[str, Any]) -> list[str]:
    """The mode's roles, and the evaluator if there is one."""
    # job_of refuses an unknown mode, and checks the rest as for the first mode; so do we.
    mode = MODES.get(str(values.get("mode")), next(iter(MODES.values())))
    roles = list(mode.least)
    return [*roles, EVALUATOR] if (values.get(EVALUATOR) or {}).get("replicas") else roles


def _replicas(values: Mapping[str, Any], role: str) -> Any:
    """How many tasks a role has. There is always one chief, so the values do not say so."""
    return 1 if role == "chief" else (values.get(role) or {}).get("replicas")


def _text(scalar: Any) -> Any:
    """A scalar as the chart writes it, by Go's rules for JSON: true, 1 for 1.0, 0.00001."""
    if isinstance(scalar, float) and (scalar == 0 or 1e-6 <= abs(scalar) < 1e21):
        text = format(decimal.Decimal(repr(scalar)), "f")
        return text[:-2] if text.endswith(".0") else text
    if isinstance(scalar, float):
        return re.sub("e-0([1-9])$", r"e-\1", repr(scalar))
    if isinstance(scalar, (bool, int)):
        return json.dumps(scalar)
    return scalar
