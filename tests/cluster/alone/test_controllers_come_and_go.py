"""The controllers are replaced while events flow, and taken away while objects are deleted."""

import asyncio
from pathlib import Path

import pytest
from servers import kafka, nats
from servers.cluster import Cluster, Namespace, function, keeping
from servers.fabric import manifest
from servers.ledger import clean
from servers.one_of_each import delete_all, one_of_each, until_nothing_is_left
from servers.recorded_calls import FUNCTION, account, count, repeated

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300, func_only=True)]

EVENTS = 2_000
KEYS = 50


async def test_an_upgrade_of_the_controllers_repeats_nothing(place: Namespace, cluster: Cluster, tmp_path: Path):
    for_kafka, for_nats = tmp_path / "kafka", tmp_path / "nats"
    topic = stream = f"{place.name}-orders"
    for folder in (for_kafka, for_nats):
        folder.mkdir()
    await kafka.create_topic(cluster.kafka, topic)
    work = {"WORKS_SECONDS": "0.005"}
    records = await kafka.publish(cluster.kafka, topic, range(EVENTS), KEYS)
    letters = await nats.publish(cluster.nats, stream, EVENTS, KEYS)
    await place.apply(
        function("of-kafka", FUNCTION, handler="of_kafka.handler", **keeping(for_kafka, **work)),
        function("of-nats", FUNCTION, handler="of_nats.handler", **keeping(for_nats, **work)),
        manifest("KafkaTrigger", "ledger", function="of-kafka", topics=[topic], concurrency=16),
        manifest("NATSTrigger", "ledger", function="of-nats", subject=f"{stream}.>", concurrency=16),
    )
    ledgers = (for_kafka / "ledger", for_nats / "ledger")
    await place.until_it_holds(lambda: all(map(count, ledgers)), "deliveries", 60)
    names = [f"deployment/kubeirq-{name}" for name in ("kafka", "nats")]
    await cluster.kubectl("rollout", "restart", *names)
    for name in names:
        await cluster.kubectl("rollout", "status", name, "--timeout=90s")
    before = [count(ledger) for ledger in ledgers]
    flows = list(zip(ledgers, (records, letters), strict=True))
    await place.until_it_holds(lambda: not any(account(*flow).missing for flow in flows), "end", 90)
    print(f"\n{before} of {EVENTS} were delivered when the new controllers were ready")
    assert str(account(ledgers[0], records)) == clean(EVENTS), repeated(ledgers[0])
    of_nats = account(ledgers[1], letters)
    assert (of_nats.missing, of_nats.duplicates) == ((), ()), of_nats  # in no order: that is its default


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
