"""Creates the cluster's certificates and kubeconfig files at every start."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path

import trustme

from tests.cluster.plan import DOMAIN, Plan

# The API server's clients: file name -> (common name, organization).
CLIENTS = {
    "admin": ("admin", "system:masters"),
    "apiserver-kubelet": ("kube-apiserver-kubelet-client", "system:masters"),
    "coredns": ("coredns", "system:masters"),
    "kube-controller-manager": ("system:kube-controller-manager", None),
    "kube-scheduler": ("system:kube-scheduler", None),
    "kube-proxy": ("system:kube-proxy", None),
}


@dataclass(frozen=True)
class Identity:
    """A certificate with its key, PEM."""

    certificate: bytes
    key: bytes


def write(plan: Plan, context: str) -> None:
    """Write `pki/*.crt|key` and `*.kubeconfig` into the box's folder."""
    authority = trustme.CA(organization_name="tfrun")
    root = authority.cert_pem.bytes()
    pki = plan.state / "pki"
    pki.mkdir(mode=0o700, exist_ok=True)

    def issue(
        name: str, *hosts: str, user: str | None = None, group: str | None = None
    ) -> Identity:
        # Without hosts the certificate would contain an empty list of them, which Go refuses.
        names = hosts or (name,)
        leaf = authority.issue_cert(*names, common_name=user, organization_name=group)
        made = Identity(leaf.cert_chain_pems[0].bytes(), leaf.private_key_pem.bytes())
        (pki / f"{name}.crt").write_bytes(made.certificate)
        secret(pki / f"{name}.key", made.key)
        return made

    (pki / "ca.crt").write_bytes(root)
    service_names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    service_names.append(f"kubernetes.default.svc.{DOMAIN}")
    issue("apiserver", *service_names, "127.0.0.1", plan.node.ip, plan.api_service_ip)
    issue("kubelet", plan.node.name, plan.node.ip)
    issue("service-accounts", user="service-accounts")
    users = CLIENTS | {"node": (f"system:node:{plan.node.name}", "system:nodes")}
    for name, (user, group) in users.items():
        identity = issue(name, user=user, group=group)
        secret(plan.state / f"{name}.kubeconfig", kubeconfig(plan, context, root, identity))


def kubeconfig(plan: Plan, context: str, root: bytes, identity: Identity) -> bytes:
    """A kubeconfig file with one context, which refers to no other file."""

    def inline(data: bytes) -> str:
        return base64.b64encode(data).decode()

    cluster = {"server": plan.api, "certificate-authority-data": inline(root)}
    user = {
        "client-certificate-data": inline(identity.certificate),
        "client-key-data": inline(identity.key),
    }
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": context, "cluster": cluster}],
        "users": [{"name": context, "user": user}],
        "contexts": [{"name": context, "context": {"cluster": context, "user": context}}],
        "current-context": context,
    }
    return json.dumps(content, indent=1).encode()  # JSON is YAML


def secret(file: Path, content: bytes) -> None:
    """Write a file that only its owner can read."""
    file.touch(mode=0o600)
    file.write_bytes(content)
