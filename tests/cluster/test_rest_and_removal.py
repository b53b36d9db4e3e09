"""At rest the controllers write nothing, and deletion removes everything."""

import asyncio
from typing import Any

import pytest
from servers import kafka
from servers.cluster import RELEASE, Cluster, Namespace
from servers.one_of_each import delete_all, one_of_each, until_nothing_is_left

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300, func_only=True)]

QUIET_SECONDS = 5
REST_SECONDS = 60


async def test_at_rest_nothing_is_written_but_leases(place: Namespace, cluster: Cluster):
    await one_of_each(place, cluster)
    async with asyncio.timeout(120):
        before = -1
        while before != (before := len(writes(place))):
            await asyncio.sleep(QUIET_SECONDS)
    renewals = len(writes(place, leases=True))
    await asyncio.sleep(REST_SECONDS)
    assert [found["objectRef"] for found in writes(place)[before:]] == []
    assert len(writes(place, leases=True)) > renewals


async def test_deleting_resources_deletes_their_objects_and_consumers(place: Namespace, cluster: Cluster):
    await one_of_each(place, cluster)
    await until_members(place, 2)
    await delete_all(place)
    await until_members(place, 0)
    await until_nothing_is_left(place)
    await place.kubectl("delete", "namespace", place.name, "--timeout=60s")


# --- helpers


def writes(place: Namespace, *, leases: bool = False) -> list[dict[str, Any]]:
    """The writes of the controllers here and to the cluster, or only the renewals of their Leases.

    They also write for the tests that run beside this one, in the namespaces of those.
    """
    return [
        found
        for found in place.cluster.node.writes()
        if found["user"]["username"].startswith(f"system:serviceaccount:{RELEASE}:")
        and found["objectRef"].get("namespace", RELEASE) in (place.name, RELEASE)
        and (found["objectRef"]["resource"] == "leases") == leases
    ]


async def until_members(place: Namespace, wanted: int) -> None:
    """Returns when the group of the namespace's Kafka trigger has so many members."""
    async with asyncio.timeout(30):
        while len(await kafka.assigned(place.cluster.kafka, f"kubeirq.{place.name}.calls.idle")) != wanted:
            await asyncio.sleep(0.3)
