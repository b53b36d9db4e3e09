"""Fifty Kafka triggers with stuck keys, in a process with little memory: it lives, and all that is not stuck flows."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from servers.fabric import fabric, manifest
from servers.kafka import apache_kafka, create_topic
from servers.ports import free_port
from servers.scripted import Answer, Call, scripted

TRIGGERS = 50
LIMIT = 256 * 1024 * 1024
LARGE, SMALL = 1_000_000, 100_000  # bytes; a broker refuses a record over 1 MiB
OTHERS = 12  # records of other keys, for each trigger; every third one is large
FLOOD = 6  # more stuck keys of each trigger, 300 MB in all


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(200):
        while not happened():
            await asyncio.sleep(0.05)


def peak(pid: int) -> int:
    """The most memory that the process has used, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


@pytest.mark.timeout(400)
async def test_the_process_stays_within_its_limit_and_every_other_key_flows(tmp_path: Path) -> None:
    delivered: defaultdict[str, set[bytes]] = defaultdict(set)
    stuck: set[str] = set()

    async def decide(call: Call) -> Answer:
        topic = call.headers["ce-source"].rpartition("/")[2]
        name, _, _ = call.body.partition(b" ")
        if name == b"stuck":
            stuck.add(topic)
            return 500
        delivered[topic].add(name)
        return 200

    def trigger(number: int, brokers: str, url: str) -> dict[str, Any]:
        return manifest(
            "KafkaTrigger", f"t{number}", url=url, brokers=[brokers], topics=[f"t{number}"], start="earliest",
            delivery={"backoffSeconds": 3600, "backoffMaxSeconds": 3600, "holdAfter": None},
        )  # fmt: skip

    async with apache_kafka() as kafka, scripted(decide) as function:
        for number in range(TRIGGERS + 1):  # the last one is the neighbour without a stuck key
            await create_topic(kafka.bootstrap, f"t{number}", partitions=1)
        async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, max_request_size=2 * LARGE) as producer:
            for number in range(TRIGGERS):
                await producer.send_and_wait(f"t{number}", b"stuck ".ljust(LARGE), key=b"stuck")
                for other in range(OTHERS):
                    size = SMALL if other % 3 else LARGE
                    await producer.send(f"t{number}", b"%d ".ljust(size + 1) % other, key=b"other-%d" % other)
            await producer.flush()
        manifests = [trigger(number, kafka.bootstrap, function.url) for number in range(TRIGGERS + 1)]
        env = {"KUBEIRQ_MEMORY_LIMIT": str(LIMIT)}
        folder, state, port = tmp_path / "m", tmp_path / "s", free_port()
        async with fabric(folder, state, manifests=manifests, env=env, metrics_port=port) as it:
            # one stuck key each: every other key flows
            await until(lambda: len(stuck) == TRIGGERS and sum(map(len, delivered.values())) == TRIGGERS * OTHERS)
            # many stuck keys: their triggers wait for memory, and the neighbour flows
            async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, max_request_size=2 * LARGE) as producer:
                for number in range(TRIGGERS):
                    for key in range(FLOOD):
                        await producer.send(f"t{number}", b"stuck ".ljust(LARGE), key=b"stuck-%d" % key)
                await producer.flush()
                async with asyncio.timeout(120):
                    while not await it.metric("kubeirq_waits_for_memory"):
                        await asyncio.sleep(0.2)
                for record in range(100):
                    await producer.send(f"t{TRIGGERS}", b"%d ".ljust(SMALL) % record, key=b"%d" % record)
                await producer.flush()
            await until(lambda: len(delivered[f"t{TRIGGERS}"]) == 100)
            assert await it.metric("kubeirq_events_memory_bytes") <= LIMIT // 4 + TRIGGERS * LARGE
            used = peak(it.pid)
        print(f"\n{used / 2**20:.0f} MiB at most")
        assert used < LIMIT
