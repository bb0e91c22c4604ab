"""The parts of the cluster's code that need no cluster."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from tests.cluster import ClusterError, binaries, demo, kind, packages
from tests.cluster.box import Box, first_node, free_subnet
from tests.cluster.choose import in_full, named
from tests.cluster.components import containerd_config
from tests.cluster.plan import Plan
from tests.cluster.release import RunEnd

PLAN = Plan(
    box="default",
    subnet="10.254.0.0/16",
    node=first_node("10.254.0.0/16"),
    folder="/state",
    tools="/tools",
    pause_image="localhost/pause:1",
    mount_nfs="",
)


def test_a_plan_survives_its_way_into_the_box() -> None:
    assert Plan.from_json(PLAN.to_json()) == PLAN


def test_the_networks_of_a_cluster_do_not_overlap() -> None:
    nodes = IPv4Network(f"{PLAN.host_ip}/24", strict=False)
    pods, services = IPv4Network(PLAN.pods), IPv4Network(PLAN.services)
    assert IPv4Network(PLAN.node.pods).subnet_of(pods)
    assert not pods.overlaps(services)
    assert not nodes.overlaps(pods)
    assert not nodes.overlaps(services)


@pytest.mark.parametrize(
    ("taken", "chosen"),
    [
        ([], "10.254.0.0/16"),
        (["10.254.0.0/24"], "10.253.0.0/16"),
        (["10.254.7.0/24"], "10.254.0.0/16"),  # pods' addresses are invisible outside the box
        (["10.0.0.0/8", "192.168.1.0/24"], "172.31.0.0/16"),
    ],
)
def test_a_box_takes_a_network_that_the_machine_does_not_use(taken: list[str], chosen: str) -> None:
    assert free_subnet(None, [IPv4Network(network) for network in taken]) == chosen


def test_a_network_that_was_asked_for_and_is_taken_is_an_error() -> None:
    with pytest.raises(ClusterError, match=r"already has a route to 10\.9\.0\.0/16"):
        free_subnet("10.9.0.0/16", [IPv4Network("10.9.0.0/24")])


def test_interface_names_fit_the_kernel() -> None:
    assert len(Box(name="a-very-long-name").link) <= 15


@pytest.mark.parametrize(("may", "line"), [(True, "= false"), (False, "= true")])
def test_oom_scores_are_left_alone_where_they_can_not_be_lowered(may: bool, line: str) -> None:
    assert f"restrict_oom_score_adj {line}" in containerd_config(PLAN, may)


def test_versions_come_from_go_mod() -> None:
    go_mod = "module m\n\nrequire a.b/c v1.2.3\n\nrequire (\n\ta.b/c/d v4.5.6 // indirect\n)\n"
    assert binaries.module_version(go_mod, "a.b/c") == "v1.2.3"
    assert binaries.module_version(go_mod, "a.b/c/d") == "v4.5.6"
    with pytest.raises(ClusterError, match="requires no x"):
        binaries.module_version(go_mod, "x")


def test_tools_are_stamped_with_their_version() -> None:
    linker = binaries.flags()[-1]
    assert f"version.gitVersion={binaries.pinned('k8s.io/kubernetes')} " in linker
    assert "chartutil.k8sVersionMinor=3" in linker


def test_an_unknown_tool_is_answered_with_those_that_exist() -> None:
    with pytest.raises(ClusterError, match=r"is called hlem; there are: .*helm, helm3"):
        binaries.tool("hlem")


def test_a_tool_that_is_built_is_whole_or_missing(tmp_path: Path) -> None:
    target = tmp_path / "tool"

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise ClusterError("interrupted")

    with pytest.raises(ClusterError, match="interrupted"):
        binaries.make_once(target, "making it", fail)
    assert not target.exists()

    def succeed(temporary: Path) -> None:
        temporary.write_text("whole")

    binaries.make_once(target, "making it", succeed)
    assert binaries.make_once(target, "making it", fail).read_text() == "whole"


def test_missing_packages_are_named_where_they_cannot_be_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(ClusterError, match=r"apt-get install .* that-one\Z"):
        packages.require({"/etc/passwd": "base", "/no/such/file": "that-one"})


def test_a_context_of_your_own_needs_an_nfs_export_and_names_what_is_missing() -> None:
    with pytest.raises(ClusterError, match=r"(?s)production.*TFRUN_NFS .*TFRUN_NFS_FOLDER "):
        named("production", {})
    with pytest.raises(ClusterError, match=r"TFRUN_NFS must be .* got 'server'") as error:
        named("production", {"TFRUN_NFS": "server", "TFRUN_NFS_FOLDER": "/"})
    assert "TFRUN_NFS_FOLDER" not in str(error.value)


@pytest.mark.parametrize(
    ("image", "full"),
    [
        ("tensorflow/tensorflow:2.21.0", "docker.io/tensorflow/tensorflow:2.21.0"),
        ("python:3.12", "docker.io/python:3.12"),
        ("docker.io/library/python:3.12", "docker.io/library/python:3.12"),
        ("ghcr.io/me/train:1", "ghcr.io/me/train:1"),
        ("registry:5000/train:1", "registry:5000/train:1"),
        ("localhost/train:1", "localhost/train:1"),
    ],
)
def test_only_images_of_docker_hub_have_a_second_name(image: str, full: str) -> None:
    assert in_full(image) == full


class Recorder:
    """Runs nothing: records each command, and returns a prepared answer."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def __call__(self, command: Sequence[str | Path]) -> str:
        line = " ".join(str(word) for word in command)
        self.asked.append(line)
        return next((answer for part, answer in self.answers.items() if part in line), "")

    def ran(self, part: str) -> bool:
        return any(part in line for line in self.asked)


@pytest.fixture
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.usefixtures("_own_cache")
def test_kind_starts_a_cluster_where_there_is_none() -> None:
    runner = Recorder({"docker inspect": "172.18.0.9\n"})
    made = kind.up(Path("kind"), runner)
    assert made.nfs_server == "172.18.0.9"
    assert made.nfs_folder.is_dir()
    order = [
        "kind create cluster --name tfrun",
        "kind export kubeconfig --name tfrun --kubeconfig " + str(made.kubeconfig),
        "docker pull tensorflow/tensorflow:2.21.0",
        "kind load docker-image tensorflow/tensorflow:2.21.0 --name tfrun",
        "docker build --tag tfrun-nfs",
        "docker run --detach --name tfrun-nfs --network kind --privileged "
        f"--volume {made.nfs_folder}:/data tfrun-nfs",
    ]
    assert [part for line in runner.asked for part in order if part in line] == order


@pytest.mark.usefixtures("_own_cache")
def test_a_kind_cluster_that_is_there_is_not_started_again() -> None:
    runner = Recorder({"get clusters": "other\ntfrun\n", "docker images": "1", "docker ps": "2"})
    kind.up(Path("kind"), runner)
    for command in ("kind create", "docker pull", "docker build", "docker run"):
        assert not runner.ran(command)


def test_kind_is_removed_with_its_nfs_server() -> None:
    runner = Recorder({})
    kind.down(Path("kind"), runner)
    assert runner.asked == ["docker rm --force tfrun-nfs", "kind delete cluster --name tfrun"]


@pytest.mark.parametrize(
    ("told", "code"), [({"exitCode": 137}, 137), ({}, 1), ({"exitCode": 0}, 1)]
)
def test_a_demo_that_fails_ends_with_its_programs_code(told: dict[str, int], code: int) -> None:
    assert demo.failed(RunEnd("Failed", 1, {"reason": "no data", **told})) == code
