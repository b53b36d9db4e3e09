"""kubeirq on a real node: its chart installed, a real Kafka and a real NATS server beside it, and what tests ask of it.

One serves all tests of a run; each has a namespace of its own. The keeper starts it, and each worker joins it: its
thread is on the node's network, so that clients in a test reach Services, pods and brokers by their addresses.
"""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from servers import images
from servers.fabric import manifest
from servers.helm import CHART, RELEASE, HelmError, helm
from servers.kafka import apache_kafka
from servers.keeper import ask
from servers.kubernetes import KubectlError
from servers.kubernetes_build.build import programs
from servers.kubernetes_node import ADDRESS, Node, node
from servers.nats import nats_server
from servers.package_index import package_index

from controllers.cluster.api import Api, Object
from controllers.functions import runtimes
from controllers.functions.status import PORT

API_VERSIONS = {
    "Deployment": "apps/v1",
    "ReplicaSet": "apps/v1",
    "Lease": "coordination.k8s.io/v1",
    "ConfigMap": "v1",
    "Event": "v1",
    "Namespace": "v1",
    "Pod": "v1",
    "Service": "v1",
}
OURS = "kubeirq.dev/v1"
LAST_CHARACTERS = 1500
LEDGER_FOLDER = "/ledger"  # inside a pod


@dataclass(frozen=True)
class Place:
    """Where a cluster is that another process keeps."""

    folder: str  # of its node
    port: int  # of its API server
    first: int  # the first process of its namespace of process ids
    kafka: str  # addresses
    nats: str
    packages: str


@dataclass
class Cluster:
    name: str  # the keeper's
    node: Node
    api: Api
    kafka: str  # the broker's address
    nats: str  # the server's
    packages: Path  # the wheels for functions' dependencies: see `package_index.add_wheel`

    async def install(self, index: str, store: Path) -> None:
        """The chart, as a user does who has images, brokers and a volume; returns once all of it is ready."""
        store.chmod(0o777)
        volume = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": "store"},
            "spec": {
                "capacity": {"storage": "8Gi"},
                "accessModes": ["ReadWriteOnce"],
                "hostPath": {"path": str(store)},
            },
        }
        await self.node.kubectl("apply", "-f", "-", input=json.dumps(volume))
        values = {
            "image": named(images.CONTROLLERS),
            "runtimes": {"image": named(images.RUNTIMES)},
            "functions": {
                "images": dict.fromkeys(runtimes.NAMES, images.PYTHON),
                "packageIndex": {"url": index, "trustedHosts": [ADDRESS]},
            },
            "kafka": {"brokers": [self.kafka]},
            "nats": {"servers": [self.nats]},
        }
        where = (f"--namespace={RELEASE}", "--create-namespace", "--wait", "--timeout=300s")
        try:
            await helm("install", RELEASE, str(CHART), *where, kubeconfig=self.node.kubeconfig, values=values)
        except HelmError as error:
            raise AssertionError(f"{error}\n{await Namespace(self, RELEASE).told()}") from None

    async def restart_api_server(self) -> None:
        """SIGKILL, and started again."""
        await ask(f"{self.name} restart-api-server")

    async def kubectl(self, *arguments: str) -> str:
        """In the release's namespace."""
        return await self.node.kubectl(f"--namespace={RELEASE}", *arguments)

    async def controllers(self, name: str) -> list[Object]:
        """The pods of that controller, without those that are going."""
        found = await self.api.list("v1", "Pod", RELEASE, {"app.kubernetes.io/component": name})
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    async def gateway(self) -> str:
        """The address of the entrance for HTTP triggers."""
        service = await self.api.get("v1", "Service", RELEASE, f"{RELEASE}-gateway")
        assert service is not None
        return f"http://{service['spec']['clusterIP']}"

    async def kill_containers(self, pod: Mapping[str, Any]) -> None:
        """SIGKILL to every process of its containers, as a crash; the kubelet starts them again."""
        for process in self.processes_of(pod):
            with suppress(psutil.NoSuchProcess):  # with the first one of a container the kernel ends the others
                process.kill()

    def processes_of(self, pod: Mapping[str, Any]) -> list[psutil.Process]:
        """Those of its containers that run."""
        statuses = pod["status"].get("containerStatuses", [])  # one that is about to start has no id yet
        ids = [found["containerID"].rpartition("/")[2] for found in statuses if found.get("containerID")]
        return [process for process in psutil.process_iter() if any(found in _cgroups_of(process) for found in ids)]

    @asynccontextmanager
    async def namespace(self) -> AsyncIterator["Namespace"]:
        """A new one, deleted in the background at the end."""
        found = Namespace(self, f"t-{uuid4().hex[:8]}")
        await self.node.kubectl("create", "namespace", found.name)
        try:
            yield found
        finally:
            await self.node.kubectl("delete", "namespace", found.name, "--wait=false", "--ignore-not-found")


@dataclass
class Namespace:
    cluster: Cluster
    name: str

    async def kubectl(self, *arguments: str, input: str | None = None) -> str:
        return await self.cluster.node.kubectl(f"--namespace={self.name}", *arguments, input=input)

    async def apply(self, *documents: Mapping[str, Any]) -> None:
        """As a user does."""
        await self.kubectl("apply", "-f", "-", input="\n---\n".join(map(json.dumps, documents)))

    async def get(self, kind: str, name: str) -> Object | None:
        return await self.cluster.api.get(API_VERSIONS.get(kind, OURS), kind, self.name, name)

    async def all_of(self, kind: str) -> list[Object]:
        return await self.cluster.api.list(API_VERSIONS.get(kind, OURS), kind, self.name)

    async def pods(self, function: str) -> list[Object]:
        """Of this function, without those that are going."""
        found = await self.cluster.api.list("v1", "Pod", self.name, {"kubeirq.dev/function": function})
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    async def until(
        self, kind: str, name: str, holds: Callable[[Any], Any], seconds: float = 60, *, why: str = ""
    ) -> Any:
        """The object, None for none, as soon as this holds. Fails with all that the namespace says of itself."""
        found = None
        try:
            async with asyncio.timeout(seconds):
                while not holds(found := await self.get(kind, name)):
                    await asyncio.sleep(0.2)
        except TimeoutError:
            raise AssertionError(
                f"{why or 'it did not come'} in {seconds:g} s: {kind} {name}: {_short(found)}\n{await self.told()}"
            ) from None
        return found

    async def until_it_holds(self, holds: Callable[[], Any], what: str, seconds: float) -> None:
        """Fails with all that the namespace says of itself."""
        try:
            async with asyncio.timeout(seconds):
                while not holds():
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"no {what} in {seconds:g} s\n{await self.told()}") from None

    async def until_condition(
        self, kind: str, name: str, condition: str, reason: str, seconds: float = 60
    ) -> Mapping[str, Any]:
        """That condition of the object, as soon as it has this reason."""
        found = await self.until(
            kind, name, lambda it: condition_of(it, condition).get("reason") == reason, seconds,
            why=f"{condition} was not {reason}",
        )  # fmt: skip
        return condition_of(found, condition)

    async def until_ready(self, kind: str, name: str, seconds: float = 90) -> Object:
        """Ready, and this generation of it."""

        def holds(found: Any) -> bool:
            condition = condition_of(found, "Ready")
            of_this = found is not None and condition.get("observedGeneration") == found["metadata"]["generation"]
            return of_this and condition.get("status") == "True"

        found: Object = await self.until(kind, name, holds, seconds, why="not Ready")
        return found

    async def until_reached(self, function: str) -> str:
        """The address of the Service of a function that is ready, once the node's rules know the way there."""
        service = await self.get("Service", function)
        assert service is not None
        host: str = service["spec"]["clusterIP"]
        async with asyncio.timeout(30):
            while True:
                try:
                    async with asyncio.timeout(2):  # a connection to a pod that has just gone gets no answer
                        _, writer = await asyncio.open_connection(host, PORT)
                except OSError:
                    await asyncio.sleep(0.1)
                else:
                    writer.close()
                    return host

    async def told(self) -> str:
        """The objects of the namespace, its events, and the last lines of its containers and of the controllers."""
        said = [
            await self._said("get", "functions,httptriggers,crontriggers,kafkatriggers,natstriggers", "-o", "wide"),
            await self._said("get", "deployment,pod", "-o", "wide"),
            await self._said("get", "events", "--sort-by=.lastTimestamp"),
        ]
        for namespace in {self.name, RELEASE}:
            for pod in await self.cluster.api.list("v1", "Pod", namespace):
                name = pod["metadata"]["name"]
                said.append(f"--- pod {name}: {_short(pod)}")
                log = await self._said("logs", name, f"--namespace={namespace}", "--all-containers", "--tail=40")
                said.append(log[-LAST_CHARACTERS:])
        return "\n".join(said)

    async def _said(self, *arguments: str) -> str:
        """By kubectl, its complaints included."""
        try:
            return await self.kubectl(*arguments)
        except KubectlError as error:
            return str(error)


def condition_of(found: Any, kind: str) -> Mapping[str, Any]:
    """That condition of an object; empty where there is none."""
    conditions = ((found or {}).get("status") or {}).get("conditions", [])
    return next((condition for condition in conditions if condition["type"] == kind), {})


def function(name: str, inline: str, **spec: Any) -> Object:
    """A Function of one inline module `name`, whose `handler` is called."""
    return manifest("Function", name, **{"runtime": "python3.11", "source": {"inline": inline}, **spec})


def keeping(folder: Path, **environment: str) -> dict[str, Any]:
    """The fields that let a Function write into this folder of the machine: its ledger is `LEDGER`."""
    folder.chmod(0o777)
    variables = {"LEDGER": f"{LEDGER_FOLDER}/ledger", **environment}
    mount = {"name": "ledger", "mountPath": LEDGER_FOLDER}
    pod = {
        "volumes": [{"name": "ledger", "hostPath": {"path": str(folder)}}],
        "containers": [{"name": "function", "volumeMounts": [mount]}],
    }
    return {
        "env": [{"name": name, "value": value} for name, value in variables.items()],
        "podTemplate": {"spec": pod},
    }


@asynccontextmanager
async def started() -> AsyncIterator[tuple[Node, Place]]:
    """A node with the chart installed and ready, gone at the end, whatever happened."""
    archives = await asyncio.to_thread(images.project_archives)
    async with node() as it:
        for archive in archives:
            await it.load(archive)
        with it.joined(), tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as store:
            async with (
                _api(it) as api,
                apache_kafka(host=ADDRESS) as kafka,
                nats_server(host=ADDRESS) as nats,
                package_index(Path(folder), ADDRESS) as index,
            ):
                await Cluster("", it, api, kafka.bootstrap, nats.url, Path(folder)).install(index, Path(store))
                assert it.first is not None
                yield it, Place(str(it.folder), it.port, it.first.pid, kafka.bootstrap, nats.url, folder)


@asynccontextmanager
async def cluster(name: str) -> AsyncIterator[Cluster]:
    """The cluster of this test run that the keeper knows by this name. Meanwhile this thread is on its network."""
    place = Place(**await ask(name))
    it = Node(Path(place.folder), await asyncio.to_thread(programs), place.port)
    it.enter(psutil.Process(place.first))
    with it.joined():
        async with _api(it) as api:
            yield Cluster(name, it, api, place.kafka, place.nats, Path(place.packages))


@asynccontextmanager
async def _api(it: Node) -> AsyncIterator[Api]:
    configuration = Configuration()
    await config.load_kube_config(str(it.kubeconfig), client_configuration=configuration)
    async with ApiClient(configuration) as client:
        yield Api(client)


def named(image: str) -> dict[str, str]:
    """An image as the chart's values have it."""
    repository, _, tag = image.rpartition(":")
    return {"repository": repository, "tag": tag}


def _cgroups_of(process: psutil.Process) -> str:
    try:
        return Path(f"/proc/{process.pid}/cgroup").read_text()
    except OSError:
        return ""


def _short(found: Any) -> str:
    return json.dumps((found or {}).get("status", found), default=str)[:LAST_CHARACTERS]
