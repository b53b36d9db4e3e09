"""The objects of a large cluster for `benchmarks.controllers`, and the part of a node that the controllers notice."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from itertools import islice, repeat
from typing import Any

from controllers.cluster.api import Api, Object, path_of
from controllers.functions.status import FUNCTION_LABEL

NAMESPACE, FOREIGN = "default", "foreign"
KINDS = {"http": "HTTPTrigger", "cron": "CronTrigger", "nats": "NATSTrigger", "kafka": "KafkaTrigger"}
MERGE_PATCH = "application/merge-patch+json"
_AT_ONCE = 16


async def each(objects: Iterable[Object], act: Callable[[Object], Awaitable[Any]]) -> None:
    """Acts on the objects, up to _AT_ONCE at the same time."""
    waiting = iter(objects)

    async def work() -> None:
        for found in waiting:
            await act(found)

    async with asyncio.TaskGroup() as group:
        for _ in range(_AT_ONCE):
            group.create_task(work())


def function_name(number: int) -> str:
    return f"f{number:05}"


def trigger_name(name: str, number: int) -> str:
    return f"{name}-{number:05}"


def function(number: int, size: int) -> Object:
    line = f"# {number} is a comment of this Function, so that it has the size of a real one\n"
    code = "def handler(event, context): ...\n" + "".join(islice(repeat(line), max(1, size // len(line))))
    return _resource("Function", function_name(number), {"source": {"inline": code}})


def trigger(name: str, number: int, functions: int) -> Object:
    spec: Object = {"function": function_name(number % max(1, functions)), **edited(name, number, 0)}
    return _resource(KINDS[name], trigger_name(name, number), spec)


def edited(name: str, number: int, edit: int) -> Object:
    """The fields of a trigger that its edit with this number changes."""
    place = f"{number}-{edit}" if edit else str(number)
    match name:
        case "http":
            return {"path": f"/{trigger_name(name, number)}" + (f"/{edit}" if edit else "")}
        case "cron":
            return {"schedule": f"{(number + edit) % 60} {number % 24} 29 2 *"}
        case "nats":
            return {"subject": f"scale.{place}"}
        case _:
            return {"topics": [f"scale-{number}"], "filter": f"data != {edit}"}


def endpoints(number: int) -> Object:
    """The EndpointSlice of a Function's Service, with a ready address. No trigger calls it during the benchmark."""
    labels = {"kubernetes.io/service-name": function_name(number), FUNCTION_LABEL: function_name(number)}
    address = {"addresses": [f"10.200.{number // 250}.{number % 250 + 1}"], "conditions": {"ready": True}}
    return _slice(function_name(number), NAMESPACE, labels, [address])


def foreign_slice(number: int) -> Object:
    """An EndpointSlice of another team's Service, with a hundred addresses."""
    addresses = [
        {"addresses": [f"10.{number // 250}.{number % 250}.{last}"], "conditions": {"ready": True}}
        for last in range(1, 101)
    ]
    return _slice(f"other-{number}", FOREIGN, {"kubernetes.io/service-name": f"other-{number}"}, addresses)


def _slice(name: str, namespace: str, labels: dict[str, str], addresses: list[Object]) -> Object:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        "endpoints": addresses,
    }


def _resource(kind: str, name: str, spec: Object) -> Object:
    head = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "kubeirq.dev/v1", "kind": kind, "metadata": head, "spec": spec}


@asynccontextmanager
async def node(api: Api) -> AsyncIterator[None]:
    """Calls every Deployment ready, as long as the context is open."""

    async def play() -> None:
        found, version = await api.snapshot("apps/v1", "Deployment", NAMESPACE, {})
        await each(found, call_ready)
        async with asyncio.TaskGroup() as group:
            async for kind, deployment in api.changes("apps/v1", "Deployment", NAMESPACE, {}, version):
                if kind != "DELETED":
                    group.create_task(call_ready(deployment))

    async def call_ready(deployment: Object) -> None:
        generation, path = deployment["metadata"]["generation"], path_of("apps/v1", "Deployment", NAMESPACE)
        if deployment.get("status", {}).get("observedGeneration") != generation:
            status = {"status": {"observedGeneration": generation, **counts}}
            path = f"{path}/{deployment['metadata']['name']}/status"
            await api.request("PATCH", path, body=status, content_type=MERGE_PATCH)

    counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), 1)
    playing = asyncio.create_task(play())
    try:
        yield
    finally:
        playing.cancel()
        with suppress(asyncio.CancelledError):
            await playing
