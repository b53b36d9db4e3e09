"""Two replicas of a controller share a trigger, and nothing is lost when a replica or the API server is killed."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import nats
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from servers.controllers import Cluster, Controller, cluster, condition, holder_of, own_cluster, resource
from servers.function import function
from servers.kafka import apache_kafka, assigned, create_topic
from servers.kubernetes import APIServer
from servers.ledger import clean
from servers.nats import nats_server
from servers.recorded_calls import FUNCTION, account, count, entries

GROUP = "kubeirq.default.orders.orders"
KEYS = 40
CONCURRENCY = 8
WORK = {"WORKS_SECONDS": "0.05", "FUNC_CONCURRENCY": str(CONCURRENCY)}  # there are always some events under way


@dataclass
class Publishing:
    """Events of `{"key", "n"}`, about a hundred a second."""

    sent: dict[str, list[int]] = field(default_factory=dict)  # the numbers of each key
    total: int = 0

    async def run(self, publish: Callable[[str, bytes], Awaitable[object]], enough: asyncio.Event) -> None:
        while not enough.is_set():
            key = f"k{self.total % KEYS}"
            await publish(key, json.dumps({"key": key, "n": self.total}).encode())
            self.sent.setdefault(key, []).append(self.total)
            self.total += 1
            await asyncio.sleep(0.01)


@asynccontextmanager
async def publishing_with(publish: Callable[[str, bytes], Awaitable[object]]) -> AsyncIterator[Publishing]:
    """Publishes until the block ends."""
    found, enough = Publishing(), asyncio.Event()
    task = asyncio.create_task(found.run(publish, enough))
    try:
        yield found
        enough.set()
        await task
    finally:
        task.cancel()
        await asyncio.wait({task})


@asynccontextmanager
async def publishing_to_kafka(bootstrap: str) -> AsyncIterator[Publishing]:
    async with (
        AIOKafkaProducer(bootstrap_servers=bootstrap) as producer,
        publishing_with(lambda key, data: producer.send_and_wait("orders", data, key=key.encode())) as found,
    ):
        yield found


@asynccontextmanager
async def publishing_to_nats(url: str) -> AsyncIterator[Publishing]:
    client = await nats.connect(url)
    stream = client.jetstream()
    try:
        async with publishing_with(lambda key, data: stream.publish(f"orders.{key}", data)) as found:
            yield found
    finally:
        await client.close()


async def until(holds: Callable[[], object], it: Cluster, seconds: float = 30) -> None:
    try:
        async with asyncio.timeout(seconds):
            while not holds():
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(it.logs()) from None


async def until_shared(bootstrap: str, it: Cluster, members: int, seconds: float = 40) -> None:
    """Returns when so many replicas have partitions."""
    found = None
    try:
        async with asyncio.timeout(seconds):
            while found != [{"orders"}] * members:
                await asyncio.sleep(0.1)
                try:
                    found = await assigned(bootstrap, GROUP)
                except KafkaError:
                    found = None  # no coordinator before the first member
    except TimeoutError:
        raise AssertionError(f"{found}\n{it.logs()}") from None


async def delivered_by(controller: Controller) -> int:
    address = f"http://127.0.0.1:{controller.port('KUBEIRQ_PORT')}/metrics"
    async with aiohttp.ClientSession() as session, session.get(address) as answer:
        text = await answer.text()
    return int(sum(float(found) for found in re.findall(r"^kubeirq_events_delivered_total\{.*\} (\S+)$", text, re.M)))


@pytest.mark.timeout(180)
async def test_replicas_share_the_partitions_of_a_topic_and_take_over_those_of_one_that_is_killed(
    kubernetes: APIServer,
    tmp_path: Path,
) -> None:
    ledger = tmp_path / "ledger"
    async with (
        cluster(kubernetes, tmp_path) as it,
        apache_kafka() as kafka,
        function(FUNCTION, LEDGER=str(ledger), **WORK) as f,
    ):
        await create_topic(kafka.bootstrap, "orders", 4)
        replicas = [await it.start("trigger", "kafka", replica=name) for name in ("one", "two")]
        spec = {"brokers": [kafka.bootstrap], "topics": ["orders"], "group": GROUP, "url": f.url}
        await it.apply(resource("KafkaTrigger", "orders", {**spec, "concurrency": CONCURRENCY}))
        await it.until("kafkatrigger", "orders", lambda found: condition(found)["status"] == "True", 40)
        await until_shared(kafka.bootstrap, it, 2)
        async with publishing_to_kafka(kafka.bootstrap) as publishing:
            await until(lambda: count(ledger) > 300, it)
            both = [await delivered_by(found) for found in replicas]
            assert all(both), f"both take their part: {both}"
            await replicas[0].kill()
            await until_shared(kafka.bootstrap, it, 1)
            before = publishing.total
            await until(lambda: publishing.total > before + 200, it)
            await replicas[0].start()
            await until_shared(kafka.bootstrap, it, 2)
            before = count(ledger)
            await until(lambda: count(ledger) > before + 300, it)
            assert await delivered_by(replicas[0]), "one that comes back gets its part"
        await until(lambda: len({entry.number for entry in entries(ledger)}) == publishing.total, it)
        # Calls in progress, and a second of uncommitted records
        found = account(ledger, publishing.sent, repeatable=100)
        assert found.holds, found.breaches


@pytest.mark.timeout(240)
async def test_an_ordered_trigger_runs_in_one_replica_and_continues_in_the_other_after_a_kill(
    kubernetes: APIServer,
    tmp_path: Path,
) -> None:
    """The server hands out a dead replica's messages after the Lease has a new holder, which waits for them."""
    ledger = tmp_path / "ledger"
    async with (
        cluster(kubernetes, tmp_path) as it,
        nats_server() as server,
        function(FUNCTION, LEDGER=str(ledger), **WORK) as f,
    ):
        replicas = [await it.start("trigger", "nats", replica=name) for name in ("one", "two")]
        spec = {"servers": [server.url], "subject": "orders.*", "stream": "ORDERS", "createStream": True, "url": f.url}
        ordered = {"ordering": "key", "concurrency": CONCURRENCY, "ackWaitSeconds": 20}
        await it.apply(resource("NATSTrigger", "orders", {**spec, **ordered}))
        await it.until("natstrigger", "orders", lambda found: condition(found)["status"] == "True", 40)
        kills = 2
        async with publishing_to_nats(server.url) as publishing:
            await until(lambda: count(ledger) > 200, it, 60)
            holder = await holder_of(it, "NATSTrigger", "orders")
            for found in replicas:
                is_holder = found.environment["KUBEIRQ_REPLICA"] == holder
                assert bool(await delivered_by(found)) == is_holder, "only the holder of the Lease delivers"
            for _ in range(kills):
                holder = await holder_of(it, "NATSTrigger", "orders")
                killed, other = sorted(replicas, key=lambda found: found.environment["KUBEIRQ_REPLICA"] != holder)
                await killed.kill()
                goal = count(ledger) + 100
                await until(lambda goal=goal: count(ledger) > goal, it, 60)  # type: ignore[misc]
                assert await holder_of(it, "NATSTrigger", "orders") == other.environment["KUBEIRQ_REPLICA"]
                await killed.start()  # it gets its share of the Leases back
        await until(lambda: len({entry.number for entry in entries(ledger)}) == publishing.total, it, 60)
        # Calls in progress at each kill
        found = account(ledger, publishing.sent, repeatable=kills * CONCURRENCY)
        assert found.holds, found.breaches


@pytest.mark.timeout(180)
async def test_events_flow_on_while_the_api_server_is_killed_and_started_again(tmp_path: Path) -> None:
    """Events of an ordered trigger, which needs its Lease, wait and continue. Those of the other never stop."""
    ledgers = {name: tmp_path / name for name in ("kept", "shared")}
    async with (
        own_cluster(tmp_path) as it,
        nats_server() as server,
        function(FUNCTION, LEDGER=str(ledgers["kept"]), **WORK) as kept,
        function(FUNCTION, LEDGER=str(ledgers["shared"]), **WORK) as shared,
    ):
        for name in ("one", "two"):
            await it.start("trigger", "nats", replica=name)
        spec = {"servers": [server.url], "subject": "orders.*", "stream": "ORDERS", "createStream": True}
        spec["concurrency"] = CONCURRENCY
        await it.apply(
            resource("NATSTrigger", "kept", {**spec, "url": kept.url, "ordering": "key"}),
            resource("NATSTrigger", "shared", {**spec, "url": shared.url}),
        )
        for name in ledgers:
            await it.until("natstrigger", name, lambda found: condition(found)["status"] == "True", 40)
        async with publishing_to_nats(server.url) as publishing:
            await until(lambda: all(count(ledger) > 100 for ledger in ledgers.values()), it)
            await it.server.kill("kube-apiserver")
            before = count(ledgers["shared"])
            # Longer than a Lease lasts
            await until(lambda: count(ledgers["shared"]) > before + 1_500, it, 60)
            await it.server.run_again("kube-apiserver")
            await it.server.until("kube-apiserver", "get", "--raw", "/readyz")
            before = count(ledgers["kept"])
            await until(lambda: count(ledgers["kept"]) > before + 200, it, 60)
        for ledger in ledgers.values():
            await until(lambda ledger=ledger: count(ledger) >= publishing.total, it, 60)  # type: ignore[misc]
        found = account(ledgers["kept"], publishing.sent)
        assert str(found) == clean(found.sent), found.breaches
        assert not account(ledgers["shared"], publishing.sent).missing
        for name in ledgers:
            await it.until("natstrigger", name, lambda found: condition(found)["status"] == "True", 40)
        # Changes of resources arrive again, too
        await it.server.kubectl("delete", "natstrigger", "shared", "--timeout=20s")
