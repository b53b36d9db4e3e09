"""At rest the controllers write nothing. Deletion removes everything, even while no controller runs."""

import asyncio
from typing import Any

import pytest
from servers import kafka
from servers.cluster import RELEASE, Cluster, Namespace, function
from servers.fabric import manifest

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300, func_only=True)]

TRIGGERS = "httptriggers,crontriggers,kafkatriggers,natstriggers"
QUIET_SECONDS = 5
REST_SECONDS = 60
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


async def test_at_rest_nothing_is_written_but_leases(place: Namespace, cluster: Cluster):
    await one_of_each(place, cluster)
    async with asyncio.timeout(120):
        while "Terminating" in await cluster.kubectl("get", "namespaces"):  # other tests' functions end in theirs
            await asyncio.sleep(1)
        before = -1
        while before != (before := len(writes(cluster))):
            await asyncio.sleep(QUIET_SECONDS)
    renewals = len(writes(cluster, leases=True))
    await asyncio.sleep(REST_SECONDS)
    assert [found["objectRef"] for found in writes(cluster)[before:]] == []
    assert len(writes(cluster, leases=True)) > renewals


async def test_deleting_resources_deletes_their_objects_and_consumers(place: Namespace, cluster: Cluster):
    await one_of_each(place, cluster)
    await until_members(place, 2)
    await delete_all(place)
    await until_members(place, 0)
    await until_nothing_is_left(place)
    await place.kubectl("delete", "namespace", place.name, "--timeout=60s")


async def test_deletion_does_not_wait_for_a_controller(place: Namespace, cluster: Cluster):
    await one_of_each(place, cluster)
    deployments = (await cluster.kubectl("get", "deployments", "-o", "name")).split()
    await cluster.kubectl("scale", "--replicas=0", *deployments)
    try:
        for name in ("functions", "http", "cron", "kafka", "nats"):
            async with asyncio.timeout(60):
                while await cluster.controllers(name):
                    await asyncio.sleep(0.3)
        await delete_all(place)
        await until_nothing_is_left(place)
        await place.kubectl("delete", "namespace", place.name, "--timeout=60s")
    finally:
        await cluster.kubectl("scale", "--replicas=2", *deployments)
        for name in deployments:
            await cluster.kubectl("rollout", "status", name, "--timeout=90s")


# --- helpers


def writes(cluster: Cluster, *, leases: bool = False) -> list[dict[str, Any]]:
    """The writes of the controllers, or only the renewals of their Leases."""
    return [
        found
        for found in cluster.node.writes()
        if found["user"]["username"].startswith(f"system:serviceaccount:{RELEASE}:")
        and (found["objectRef"]["resource"] == "leases") == leases
    ]


async def until_members(place: Namespace, wanted: int) -> None:
    """Returns when the group of the namespace's Kafka trigger has so many members."""
    async with asyncio.timeout(30):
        while len(await kafka.assigned(place.cluster.kafka, f"kubeirq.{place.name}.calls.idle")) != wanted:
            await asyncio.sleep(0.3)


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
