"""Each variable of docs/program.md, with real processes: the launcher, the program, git and pip."""

from __future__ import annotations

import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from launcher.code import archive, git, requirements
from launcher.code.git import Repository
from launcher.code.pull import Pulled
from launcher.shared.exits import LauncherError
from launcher.shared.identity import Task
from launcher.shared.protocol import Action, Directive, Leader
from launcher.task import invocation
from tests.unit.code import archives
from tests.unit.code.test_pull import commit
from tests.unit.code.wheels import unpack, wheel
from tests.unit.jobs import job
from tests.unit.processes import ROOT
from tests.unit.servers import serving

START = ("-I", "-u", "-X", "utf8", str(ROOT / "launcher"), "task")  # as the pods do
PAGE = (ROOT / "docs" / "program.md").read_text()
PEERS = "mnist-ps-0.mnist,mnist-worker-0.mnist,mnist-worker-1.mnist"
BREAKS = "raise SystemExit('imported')\n"


@dataclass(frozen=True)
class Row:
    """A variable, what tfrun does with it, and a value that could break something.

    `told` is what the program gets if not `value`; BAD in a value is a folder with a bad module.
    """

    does: str
    value: str
    told: str | None = None


KEPT, SHIELDED, JOINED, REPLACED = "kept", "shielded", "joined", "replaced"
SPEC = {"ps": ["mnist-ps-0.mnist:2222"]}
SPEC["worker"] = [f"mnist-worker-{i}.mnist:2222" for i in (0, 1)]
ROWS = {
    "PYTHONPATH": Row(JOINED, "BAD", "/work/code:/work/libraries/packages:BAD"),
    "PATH": Row(JOINED, "/usr/bin:/bin", "/work/libraries/scripts:/usr/bin:/bin"),
    "no_proxy": Row(JOINED, "a.example.com", f"a.example.com,{PEERS}"),
    "NO_PROXY": Row(JOINED, "a.example.com", f"a.example.com,{PEERS}"),
    "no_grpc_proxy": Row(JOINED, "a.example.com", f"a.example.com,{PEERS}"),
    "http_proxy": Row(KEPT, "http://127.0.0.1:9"),
    "https_proxy": Row(KEPT, "http://127.0.0.1:9"),
    "grpc_proxy": Row(KEPT, "http://127.0.0.1:9"),
    "all_proxy": Row(KEPT, "http://127.0.0.1:9"),
    "PYTHONUNBUFFERED": Row(SHIELDED, "0"),
    "PYTHONHOME": Row(SHIELDED, "/nowhere"),
    "PYTHONSAFEPATH": Row(SHIELDED, "1"),
    "PYTHONOPTIMIZE": Row(SHIELDED, "2"),
    "PYTHONWARNINGS": Row(SHIELDED, "error"),
    "PYTHONDEVMODE": Row(SHIELDED, "1"),
    "PYTHONINSPECT": Row(SHIELDED, "1"),
    "PYTHONSTARTUP": Row(SHIELDED, "/nowhere"),
    "PYTHONVERBOSE": Row(SHIELDED, "1"),
    "PYTHONPROFILEIMPORTTIME": Row(SHIELDED, "1"),
    "PYTHONIOENCODING": Row(SHIELDED, "utf-16"),
    "PYTHONUTF8": Row(SHIELDED, "nonsense"),
    "PYTHONMALLOC": Row(SHIELDED, "nonsense"),
    "PYTHONHASHSEED": Row(SHIELDED, "nonsense"),
    "PYTHONTRACEMALLOC": Row(SHIELDED, "nonsense"),
    "PYTHONNOUSERSITE": Row(SHIELDED, "1"),
    "PYTHONUSERBASE": Row(SHIELDED, "BAD"),
    "PYTHONBREAKPOINT": Row(SHIELDED, "nonsense"),
    "PYTHONDONTWRITEBYTECODE": Row(SHIELDED, "1"),
    "PYTHONPYCACHEPREFIX": Row(SHIELDED, "/nowhere"),
    "TF_CONFIG": Row(
        REPLACED,
        "{}",
        json.dumps({"cluster": SPEC, "task": {"type": "worker", "index": 1}}),
    ),
    "PS_HOSTS": Row(REPLACED, "a:1", SPEC["ps"][0]),
    "WORKER_HOSTS": Row(REPLACED, "a:1", ",".join(SPEC["worker"])),
    "JOB_NAME": Row(REPLACED, "ps", "worker"),
    "TASK_INDEX": Row(REPLACED, "9", "1"),
    "TFRUN_GENERATION": Row(REPLACED, "tcp://10.0.0.1:80", "1"),
    "TF_CPP_MIN_LOG_LEVEL": Row(KEPT, "3"),
    "TF_FORCE_GPU_ALLOW_GROWTH": Row(KEPT, "true"),
    "CUDA_VISIBLE_DEVICES": Row(KEPT, "0"),
    "GRPC_VERBOSITY": Row(KEPT, "debug"),
    "GRPC_TRACE": Row(KEPT, "all"),
    "GRPC_DNS_RESOLVER": Row(KEPT, "native"),
    "OMP_NUM_THREADS": Row(KEPT, "2"),
    "MALLOC_ARENA_MAX": Row(KEPT, "2"),
    "LD_LIBRARY_PATH": Row(KEPT, "/nowhere"),
    "LD_PRELOAD": Row(SHIELDED, "/nowhere/lib.so"),
    "HOME": Row(KEPT, "/nowhere"),
    "TMPDIR": Row(KEPT, "/nowhere"),
    "TZ": Row(KEPT, "Nowhere/Nowhere"),
    "LC_ALL": Row(KEPT, "C"),
    "KUBERNETES_SERVICE_HOST": Row(KEPT, "tcp://10.0.0.1:80"),
    "GIT_DIR": Row(SHIELDED, "/nowhere"),
    "GIT_WORK_TREE": Row(SHIELDED, "/nowhere"),
    "GIT_INDEX_FILE": Row(SHIELDED, "/nowhere/index"),
    "GIT_TRACE": Row(SHIELDED, "1"),
    "GIT_LFS_SKIP_SMUDGE": Row(SHIELDED, "0"),
    "GIT_SSH_COMMAND": Row(KEPT, "sh -c 'echo my ssh >&2; exit 1'"),
    "GIT_ASKPASS": Row(KEPT, "ASKS"),
    "GIT_CONFIG_GLOBAL": Row(KEPT, "CONFIG"),
    "PIP_TARGET": Row(SHIELDED, "/nowhere"),
    "PIP_PREFIX": Row(SHIELDED, "/nowhere"),
    "PIP_USER": Row(SHIELDED, "1"),
    "PIP_REQUIRE_VIRTUALENV": Row(SHIELDED, "1"),
    "PIP_QUIET": Row(SHIELDED, "3"),
    "PIP_DRY_RUN": Row(SHIELDED, "1"),
    "PIP_INDEX_URL": Row(KEPT, "http://127.0.0.1:9"),
    "PIP_CONFIG_FILE": Row(KEPT, "CONFIG"),
}


TABLE = PAGE.partition("## Which variables are kept")[2].partition("\n## ")[0]
# The variables of each row of the page, and what tfrun does with them.
PAGE_ROWS = [
    (tuple(re.findall(r"`(\w+)", names)), does)
    for names, does in re.findall(r"^\| (`.+?`) \| (\w+)", TABLE, re.MULTILINE)
]


def shielded(*prefixes: str, but: tuple[str, ...] = ()) -> dict[str, str]:
    """The variables with these prefixes from which git and pip are shielded, and their values."""
    return {
        name: row.value
        for name, row in ROWS.items()
        if row.does == SHIELDED and name.startswith(prefixes) and name not in but
    }


def test_the_page_has_exactly_these_rows() -> None:
    told = {name: does for names, does in PAGE_ROWS for name in names}
    assert told == {name: row.does for name, row in ROWS.items()}


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """A folder with modules that end every Python that imports them."""
    folder = tmp_path / "bad"
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    packages = folder / "lib" / version / "site-packages"
    packages.mkdir(parents=True)
    for name in ("sitecustomize", "json", "argparse", "launcher"):
        (folder / f"{name}.py").write_text(BREAKS)
    (packages / "usercustomize.py").write_text(BREAKS)
    return folder


# The launcher and the program.


@pytest.mark.parametrize("names", [names for names, _ in PAGE_ROWS], ids=lambda names: names[0])
def test_the_launcher_starts_and_the_program_gets_the_variables(
    names: tuple[str, ...], bad: Path, tmp_path: Path, variables: dict[str, str]
) -> None:
    """As variables of the container, which the launcher gets too."""
    values = {name: ROWS[name].value.replace("BAD", str(bad)) for name in names}
    own = {"PATH": os.environ["PATH"], **variables, "TFRUN_HOST": "127.0.0.1", **values}
    words = [sys.executable, *START, "--", *SHOW, *names]
    ended = subprocess.run(words, env=own, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    told = shown(ended.stdout)
    for name, value in values.items():
        row = ROWS[name]
        if row.does in (KEPT, SHIELDED):
            assert told[name] == value
        elif row.does == REPLACED:
            assert told[name] != value
        else:
            assert value in told[name]
    noise = [line for line in ended.stderr.splitlines() if not re.match(r"\d\d:\d\d:\d\d t", line)]
    assert not noise or "LD_PRELOAD" in names, noise


@pytest.mark.parametrize("names", [names for names, _ in PAGE_ROWS], ids=lambda names: names[0])
def test_the_programs_own_variables_reach_it_in_the_same_way(
    names: tuple[str, ...], bad: Path, tmp_path: Path
) -> None:
    """As variables of program.env."""
    values = {name: ROWS[name].value.replace("BAD", str(bad)) for name in names}
    env = {"https_proxy": "http://127.0.0.1:9", **values}
    words = [*SHOW, *names]
    # One that is joined is given alone, because it may change what another one becomes.
    alone = [{name: env[name], "https_proxy": env["https_proxy"]} for name in names]
    for given in alone if ROWS[names[0]].does == JOINED else [env]:
        runs = job(program__command=words, program__args=[], program__env=given)
        directive = Directive(Leader(1, "me"), Action.RUN, 1, 0, runs)
        pulled = Pulled(Path("/work/code"), "0a" * 16, Path("/work/libraries"))
        started = invocation.program(directive, Task("worker", 1), pulled, tmp_path / "ready", {})
        ended = subprocess.run(started.argv, env=started.env, capture_output=True, text=True)
        told = shown(ended.stdout)
        for name in names:
            if name in given:
                expected = (ROWS[name].told or values[name]).replace("BAD", str(bad))
                assert told[name] == expected


# Prints each variable that its arguments name.
SHOW = ("/bin/sh", "-c", 'for n in "$@"; do eval "echo \\"$n=\\$$n\\""; done', "sh")


def shown(output: str) -> dict[str, str]:
    """What SHOW has printed. The loader names a wrong LD_PRELOAD besides."""
    lines = (line.partition("=") for line in output.splitlines())
    return {name: value for name, _, value in lines if name in ROWS}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, (None, None, None)),
        ({"no_proxy": "a"}, ("a", None, None)),
        ({"http_proxy": "p"}, (PEERS, PEERS, PEERS)),
        ({"http_proxy": "p", "no_proxy": "a"}, (f"a,{PEERS}",) * 3),
        ({"http_proxy": "p", "NO_PROXY": "a"}, (f"a,{PEERS}",) * 3),
        ({"http_proxy": "p", "no_proxy": "*"}, ("*", "*", f"*,{PEERS}")),
        (
            {"http_proxy": "p", "no_proxy": "a", "NO_PROXY": "b", "no_grpc_proxy": "c"},
            (f"a,{PEERS}", f"b,{PEERS}", f"c,{PEERS}"),
        ),
    ],
)
@pytest.mark.parametrize("role", ["ps", "worker"])
def test_the_tasks_addresses_are_added_only_where_a_proxy_is_set(
    given: Mapping[str, str], told: tuple[str | None, ...], role: str
) -> None:
    directive = Directive(Leader(1, "me"), Action.RUN, 1, 0, job())
    pulled = Pulled(Path("/work/code"), "")
    started = (
        invocation.server(directive, Task("ps", 0), None, given)
        if role == "ps"
        else invocation.program(directive, Task("worker", 0), pulled, Path("/ready"), given)
    )
    assert tuple(map(started.env.get, ("no_proxy", "NO_PROXY", "no_grpc_proxy"))) == told


@pytest.mark.parametrize("env", [{}, {"PYTHONSAFEPATH": "1"}])
def test_a_server_imports_no_module_of_the_launcher(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "tensorflow.py").write_text("import sys; sys.exit('\\n'.join(sys.path))")
    env = {**env, "PYTHONPATH": str(tmp_path)}
    words = [sys.executable, str(invocation.SERVER)]
    ended = subprocess.run(words, env=env, capture_output=True, text=True)
    assert ended.stderr.splitlines()[0] == str(tmp_path)
    assert str(ROOT) not in ended.stderr


# git.


@pytest.fixture
def origin(tmp_path: Path) -> tuple[Path, str]:
    folder = tmp_path / "origin"
    folder.mkdir()
    (folder / "train.py").write_text("print('new')\n")
    (folder / "large.bin").write_text("pointer\n")
    (folder / ".gitattributes").write_text("*.bin filter=lfs\n")
    return folder, commit(folder)


def clone(url: str, ref: str, folder: Path, env: Mapping[str, str]) -> Path:
    repository = Repository(url, None, 60, {**os.environ, **env})
    git.fetch(repository, ref, folder, threading.Event())
    return folder


@pytest.mark.parametrize("prefix", ["GIT", "LD_", "PYTHON"])
def test_git_is_shielded_from_the_variables(
    prefix: str, origin: tuple[Path, str], tmp_path: Path, bad: Path
) -> None:
    (tmp_path / "config").write_text('[filter "lfs"]\n smudge = sed s/pointer/object/\n')
    env = {"GIT_CONFIG_SYSTEM": str(tmp_path / "config")}
    env |= {name: value.replace("BAD", str(bad)) for name, value in shielded(prefix).items()}
    cloned = clone(origin[0].as_uri(), origin[1], tmp_path / "to", env)
    assert (cloned / "train.py").read_text() == "print('new')\n"
    assert (cloned / "large.bin").read_text() == "pointer\n"


def test_git_uses_your_ssh_command(origin: tuple[Path, str], tmp_path: Path) -> None:
    env = {"GIT_SSH_COMMAND": ROWS["GIT_SSH_COMMAND"].value}
    with pytest.raises(LauncherError) as error:
        clone("ssh://git@example.invalid/a", origin[1], tmp_path / "to", env)
    assert any("my ssh" in line for line in error.value.last_lines)


def test_git_uses_your_configuration_and_asks_your_program(
    origin: tuple[Path, str], tmp_path: Path, server: str
) -> None:
    config = f'[url "{origin[0]}"]\n insteadOf = https://example.invalid/a\n'
    (tmp_path / "config").write_text(config)
    env = {"GIT_CONFIG_GLOBAL": str(tmp_path / "config")}
    cloned = clone("https://example.invalid/a", origin[1], tmp_path / "to", env)
    assert (cloned / "train.py").exists()
    asks = tmp_path / "asks"
    asks.write_text(f"#!/bin/sh\ntouch {tmp_path}/asked\n")
    asks.chmod(0o755)
    with pytest.raises(LauncherError):
        clone(f"http://{server}/401", origin[1], tmp_path / "no", {"GIT_ASKPASS": str(asks)})
    assert (tmp_path / "asked").exists()


# Proxies: the server answers as its address says, and as a proxy.


class Server(http.server.BaseHTTPRequestHandler):
    heard: list[str]

    def do_GET(self) -> None:
        self.heard.append(self.path)
        status = 401 if "/401" in self.path else 404
        self.send_response(status)
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="a"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Server.heard = []
    with serving(Server) as address:
        yield address


Fetch = Callable[[str, Mapping[str, str], Path], None]


def archive_of(url: str, env: Mapping[str, str], folder: Path) -> None:
    wanted = archives.of(Path(__file__), url=url, sha256="0" * 64, env=env)
    archive.fetch(wanted, folder / "to", threading.Event())


def repository_of(url: str, env: Mapping[str, str], folder: Path) -> None:
    clone(url, "0" * 40, folder / "to", env)


def index_of(url: str, env: Mapping[str, str], folder: Path) -> None:
    host = url.split("/")[2]
    own = {"PIP_INDEX_URL": url, "PIP_TRUSTED_HOST": host, "PIP_RETRIES": "0", **env}
    require(folder, "nothing\n", {"PIP_CONFIG_FILE": "/dev/null", **own})


@pytest.mark.parametrize("fetch", [archive_of, repository_of, index_of])
def test_code_is_fetched_through_a_proxy(fetch: Fetch, server: str, tmp_path: Path) -> None:
    with pytest.raises(LauncherError):
        fetch("http://code.invalid/a", {"http_proxy": f"http://{server}"}, tmp_path)
    assert Server.heard[0].startswith("http://code.invalid/a")


@pytest.mark.parametrize("fetch", [archive_of, repository_of, index_of])
def test_code_is_fetched_directly_where_no_proxy_says_so(
    fetch: Fetch, server: str, tmp_path: Path
) -> None:
    env = {"http_proxy": "http://127.0.0.1:9", "no_proxy": "127.0.0.1"}
    with pytest.raises(LauncherError):
        fetch(f"http://{server}/a", env, tmp_path)
    assert Server.heard[0].startswith("/a")


# pip.


def require(folder: Path, text: str, env: Mapping[str, str]) -> Path:
    code = folder / "code"
    code.mkdir(exist_ok=True)
    (code / "requirements.txt").write_text(text)
    kept, env = folder / "kept", {**os.environ, **env}
    return requirements.install(code, "a", sys.executable, env, kept, threading.Event())


# pip looks for packages where the program's Python does, so these also lead pip.
@pytest.mark.parametrize("prefix", ["PIP_", "PYTHON", "LD_"])
def test_pip_is_shielded_from_the_variables(prefix: str, tmp_path: Path) -> None:
    wheel(tmp_path, "tiny")
    env = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    env |= shielded(prefix, but=("PYTHONHOME", "PYTHONUSERBASE"))
    assert (require(tmp_path, "tiny\n", env) / "packages" / "tiny.py").exists()


def test_pip_uses_your_index_and_your_configuration(tmp_path: Path, server: str) -> None:
    with pytest.raises(LauncherError):
        index_of(f"http://{server}/mine", {}, tmp_path)
    assert Server.heard[0] == "/mine/nothing/"
    (tmp_path / "pip.conf").write_text(f"[global]\nindex-url = http://{server}/conf\n")
    env = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
    env |= {"PIP_CONFIG_FILE": str(tmp_path / "pip.conf"), "PIP_RETRIES": "0"}
    with pytest.raises(LauncherError):
        require(tmp_path, "nothing\n", env)
    assert Server.heard[-1] == "/conf/nothing/"


def test_packages_of_a_user_base_are_the_images(tmp_path: Path) -> None:
    site = subprocess.run(
        [sys.executable, "-c", "import site; print(site.getusersitepackages())"],
        env={"PYTHONUSERBASE": str(tmp_path / "base")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    Path(site).mkdir(parents=True)
    unpack(wheel(tmp_path, "tiny"), Path(site))
    found = require(tmp_path, "tiny\n", {"PIP_NO_INDEX": "1", "PYTHONPATH": site})
    assert list((found / "scripts").iterdir()) == []
