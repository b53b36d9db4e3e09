"""helm, and what it makes of the chart."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml
from servers.controllers import Cluster, Controller
from servers.kubernetes import MORTAL, APIServer, api_server
from servers.kubernetes_build.build import VERSION, gateway_api, monitoring, programs
from servers.ports import free_port

CHART = Path(__file__).resolve().parents[2] / "helm" / "kubeirq"
RELEASE = "kubeirq"  # the name of its namespace, too
NAMESPACES = (RELEASE, "apps", "elsewhere")
VALUES = ("--values", "-")


class HelmError(Exception):
    """helm ended in failure; the text is what it wrote to standard error."""


async def helm(*arguments: str, kubeconfig: Path | None = None, values: Mapping[str, Any] | None = None) -> str:
    """Its standard output. Raises HelmError."""
    login = () if kubeconfig is None else (f"--kubeconfig={kubeconfig}",)
    given = () if values is None else VALUES
    process = await asyncio.create_subprocess_exec(
        *MORTAL, str(programs() / "helm"), *login, *arguments, *given,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    written, problems = await process.communicate(json.dumps(values or {}).encode())
    if process.returncode != 0:
        raise HelmError(f"helm {' '.join(arguments)}: {problems.decode().strip()}")
    return written.decode()


async def rendered(
    values: Mapping[str, Any] | None = None, *, release: str = RELEASE, chart: Path = CHART
) -> list[dict[str, Any]]:
    """The objects that the chart makes, without a cluster to look at."""
    version = f"--kube-version={VERSION}"  # helm as it is built here knows of an old one only
    text = await helm("template", release, str(chart), f"--namespace={RELEASE}", version, values=values or {})
    return [found for found in yaml.safe_load_all(text) if found is not None]


@asynccontextmanager
async def server_for_the_chart() -> AsyncIterator[APIServer]:
    """With the controller manager, namespaces that take restricted pods only, and others' definitions."""
    async with api_server(controllers=True) as found:
        labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
        for name in NAMESPACES:
            namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
            await found.kubectl("apply", "-f", "-", input=json.dumps(namespace))
        for folder in (gateway_api(), monitoring()):
            await found.kubectl("apply", "--server-side", "-f", str(folder))
        await found.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=20s")
        yield found


@asynccontextmanager
async def installed(server: APIServer, values: dict[str, Any] | None = None) -> AsyncIterator[str]:
    """Helm's text for the person who installs the chart, which is uninstalled at the end."""
    notes = await release(server, "install", values)
    try:
        yield notes
    finally:
        await helm("uninstall", RELEASE, f"--namespace={RELEASE}", "--wait", kubeconfig=server.kubeconfig)


async def release(server: APIServer, action: str, values: dict[str, Any] | None = None) -> str:
    where = (RELEASE, str(CHART), f"--namespace={RELEASE}")
    return await helm(action, *where, kubeconfig=server.kubeconfig, values=values or {})


async def started(cluster: Cluster, deployment: dict[str, Any]) -> Controller:
    """Runs the controller of a Deployment on this machine, with its service account and environment."""
    name = deployment["metadata"]["name"]
    login = await cluster.server.kubeconfig_of(account_of(name), "system:serviceaccounts")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    said = {variable["name"]: variable["value"] for variable in container["env"] if "value" in variable}
    own = {
        "KUBECONFIG": str(login),
        "KUBEIRQ_NAMESPACE": RELEASE,
        "KUBEIRQ_PORT": str(free_port()),
        "KUBEIRQ_GATEWAY_PORT": str(free_port()),
        "KUBEIRQ_ADMIN_SOCKET": str(cluster.folder / f"{name}.sock"),
        "KUBEIRQ_GRACE_SECONDS": "1",
    }
    return await cluster.start(*container["args"], **{**said, **own})


def account_of(name: str) -> str:
    return f"system:serviceaccount:{RELEASE}:{name}"
