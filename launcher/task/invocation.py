"""How a task's child is started: its arguments, its environment, its folder. Pure.

A task that runs the program gets the ClusterSpec as TF_CONFIG
(https://www.tensorflow.org/guide/distributed_training), as PS_HOSTS, WORKER_HOSTS, JOB_NAME and
TASK_INDEX, and with `program.flags` as the flags of the same names that TensorFlow 1 programs
take. A task that serves gets the built-in TensorFlow server.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.code.pull import Pulled
from launcher.shared import cluster_spec
from launcher.shared.identity import Task
from launcher.shared.protocol import Directive

# absolute() and not resolve(): in a pod each file is a link into the ConfigMap's volume.
SERVER = Path(__file__).absolute().parent / "tensorflow_server.py"
PROXIES = ("grpc_proxy", "https_proxy", "http_proxy", "all_proxy")


@dataclass(frozen=True)
class Invocation:
    """What a child process is started with."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path


def program(
    directive: Directive, task: Task, pulled: Pulled, ready: Path, environ: Mapping[str, str]
) -> Invocation:
    """The user's program, in the code folder. PYTHONPATH has that folder and its requirements."""
    job = directive.job
    variables = _variables(directive, task)
    flags = tuple(f"--{name.lower()}={value}" for name, value in variables.items())
    words = job.program
    env = {**_inherited(environ), **words.env}
    return Invocation(
        argv=(*words.command, *words.args, *(flags if words.flags else ())),
        env={
            **_joined(env, directive, pulled, str(pulled.folder)),
            **variables,
            "TF_CONFIG": _tf_config(directive, task),
            "TFRUN_RUN": job.run,
            "TFRUN_GENERATION": str(directive.generation),
            "TFRUN_READY": str(ready),
            **({"TFRUN_CODE_DIGEST": pulled.digest} if pulled.digest else {}),
        },
        cwd=pulled.folder / words.working_dir,
    )


def server(
    directive: Directive, task: Task, pulled: Pulled | None, environ: Mapping[str, str]
) -> Invocation:
    """The built-in TensorFlow server at a task's address in the ClusterSpec."""
    job = directive.job
    python = job.python or sys.executable
    if job.python_in_code:  # a stand-in may lack the code
        python = str(pulled.folder / python) if pulled else sys.executable
    env = _inherited(environ)
    env.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    if task.role == "ps":
        # A parameter server on a GPU would take all of its memory from the workers.
        env.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    env = _joined({**env, **job.program.env}, directive, pulled)
    return Invocation(
        argv=(python, str(SERVER)),
        env={**env, "TF_CONFIG": _tf_config(directive, task)},
        cwd=SERVER.parent,
    )


def _variables(directive: Directive, task: Task) -> dict[str, str]:
    spec = cluster_spec.spec(directive.job, directive.hosts)
    hosts = {f"{role.upper()}_HOSTS": ",".join(addresses) for role, addresses in spec.items()}
    return {**hosts, "JOB_NAME": task.role, "TASK_INDEX": str(task.index)}


def _tf_config(directive: Directive, task: Task) -> str:
    spec = cluster_spec.spec(directive.job, directive.hosts)
    return json.dumps({"cluster": spec, "task": {"type": task.role, "index": task.index}})


def _inherited(environ: Mapping[str, str]) -> dict[str, str]:
    env = {name: value for name, value in environ.items() if not name.startswith("TFRUN_")}
    env.setdefault("PYTHONUNBUFFERED", "1")
    return env


def _joined(
    env: Mapping[str, str], directive: Directive, pulled: Pulled | None, *code: str
) -> dict[str, str]:
    """The variables, with what the child needs added to those that are lists."""
    libraries = pulled.libraries if pulled else None
    modules, scripts = list(code), []
    if libraries:
        modules.append(str(libraries / "packages"))
        scripts.append(str(libraries / "scripts"))
    return {
        **env,
        **_prefixed("PYTHONPATH", modules, env, ""),
        **_prefixed("PATH", scripts, env, os.defpath),
        **_direct(env, directive),
    }


def _prefixed(
    name: str, first: Sequence[str], env: Mapping[str, str], default: str
) -> dict[str, str]:
    paths = [*first, env.get(name) or default]
    return {name: os.pathsep.join(path for path in paths if path)} if first else {}


def _direct(env: Mapping[str, str], directive: Directive) -> dict[str, str]:
    """Keeps the tasks' own connections away from a proxy, which gRPC would use."""
    if not any(env.get(name) or env.get(name.upper()) for name in PROXIES):
        return {}
    spec = cluster_spec.spec(directive.job, directive.hosts)
    addresses = (address for role in spec.values() for address in role)
    hosts = (address.rpartition(":")[0].strip("[]") for address in addresses)
    ours = ",".join(dict.fromkeys(hosts))  # gRPC knows no ports here
    lower, upper = env.get("no_proxy", ""), env.get("NO_PROXY", "")
    given = {
        "no_proxy": lower or upper,
        "NO_PROXY": upper or lower,
        "no_grpc_proxy": env.get("no_grpc_proxy") or lower or upper,  # for gRPC, before no_proxy
    }
    return {
        # Only alone does * mean every host. gRPC does not know it.
        name: value if value == "*" and name != "no_grpc_proxy" else f"{value},{ours}".lstrip(",")
        for name, value in given.items()
    }
