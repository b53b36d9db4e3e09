"""Whether there is a cluster to ask, and which contexts there are: quick, without Kubernetes' client."""

import os
from pathlib import Path

_OF_A_POD = "KUBERNETES_SERVICE_HOST"


def has_cluster() -> bool:
    """A kubeconfig, or the cluster that this process is a pod of."""
    return has_kubeconfig() or _OF_A_POD in os.environ


def has_kubeconfig() -> bool:
    return any(file.exists() for file in _files())


def contexts(kubeconfig: Path | None) -> list[str]:
    """Their names, of that file or of all; what cannot be read has none."""
    import yaml

    found: list[str] = []
    for file in [kubeconfig] if kubeconfig is not None else _files():
        try:
            found += [str(one["name"]) for one in yaml.safe_load(file.read_text()).get("contexts") or []]
        except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError):
            continue
    return sorted(set(found))


def _files() -> list[Path]:
    text = os.environ.get("KUBECONFIG") or "~/.kube/config"
    return [Path(file).expanduser() for file in text.split(os.pathsep) if file]
