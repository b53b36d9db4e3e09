"""Whether there is a cluster to ask: quick, and without Kubernetes' client."""

import os
from pathlib import Path

_OF_A_POD = "KUBERNETES_SERVICE_HOST"


def has_cluster() -> bool:
    """A kubeconfig, or the cluster that this process is a pod of."""
    return has_kubeconfig() or _OF_A_POD in os.environ


def has_kubeconfig() -> bool:
    files = os.environ.get("KUBECONFIG") or "~/.kube/config"
    return any(Path(file).expanduser().exists() for file in files.split(os.pathsep) if file)
