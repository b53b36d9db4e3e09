"""Finds out whether there is a cluster, and its contexts, quickly and without the Kubernetes client."""

import os
from pathlib import Path

_POD_VARIABLE = "KUBERNETES_SERVICE_HOST"


def has_cluster() -> bool:
    """Whether there is a kubeconfig, or this process runs in a pod."""
    return has_kubeconfig() or _POD_VARIABLE in os.environ


def has_kubeconfig() -> bool:
    return any(file.exists() for file in _files())


def contexts(kubeconfig: Path | None) -> list[str]:
    """The names of the contexts in that file, or in all files. A file that cannot be read has none."""
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
