"""A real Kubernetes cluster for the demo and the tests, also without Docker.

    from tests.cluster import ensure
    cluster = ensure()          # starts it unless it runs
    subprocess.run([cluster.kubectl, "--kubeconfig", cluster.kubeconfig, "get", "nodes"])

From a shell: `python -m tests.cluster up`, `down`, `status`, `tool NAME`, `openapi`.
"""

from tests.cluster.choose import Cluster, down, ensure
from tests.cluster.commands import ClusterError

__all__ = ["Cluster", "ClusterError", "down", "ensure"]
