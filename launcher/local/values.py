"""Reads values files as Helm does, and makes the job.json that the chart would make."""

from __future__ import annotations

import decimal
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from launcher.shared.exits import ExitCode, LauncherError
from launcher.shared.job import JOB_VERSION, POLICIES, Job, job_of
from launcher.shared.modes import EVALUATOR, MODES
from launcher.shared.sources import SOURCES

PACKAGE = Path(__file__).absolute().parent.parent
# The chart's defaults: in the package in a wheel, in the chart in a checkout.
DEFAULTS = (PACKAGE / "values.yaml", PACKAGE.parent / "charts" / "tfrun" / "values.yaml")
# Values whose keys Kubernetes or the user defines.
FREE = {"env", "inline", "pod", "resources", "podSecurityContext", "securityContext"}
HOST = "127.0.0.1"


def read_values(files: Sequence[Path], mistakes: list[str]) -> dict[str, Any]:
    """The chart's defaults, overridden by the files; a later file overrides an earlier one.

    Adds to `mistakes`. Raises LauncherError(CONFIGURATION) if a file cannot be read.
    """
    defaults = _load(next(path for path in DEFAULTS if path.exists()))
    values = defaults
    for file in files:
        given = _load(file)
        mistakes += [f"{mistake} in {file}" for mistake in _mistakes(given, defaults)]
        values = _merge(values, given)
    return values


def _load(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text()) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise LauncherError(
            ExitCode.CONFIGURATION, f"{path} must be a readable YAML file: {error}"
        ) from None
    if not isinstance(document, dict):
        raise LauncherError(ExitCode.CONFIGURATION, f"{path} must hold a mapping of values")
    return document


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
