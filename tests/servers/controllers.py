"""Controllers as processes of their own, on an API server without nodes, to be killed and started again."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml
from servers.kubernetes import APIServer, api_server
from servers.kubernetes_objects import Kind, connected, kinds_of, named, paths_of_all, remove_all_but
from servers.ports import free_port

from controllers.cluster.api import Api, Refused
from controllers.cluster.leases import slot_of
from controllers.definitions.crds import crds
from controllers.triggers.process import LEASE_COUNT

SYSTEM = "kubeirq-system"  # where the release would be


@dataclass
class Controller:
    """One replica: `python -m controllers` with these arguments."""

    cluster: "Cluster"
    arguments: tuple[str, ...]
    environment: dict[str, str]
    log: Path
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "controllers", *self.arguments,
                stdout=log, stderr=log, env={**os.environ, **self.environment},
            )  # fmt: skip

    async def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    async def stop(self) -> None:
        """SIGTERM; returns once it has drained."""
        assert self.process is not None
        self.process.terminate()
        async with asyncio.timeout(60):
            assert await self.process.wait() == 0, self.log.read_text()[-3000:]

    def port(self, name: str) -> int:
        """One of those that it was given in its environment."""
        return int(self.environment[name])


@dataclass
class Cluster:
    """An API server with the definitions, and the controllers that a test starts on it."""

    server: APIServer
    folder: Path
    api: Api
    kinds: list[Kind]  # that the server knows; more are looked up
    controllers: list[Controller] = field(default_factory=list)

    async def start(self, *arguments: str, replica: str = "one", **environment: str) -> Controller:
        """A controller, with ports of its own; stopped with the cluster."""
        given = {
            "KUBECONFIG": str(self.server.kubeconfig),
            "KUBEIRQ_NAMESPACE": SYSTEM,
            "KUBEIRQ_REPLICA": f"{'-'.join(arguments)}-{replica}",
            "KUBEIRQ_PORT": str(free_port()),
            "KUBEIRQ_GATEWAY_PORT": str(free_port()),
            "KUBEIRQ_RUNTIME_IMAGE": "runtimes:1",
            "KUBEIRQ_GRACE_SECONDS": "5",
            "KUBEIRQ_REACH_ALLOW": "127.0.0.0/8",  # where the tests' own functions are
            **environment,
        }
        log = self.folder / f"{'-'.join(arguments)}-{replica}.log"
        found = Controller(self, arguments, given, log)
        self.controllers.append(found)
        await found.start()
        return found

    async def new_namespace(self) -> str:
        """Of a name that no earlier test had: a namespace takes seconds to go."""
        name = f"t-{uuid4().hex[:8]}"
        await self.server.kubectl("create", "namespace", name)
        return name

    async def apply(self, *documents: dict[str, Any]) -> None:
        await self.server.kubectl("apply", "-f", "-", input="\n---\n".join(json.dumps(found) for found in documents))

    async def get(self, kind: str, name: str = "", namespace: str = "default") -> Any:
        """The object, None for none; without a name a list of all."""
        path = (await self._kind(kind)).path(namespace, name)
        try:
            return await self.api.request("GET", path)
        except Refused as refused:
            if refused.status == 404 and name:
                return None
            raise

    async def until(self, kind: str, name: str, holds: Callable[[Any], Any], seconds: float = 60) -> Any:
        """The object, as soon as that holds of it."""
        found = None
        try:
            async with asyncio.timeout(seconds):
                while not holds(found := await self.get(kind, name)):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"{kind} {name}: {json.dumps(found)[:2000]}\n{self.logs()}") from None
        return found

    async def _kind(self, name: str) -> Kind:
        try:
            return named(self.kinds, name)
        except StopIteration:  # a plugin's definition came later
            self.kinds = await kinds_of(self.api)
            return named(self.kinds, name)

    def logs(self) -> str:
        """The ends of all of them."""
        return "\n".join(f"== {found.log.name}\n{found.log.read_text()[-3000:]}" for found in self.controllers)


@asynccontextmanager
async def server_for_controllers(definitions: Sequence[dict[str, Any]] = ()) -> AsyncIterator[APIServer]:
    """With the controller manager and our definitions, or these; all is stopped at the end, whatever happened."""
    async with api_server(controllers=True) as server:
        await server.kubectl("apply", "--server-side", "-f", "-", input=yaml.safe_dump_all(definitions or crds()))
        await server.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=20s")
        await server.kubectl("create", "namespace", SYSTEM)
        yield server


@asynccontextmanager
async def cluster(server: APIServer, folder: Path) -> AsyncIterator[Cluster]:
    """Ready for controllers and resources; at the end the controllers are killed, and what was made is removed."""
    async with connected(server) as api:
        kinds = await kinds_of(api)
        kept = await paths_of_all(api, kinds)
        server.forget()
        found = Cluster(server, folder, api, kinds)
        try:
            yield found
        finally:
            for controller in found.controllers:
                await controller.kill()
            await remove_all_but(api, await kinds_of(api), kept)  # also after a failure: the next test begins empty


@asynccontextmanager
async def own_cluster(folder: Path, definitions: Sequence[dict[str, Any]] = ()) -> AsyncIterator[Cluster]:
    """For a test that kills the API server, or has other definitions."""
    async with server_for_controllers(definitions) as server, connected(server) as api:
        found = Cluster(server, folder, api, await kinds_of(api))
        try:
            yield found
        finally:
            for controller in found.controllers:
                await controller.kill()


def resource(kind: str, name: str, spec: dict[str, Any], namespace: str = "default") -> dict[str, Any]:
    return {
        "apiVersion": "v1" if kind == "Secret" else "kubeirq.dev/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        **(spec if kind == "Secret" else {"spec": spec}),
    }


def condition(found: Any, kind: str = "Ready") -> Any:
    """That condition of the object, or an empty one."""
    conditions = ((found or {}).get("status") or {}).get("conditions", [])
    return next((condition for condition in conditions if condition["type"] == kind), {"status": None, "reason": None})


async def without_right_to_secrets(it: Cluster, namespace: str = "") -> dict[str, str]:
    """The environment of a controller that may do everything but read Secrets, except those of this namespace."""
    login = await it.server.kubeconfig_of("restricted")
    groups = ["kubeirq.dev", "discovery.k8s.io", "coordination.k8s.io", "apiextensions.k8s.io", "networking.k8s.io"]
    rules = [
        {"apiGroups": [*groups, "gateway.networking.k8s.io"], "resources": ["*"], "verbs": ["*"]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["*"]},
    ]
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "restricted"}}
    await it.apply({**role, "rules": rules})
    user = ("--user=restricted",)
    await it.server.kubectl("create", "clusterrolebinding", "restricted", "--clusterrole=restricted", *user)
    if namespace:
        await it.server.kubectl("create", "rolebinding", "secrets", "--clusterrole=admin", *user, "-n", namespace)
    return {"KUBECONFIG": str(login)}


async def holder_of(it: Cluster, kind: str, name: str) -> str:
    """The replica that runs the trigger; between one and the next there is none, and that is waited for."""
    uid = (await it.get(kind, name))["metadata"]["uid"]
    controller = kind.lower().removesuffix("trigger")
    slot = f"kubeirq-{controller}-{slot_of(uid, LEASE_COUNT)}"
    async with asyncio.timeout(20):
        while not (holder := (await it.get("lease", slot, SYSTEM))["spec"].get("holderIdentity")):
            await asyncio.sleep(0.05)
    return str(holder)
