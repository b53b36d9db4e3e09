"""The lanes of a Kafka trigger on a real broker: a key that is stuck holds no other key."""

import asyncio
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from servers.fabric import fabric, manifest
from servers.kafka import Kafka
from servers.scripted import Answer, Call, scripted


@pytest.mark.timeout(120)
async def test_a_stuck_key_with_large_records_holds_no_other_key(kafka: Kafka, topic: str, tmp_path: Path) -> None:
    poison = bytes(1_000_000)

    async def decide(call: Call) -> Answer:
        return 500 if call.body == poison else 200

    async with scripted(decide) as function, AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        spec = manifest(
            "KafkaTrigger", "t", url=function.url, brokers=[kafka.bootstrap], topics=[topic],
            delivery={"backoffSeconds": 60},
        )  # fmt: skip
        async with fabric(tmp_path / "m", tmp_path / "s", manifests=[spec]) as it:

            async def until(counter: str, count: int) -> None:
                async with asyncio.timeout(40):
                    while (await it.trigger("t"))["counters"][counter] < count:
                        await asyncio.sleep(0.05)

            for _ in range(80):
                await producer.send(topic, poison, key=b"poison")
            await producer.flush()
            await until("received", 68)  # more than the room has bytes
            for number in range(100):
                await producer.send(topic, b"%d" % number, key=b"%d" % (number % 5))
            await producer.flush()
            await until("delivered", 100)
            assert (await it.trigger("t"))["held"] == 80
