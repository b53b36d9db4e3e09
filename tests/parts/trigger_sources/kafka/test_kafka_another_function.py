"""A Kafka trigger that gets another function goes on at the place of the former one. On a real Apache Kafka."""

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer
from servers.kafka import Kafka, committed_and_ends, create_topic, shared_embedded_kafka, shared_kafka
from servers.retargeting import bench, until

from trigger_sources.kafka import KafkaTrigger
from trigger_sources.kafka.remembered import _MEMORIES

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(params=["apache", "embedded"])
async def bootstrap(request: pytest.FixtureRequest) -> str:
    return (await shared_kafka()).bootstrap if request.param == "apache" else await shared_embedded_kafka()


async def produce(bootstrap: str, topic: str, first: int, last: int) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        for number in range(first, last):
            await producer.send_and_wait(topic, b"%d" % number, key=b"%d" % number)


def spec(bootstrap: str, topic: str, **more: Any) -> dict[str, Any]:
    return {"brokers": [bootstrap], "topics": [topic], **more}


@pytest.mark.parametrize("start", ["earliest", "latest"])
async def test_another_function_gets_what_waited_and_nothing_again(bootstrap: str, tmp_path: Path, start: str) -> None:
    topic = f"t-{uuid4().hex[:8]}"
    await create_topic(bootstrap, topic, 1)
    await produce(bootstrap, topic, 0, 5)
    async with bench(tmp_path, KafkaTrigger, **spec(bootstrap, topic, start=start)) as it:
        await it.target("a")
        await it.connected()
        await produce(bootstrap, topic, 5, 10)
        await it.delivered("a", list(range(0 if start == "earliest" else 5, 10)))
        it.failing.add("a")
        before = len(it.bodies("a"))
        await produce(bootstrap, topic, 10, 20)
        await until(lambda: len(it.bodies("a")) > before)
        await it.target("b")
        await it.delivered("b", list(range(10, 20)))
        it.functions["a"].calls.clear()
        it.failing.clear()
        await it.restart()
        await produce(bootstrap, topic, 20, 25)
        await it.target("a")  # while the fabric was away
        await it.delivered("a", list(range(20, 25)))
        await it.target("b", url=True)
        await produce(bootstrap, topic, 25, 30)
        await it.delivered("b", list(range(10, 20)) + list(range(25, 30)))


async def test_what_a_process_remembers_of_a_trigger_ends_with_the_trigger(bootstrap: str, tmp_path: Path) -> None:
    topic = f"t-{uuid4().hex[:8]}"
    await create_topic(bootstrap, topic, 1)
    _MEMORIES.clear()  # of triggers of other tests in this process
    async with bench(tmp_path, KafkaTrigger, **spec(bootstrap, topic)) as it:
        await it.target("a")
        await it.connected()
        known = _MEMORIES["uid", "a"]
        await it.target("a", concurrency=2)
        await it.connected()
        assert _MEMORIES["uid", "a"] is known, "an edit changes nothing"
        await it.target("b")
        await it.connected()
        assert set(_MEMORIES) == {("uid", "b")}
        await it.replicas[0].apply({}, 5)
        assert not _MEMORIES


async def test_records_that_settled_above_one_that_waits_are_not_delivered_again(
    kafka: Kafka, topic: str, tmp_path: Path
) -> None:
    patient = {"backoffSeconds": 3_600, "backoffMaxSeconds": 3_600}
    async with bench(tmp_path, KafkaTrigger, **spec(kafka.bootstrap, topic, delivery=patient)) as it:
        await it.target("a")
        await it.connected()
        it.failing.add("a")
        await produce(kafka.bootstrap, topic, 0, 1)
        await until(lambda: bool(it.bodies("a")))
        it.failing.clear()
        await produce(kafka.bootstrap, topic, 1, 10)
        await until(lambda: len(it.bodies("a")) == 10)
        await it.target("b")
        await produce(kafka.bootstrap, topic, 10, 12)
        await it.delivered("b", [0, 10, 11])


async def test_a_replica_waits_for_the_former_function_of_another_replica(
    kafka: Kafka, topic: str, tmp_path: Path
) -> None:
    async with bench(tmp_path, KafkaTrigger, **spec(kafka.bootstrap, topic, start="latest")) as it:
        await it.target("a", replica=0)
        await it.connected(0)
        await it.target("a", replica=1)
        await it.connected(1)
        await produce(kafka.bootstrap, topic, 0, 10)
        await it.delivered("a", list(range(10)))
        await it.target("b", replica=0)
        await until(lambda: it.flow(0).connected[1] == "FormerFunctionRuns")
        assert "kubeirq.default.orders.a" in it.flow(0).connected[2]
        await produce(kafka.bootstrap, topic, 10, 20)
        await it.delivered("a", list(range(20)))
        await it.target("b", replica=1)
        await produce(kafka.bootstrap, topic, 20, 30)
        await it.delivered("b", list(range(20, 30)))
        async with asyncio.timeout(20):
            while (await committed_and_ends(kafka.bootstrap, "kubeirq.default.orders.b", topic))[0] != {0: 30}:
                await asyncio.sleep(0.1)


async def test_a_function_beside_others_has_a_first_start_and_keeps_its_place_when_it_leaves(
    kafka: Kafka, topic: str, tmp_path: Path
) -> None:
    async with bench(tmp_path, KafkaTrigger, **spec(kafka.bootstrap, topic, start="latest")) as it:
        await it.target("a")
        await it.connected()
        await produce(kafka.bootstrap, topic, 0, 5)
        await it.delivered("a", list(range(5)))
        await it.target("a", "b")
        await it.connected()
        await produce(kafka.bootstrap, topic, 5, 10)
        await it.delivered("a", list(range(10)))
        await it.delivered("b", list(range(5, 10)))
        await it.target("a")
        await produce(kafka.bootstrap, topic, 10, 15)
        await it.delivered("a", list(range(15)))
        await it.restart()
        await it.target("a")
        await produce(kafka.bootstrap, topic, 15, 20)
        await it.delivered("a", list(range(20)))
        await it.target("a", "b")
        await it.delivered("b", list(range(5, 20)))
        await it.target("b")
        await produce(kafka.bootstrap, topic, 20, 25)
        await it.delivered("b", list(range(5, 25)))
        await it.target("b", "a")
        await it.delivered("a", list(range(25)))
        await it.restart()
        await it.target("c")
        await it.connected()
        (connected,) = [found for found in it.flow().status().conditions if found.type == "Connected"]
        assert (connected.status, connected.reason) == ("True", "BeginsAnew")
        assert "a, b" in connected.message


async def test_the_group_that_the_spec_names_stays(kafka: Kafka, topic: str, tmp_path: Path) -> None:
    async with bench(tmp_path, KafkaTrigger, **spec(kafka.bootstrap, topic, start="latest", group=f"g-{topic}")) as it:
        await it.target("a")
        await it.connected()
        await produce(kafka.bootstrap, topic, 0, 5)
        await it.delivered("a", list(range(5)))
        await it.restart()
        await produce(kafka.bootstrap, topic, 5, 10)
        await it.target("b")
        await it.delivered("b", list(range(5, 10)))
