"""The hostile tenant, in a process of its own: `python -m benchmarks.neighbours.hostile SETTINGS`. Ends when killed.

It does all that its rights in one namespace allow, as fast as it gets answers: floods of events, filters that cost as
much as they may, a function that ends each call's connection, edits without end, manifests that are refused or wrong,
code as large as it may be, and Deployments that become ready and unready.
"""

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import aiohttp
import nats
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from controllers.cluster.api import Api, Refused

TEAM = "team-00"
FILTER = "data.exists(a, data.exists(b, a + b == -1))"
_LIST = json.dumps(list(range(200))).encode()
_HUGE = 900_000  # bytes of code; the API server takes 1 MiB
_FLOODS = 16
_MESSAGES_A_SECOND = 1_000
_EDIT_PAUSE_SECONDS = 0.05  # twenty edits a second of each kind


@dataclass(frozen=True)
class Settings:
    kubeconfig: str
    gateway_port: int
    nats_url: str
    function_port: int

    def text(self) -> str:
        return json.dumps(asdict(self))


def resource(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    head = {"name": name, "namespace": TEAM}
    return {"apiVersion": "kubeirq.dev/v1", "kind": kind, "metadata": head, "spec": spec}


def resources(function_port: int) -> list[dict[str, Any]]:
    """All that the hostile tenant has from the beginning."""
    url, event = f"http://127.0.0.1:{function_port}/", {"delivery": {"backoffSeconds": 0.05, "backoffMaxSeconds": 1}}
    return [
        resource("Function", "f", {"source": {"inline": "def handler(event, context): ...\n"}}),
        resource("HTTPTrigger", "flood", {"url": url, "path": "/hostile/flood", "concurrency": 64}),
        resource("HTTPTrigger", "costly", {"url": url, "path": "/hostile/costly", "filter": FILTER}),
        resource("HTTPTrigger", "edited", {"url": url, "path": "/hostile/edited"}),
        resource("NATSTrigger", "flood", {"url": url, "subject": "hostile.flood", "createStream": True, **event}),
        resource(
            "NATSTrigger", "costly", {"url": url, "subject": "hostile.costly", "createStream": True, "filter": FILTER}
        ),
    ]


async def main(settings: Settings) -> None:
    configuration = Configuration()
    await config.load_kube_config(settings.kubeconfig, client_configuration=configuration)
    client = await nats.connect(settings.nats_url)
    crashes = await asyncio.start_server(_crash, "127.0.0.1", settings.function_port)
    gateway = f"http://127.0.0.1:{settings.gateway_port}"
    timeout = aiohttp.ClientTimeout(total=30)
    async with crashes, ApiClient(configuration) as connection, aiohttp.ClientSession(timeout=timeout) as session:
        api = Api(connection)
        work: list[Callable[[int], Awaitable[None]]] = [
            *[lambda _: _post(session, f"{gateway}/hostile/flood", b"x" * 10_000)] * _FLOODS,
            *[lambda _: _post(session, f"{gateway}/hostile/costly", _LIST)] * 2,
            lambda _: _publish(client),
            lambda number: _edit(api, "httptriggers", "edited", {"path": f"/hostile/{number}"}),
            lambda number: _edit(api, "functions", "f", {"env": [{"name": "EDITED", "value": str(number)}]}),
            lambda number: _huge(api, number),
            lambda number: _bad(api, number),
            lambda number: _ready(api, number),
        ]
        await asyncio.gather(*(_forever(one) for one in work))


async def _forever(act: Callable[[int], Awaitable[None]]) -> None:
    for number in itertools.count():
        with suppress(Refused, OSError, TimeoutError, aiohttp.ClientError, nats.errors.Error):
            await act(number)
        await asyncio.sleep(0)


async def _crash(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def _post(session: aiohttp.ClientSession, url: str, body: bytes) -> None:
    async with session.post(url, data=body, headers={"content-type": "application/json"}) as answer:
        await answer.read()


async def _publish(client: Any) -> None:
    began = time.monotonic()
    for _ in range(_MESSAGES_A_SECOND // 10):
        await client.publish("hostile.flood", b"x" * 1_000)
    for _ in range(5):
        await client.publish("hostile.costly", _LIST)
    await client.flush()
    await asyncio.sleep(max(0.0, began + 0.1 - time.monotonic()))


async def _edit(api: Api, plural: str, name: str, spec: dict[str, Any]) -> None:
    path = f"/apis/kubeirq.dev/v1/namespaces/{TEAM}/{plural}/{name}"
    await api.request("PATCH", path, body={"spec": spec}, content_type="application/merge-patch+json")
    await asyncio.sleep(_EDIT_PAUSE_SECONDS)


async def _huge(api: Api, number: int) -> None:
    code = f"# {number}\n".ljust(_HUGE, "#") + "\ndef handler(event, context): ...\n"
    await api.apply(resource("Function", f"huge-{number % 4}", {"source": {"inline": code}}))
    await asyncio.sleep(1)


async def _bad(api: Api, number: int) -> None:
    """Some are refused at admission, the others are found to be wrong by the controllers."""
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("HTTPTrigger", {"function": "nobody", "path": "/team-01/calls"}),  # a neighbour's
        ("HTTPTrigger", {"function": "f", "path": "/x", "filter": "data.total >"}),
        ("HTTPTrigger", {"function": "f", "path": f"/secret/{number}", "auth": {"bearer": {"tokens": [
            {"name": "none", "key": "none"}]}}}),
        ("NATSTrigger", {"function": "f", "subject": "..", "servers": ["nats://127.0.0.1:1"]}),
        ("NATSTrigger", {"function": "f", "subject": "nobody.has.it"}),
        ("Function", {"source": {"inline": "def handler(:"}, "runtime": "python3.11"}),
    ]  # fmt: skip
    kind, spec = wrong[number % len(wrong)]
    try:
        await api.apply(resource(kind, f"bad-{number % 30}", spec))
    finally:
        await asyncio.sleep(_EDIT_PAUSE_SECONDS)


async def _ready(api: Api, number: int) -> None:
    """The pods of its function crash again and again."""
    ready = number % 2
    counts = {"replicas": 1, "updatedReplicas": 1, "readyReplicas": ready, "availableReplicas": ready}
    path = f"/apis/apps/v1/namespaces/{TEAM}/deployments/f/status"
    await api.request("PATCH", path, body={"status": counts}, content_type="application/merge-patch+json")
    await asyncio.sleep(_EDIT_PAUSE_SECONDS)


if __name__ == "__main__":
    asyncio.run(main(Settings(**json.loads(sys.argv[1]))))
