"""The programs of a node: what each needs on disk, its command line, and when it is ready."""

from __future__ import annotations

import json
import re
import socket
import ssl
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.plan import DOMAIN, NFS_EXPORT, Plan

RUN = Path("/run")  # each box mounts its own
CONTAINERD = RUN / "containerd/containerd.sock"
NFS, NFS_PORT, MOUNT_PORT = "nfs", 2049, 20048
CAP_SYS_RESOURCE = 24


@dataclass(frozen=True)
class Component:
    """One program of a node."""

    name: str
    command: list[str]
    ready: Callable[[], bool]
    after: tuple[str, ...] = ()  # components that must be ready first


def components(plan: Plan) -> list[Component]:
    """All programs of a node that also runs the control plane."""
    pki, ip = plan.state / "pki", plan.node.ip
    admin = administrator(plan)
    # The certificate of the control plane. It is also valid for 127.0.0.1.
    serving = [
        f"--tls-cert-file={pki}/apiserver.crt",
        f"--tls-private-key-file={pki}/apiserver.key",
    ]

    def kubeconfig(name: str) -> str:
        return f"{plan.state}/{name}.kubeconfig"

    def defaults_exist() -> bool:
        # The API server refuses pods until the controllers have created the service account.
        accounts = f"{plan.api}/api/v1/namespaces/default/serviceaccounts/default"
        return bool(get_json(accounts, admin))

    return [
        Component(
            "etcd",
            [
                "etcd",
                f"--data-dir={RUN}/etcd",
                "--unsafe-no-fsync",  # each start begins with no data
                "--listen-peer-urls=http://127.0.0.1:2380",
                "--listen-client-urls=http://127.0.0.1:2379",
                "--advertise-client-urls=http://127.0.0.1:2379",
            ],
            lambda: answers("http://127.0.0.1:2379/health"),
        ),
        Component(
            "containerd",
            ["containerd", f"--config={RUN}/containerd.toml"],
            lambda: listens(CONTAINERD),
        ),
        Component("rpcbind", ["rpcbind", "-f", "-w"], lambda: listens(("127.0.0.1", 111))),
        Component(
            NFS,
            [
                *("ganesha.nfsd", "-F", "-f", f"{RUN}/ganesha.conf"),
                *("-L", "/dev/stdout", "-p", f"{RUN}/ganesha.pid"),
            ],
            lambda: listens((ip, NFS_PORT)),
            after=("rpcbind",),
        ),
        Component(
            "kube-apiserver",
            [
                "kube-apiserver",
                "--etcd-servers=http://127.0.0.1:2379",
                f"--advertise-address={ip}",
                f"--service-cluster-ip-range={plan.services}",
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
                "--allow-privileged=true",
                f"--client-ca-file={pki}/ca.crt",
                *serving,
                f"--kubelet-certificate-authority={pki}/ca.crt",
                f"--kubelet-client-certificate={pki}/apiserver-kubelet.crt",
                f"--kubelet-client-key={pki}/apiserver-kubelet.key",
                "--kubelet-preferred-address-types=InternalIP",
                f"--service-account-issuer=https://kubernetes.default.svc.{DOMAIN}",
                f"--service-account-key-file={pki}/service-accounts.crt",
                f"--service-account-signing-key-file={pki}/service-accounts.key",
            ],
            lambda: answers(f"{plan.api}/readyz", admin),
            after=("etcd",),
        ),
        Component(
            "kube-controller-manager",
            [
                "kube-controller-manager",
                f"--kubeconfig={kubeconfig('kube-controller-manager')}",
                "--bind-address=127.0.0.1",
                *serving,
                "--leader-elect=false",
                "--use-service-account-credentials",
                f"--root-ca-file={pki}/ca.crt",
                f"--service-account-private-key-file={pki}/service-accounts.key",
                # Detect a lost node within seconds; see nodeLeaseDurationSeconds below.
                "--node-monitor-period=1s",
                "--node-monitor-grace-period=8s",
                # Create and delete large StatefulSets quickly.
                "--kube-api-qps=300",
                "--kube-api-burst=500",
            ],
            lambda: answers("https://127.0.0.1:10257/healthz", admin) and defaults_exist(),
            after=("kube-apiserver",),
        ),
        Component(
            "kube-scheduler",
            [
                "kube-scheduler",
                f"--kubeconfig={kubeconfig('kube-scheduler')}",
                "--bind-address=127.0.0.1",
                *serving,
                "--leader-elect=false",
            ],
            lambda: answers("https://127.0.0.1:10259/healthz", admin),
            after=("kube-apiserver",),
        ),
        Component(
            "kube-proxy",
            [
                "kube-proxy",
                f"--kubeconfig={kubeconfig('kube-proxy')}",
                f"--hostname-override={plan.node.name}",
                "--proxy-mode=iptables",
                f"--cluster-cidr={plan.pods}",
                # Do not change these limits: they belong to the whole machine.
                "--conntrack-max-per-core=0",
                "--conntrack-tcp-timeout-established=0",
                "--conntrack-tcp-timeout-close-wait=0",
            ],
            lambda: answers("http://127.0.0.1:10256/healthz"),
            after=("kube-apiserver",),
        ),
        Component(
            "coredns",
            ["coredns", "-conf", f"{RUN}/Corefile"],
            lambda: answers("http://127.0.0.1:8181/ready"),
            after=("kube-apiserver",),
        ),
        Component(
            "kubelet",
            [
                "kubelet",
                f"--config={RUN}/kubelet.yaml",
                f"--kubeconfig={kubeconfig('node')}",
                f"--node-ip={ip}",
                f"--hostname-override={plan.node.name}",
            ],
            lambda: node_is_ready(plan, admin),
            after=("kube-apiserver", "containerd"),  # it exits if containerd does not answer
        ),
    ]


def files(plan: Plan) -> Mapping[Path, str]:
    """The configuration files that the commands name."""
    return {
        RUN / "containerd.toml": containerd_config(plan, may_lower_oom_score()),
        RUN / "cni/10-pods.conflist": json.dumps(network_config(plan)),
        RUN / "kubelet.yaml": json.dumps(kubelet_config(plan)),
        RUN / "resolv.conf": f"nameserver {plan.node.ip}\n",
        RUN / "Corefile": corefile(plan),
        RUN / "ganesha.conf": ganesha_config(f"{plan.state}/nfs"),
    }


def containerd_config(plan: Plan, may_lower_oom: bool) -> str:
    """containerd: images are in the box's folder and survive; all else is in the box's /run."""
    return f"""version = 3
root = "{plan.state}/containerd"
state = "{CONTAINERD.parent}"
[grpc]
address = "{CONTAINERD}"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{plan.pause_image}"
[plugins."io.containerd.cri.v1.runtime"]
# Without CAP_SYS_RESOURCE no process may lower its OOM score, and every container would fail.
restrict_oom_score_adj = {"false" if may_lower_oom else "true"}
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{plan.tools}"]
conf_dir = "{RUN}/cni"
use_internal_loopback = true
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"""


def network_config(plan: Plan) -> dict[str, Any]:
    """CNI: each pod has its own veth pair with a route, so we need no bridge netfilter."""
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": plan.node.pods}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    return {
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [{"type": "ptp", "ipMasq": False, "ipam": ipam}],
    }


def kubelet_config(plan: Plan) -> dict[str, Any]:
    """The kubelet: it manages only the box's cgroup, and reports often."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{plan.state}/pki/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{plan.state}/pki/kubelet.crt",
        "tlsPrivateKeyFile": f"{plan.state}/pki/kubelet.key",
        "containerRuntimeEndpoint": f"unix://{CONTAINERD}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": plan.cgroup,
        "failCgroupV1": False,
        "failSwapOn": False,
        "clusterDNS": [plan.node.ip],
        "clusterDomain": DOMAIN,
        "resolvConf": f"{RUN}/resolv.conf",
        "maxPods": 250,
        "serializeImagePulls": False,
        "nodeStatusUpdateFrequency": "2s",
        "nodeLeaseDurationSeconds": 8,
        # The disk belongs to the whole machine: the kubelet evicts pods only if it is almost
        # full, and never removes images.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
    }


def corefile(plan: Plan) -> str:
    """CoreDNS with the usual cache: it keeps answers, also "no such name", for up to 30 s."""
    return f"""{DOMAIN}:53 in-addr.arpa:53 ip6.arpa:53 {{
    errors
    ready 127.0.0.1:8181
    cache 30
    kubernetes {DOMAIN} in-addr.arpa ip6.arpa {{
        kubeconfig {plan.state}/coredns.kubeconfig
        pods insecure
        ttl 30
    }}
}}
"""


def ganesha_config(folder: str) -> str:
    """The NFS server: one export, NFS 3 and 4. Clients see the machine's writes at once."""
    return f"""NFS_CORE_PARAM {{
    Protocols = 3, 4;
    NFS_Port = {NFS_PORT};
    MNT_Port = {MOUNT_PORT};
    Enable_NLM = false;
    Enable_RQUOTA = false;
    Mount_Path_Pseudo = true;
}}
NFSv4 {{
    Graceless = true;
    RecoveryBackend = fs;
}}
MDCACHE {{
    Dir_Chunk = 0;
}}
EXPORT {{
    Export_Id = 1;
    Path = "{folder}";
    Pseudo = "{NFS_EXPORT}";
    Access_Type = RW;
    Squash = No_Root_Squash;
    SecType = sys;
    Attr_Expiration_Time = 0;
    FSAL {{
        Name = VFS;
    }}
}}
"""


def may_lower_oom_score() -> bool:
    """Whether this process has the capability to lower an OOM score (CAP_SYS_RESOURCE)."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^CapEff:\s+(\w+)$", status, re.MULTILINE)
    return bool(found and int(found[1], 16) >> CAP_SYS_RESOURCE & 1)


def administrator(plan: Plan) -> ssl.SSLContext:
    """The TLS settings with which an administrator connects to the API server."""
    pki = plan.state / "pki"
    context = ssl.create_default_context(cafile=pki / "ca.crt")
    context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
    return context


def node_is_ready(plan: Plan, admin: ssl.SSLContext) -> bool:
    """Whether the API server says that pods can run on the node."""
    node = get_json(f"{plan.api}/api/v1/nodes/{plan.node.name}", admin)
    conditions = node.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def answers(url: str, context: ssl.SSLContext | None = None) -> bool:
    """Whether a GET succeeds."""
    return get(url, context) is not None


def get_json(url: str, context: ssl.SSLContext) -> dict[str, Any]:
    """An object of the API server; empty if the request fails."""
    found: dict[str, Any] = json.loads(get(url, context) or b"{}")
    return found


def get(url: str, context: ssl.SSLContext | None) -> bytes | None:
    """The body of the reply to a GET; None if it fails."""
    try:
        with urllib.request.urlopen(url, timeout=2, context=context) as reply:  # noqa: S310
            body: bytes = reply.read()
            return body
    except OSError:
        return None


def listens(address: Path | tuple[str, int]) -> bool:
    """Whether a process accepts connections at an address."""
    family = socket.AF_UNIX if isinstance(address, Path) else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        return probe.connect_ex(str(address) if isinstance(address, Path) else address) == 0
