"""A function, and a trigger of every kind that calls it, on a real node; and their removal."""

import asyncio
from typing import Any

from servers import kafka
from servers.cluster import Cluster, Namespace, function
from servers.fabric import manifest

TRIGGERS = "httptriggers,crontriggers,kafkatriggers,natstriggers"
SOURCE = "def handler(event, context):\n    return None\n"


async def one_of_each(place: Namespace, cluster: Cluster) -> None:
    """A function and a trigger of every kind that calls it, all ready."""
    topic = f"{place.name}-orders"
    await kafka.create_topic(cluster.kafka, topic)
    triggers: list[tuple[str, dict[str, Any]]] = [
        ("HTTPTrigger", {"path": f"/{place.name}", "answer": "accepted"}),
        ("CronTrigger", {"schedule": "0 0 1 1 *"}),
        ("KafkaTrigger", {"topics": [topic]}),
        ("NATSTrigger", {"subject": f"{place.name}.>", "stream": place.name, "createStream": True}),
    ]
    documents = [manifest(kind, "calls", function="idle", **spec) for kind, spec in triggers]
    await place.apply(function("idle", SOURCE, scale={"min": 2}), *documents)
    await place.until_ready("Function", "idle")
    for kind, _ in triggers:
        await place.until_ready(kind, "calls")


async def delete_all(place: Namespace) -> None:
    await place.kubectl("delete", f"functions,{TRIGGERS}", "--all", "--timeout=20s")


async def until_nothing_is_left(place: Namespace) -> None:
    kinds = f"functions,{TRIGGERS},deployments,replicasets,services,endpointslices,poddisruptionbudgets,pods"
    left = ""
    try:
        async with asyncio.timeout(90):
            while left := await place.kubectl("get", kinds, "-o", "name"):
                await asyncio.sleep(0.5)
    except TimeoutError:
        raise AssertionError(f"left:\n{left}\n{await place.told()}") from None
    assert {found["metadata"]["name"] for found in await place.all_of("ConfigMap")} == {"kube-root-ca.crt"}
