"""A real Kafka, a function that sometimes fails, and kills of every process: no record is lost or out of order."""

import asyncio
import base64
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiokafka import AIOKafkaProducer
from servers.fabric import Fabric, fabric, manifest
from servers.function import function
from servers.kafka import apache_kafka, committed_and_ends, create_topic, publish
from servers.ledger import clean
from servers.ports import free_port
from servers.recorded_calls import FUNCTION, Repeatable, account, count, entries

RECORDS = 20_000
CONCURRENCY = 64
FAST = {"backoffSeconds": 0.05, "backoffMaxSeconds": 0.5}


async def until(happened: Any, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while not happened():
            await asyncio.sleep(0.05)


async def until_committed(bootstrap: str, group: str, topic: str, seconds: float = 30) -> None:
    """Waits until the group's committed offsets are the ends of the topic's partitions."""
    async with asyncio.timeout(seconds):
        while True:
            committed, ends = await committed_and_ends(bootstrap, group, topic)
            if committed == ends:
                return
            await asyncio.sleep(0.2)


def kafka_trigger(bootstrap: str, topic: str, url: str, **more: Any) -> dict[str, Any]:
    spec = {
        "url": url,
        "brokers": [bootstrap],
        "topics": [topic],
        "group": f"group-{topic}",
        "concurrency": CONCURRENCY,
    }
    return manifest("KafkaTrigger", "ledger", **{**spec, "delivery": FAST, **more})


@pytest.mark.timeout(180)
async def test_every_record_is_delivered_in_order_by_a_function_that_fails_now_and_then(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with (
        apache_kafka() as kafka,
        function(FUNCTION, LEDGER=str(ledger), FAIL_SHARE="0.05") as target,
    ):
        await create_topic(kafka.bootstrap, "orders", partitions=4)
        sent = await publish(kafka.bootstrap, "orders", range(RECORDS))
        started = time.monotonic()
        async with fabric(
            tmp_path / "m", tmp_path / "s", manifests=[kafka_trigger(kafka.bootstrap, "orders", target.url)]
        ) as it:
            await until(lambda: count(ledger) >= RECORDS, 120)
            took = time.monotonic() - started
            await until_committed(kafka.bootstrap, "group-orders", "orders")
            counters = (await it.trigger("ledger"))["counters"]
        found = account(ledger, sent)
        print(f"\n{found}; {RECORDS / took:,.0f} records/s; {counters}")
        assert str(found) == clean(RECORDS), found.breaches
        assert counters["deadLettered"] == 0


@pytest.mark.timeout(400)
async def test_nothing_is_lost_while_fabric_function_and_broker_are_killed_and_the_group_changes(
    tmp_path: Path,
) -> None:
    ledger = tmp_path / "ledger"
    kills, repeatable = 0, Repeatable(ledger)
    async with (
        apache_kafka() as kafka,
        # each call takes a millisecond, so that the kills come while events flow
        function(FUNCTION, LEDGER=str(ledger), FAIL_SHARE="0.05", WORKS_SECONDS="0.001") as target,
    ):
        await create_topic(kafka.bootstrap, "orders", partitions=4)
        sent: dict[str, list[int]] = {}
        numbers = itertools.count()
        manifests = [kafka_trigger(kafka.bootstrap, "orders", target.url)]
        async with fabric(tmp_path / "m", tmp_path / "s", manifests=manifests, metrics_port=free_port()) as it:

            async def progress(records: int) -> None:
                """Publishes more than so many records, and returns once so many are delivered."""
                part = list(itertools.islice(numbers, 2 * records))
                for key, found in (await publish(kafka.bootstrap, "orders", part)).items():
                    sent.setdefault(key, []).extend(found)
                goal = count(ledger) + records
                await until(lambda: count(ledger) >= goal, 90)

            for _ in range(5):
                await progress(1_200)
                async with repeatable.in_kill(it):
                    await it.kill()
                    await target.kill()  # it ends the calls that still run
                kills += 1
                await target.start()
                await it.start()
            for _ in range(3):
                await progress(1_200)
                async with repeatable.in_kill(it):
                    await target.kill()
                kills += 1
                await target.start()
            await progress(1_000)
            await kafka.kill()  # repeats nothing: the fabric knows what settled
            await kafka.start()
            await progress(1_000)
            async with fabric(tmp_path / "m", tmp_path / "s2") as second:
                await progress(1_500)
                assert await second.stop() == 0
            await until(lambda: not account(ledger, sent).missing, 120)
            await until_committed(kafka.bootstrap, "group-orders", "orders")
            counters = (await it.trigger("ledger"))["counters"]
        found = account(ledger, sent, repeatable=repeatable.events)
        print(f"\n{found} of at most {found.repeatable}; {kills} kills, 1 broker restart, 2 rebalances; {counters}")
        assert found.holds, found.breaches
        assert counters["deadLettered"] == 0


@pytest.mark.timeout(240)
async def test_a_function_that_is_down_for_a_minute_costs_no_attempt_no_dead_letter_and_no_memory(
    tmp_path: Path,
) -> None:
    ledger = tmp_path / "ledger"
    down_seconds, per_second = 60, 100
    async with apache_kafka() as kafka, function(FUNCTION, LEDGER=str(ledger)) as target:
        await create_topic(kafka.bootstrap, "orders", partitions=4)
        trigger = kafka_trigger(kafka.bootstrap, "orders", target.url, delivery={**FAST, "attempts": 2})
        async with fabric(tmp_path / "m", tmp_path / "s", manifests=[trigger]) as it:
            sent = await publish(kafka.bootstrap, "orders", range(2_000))
            await until(lambda: count(ledger) >= 2_000, 60)
            await target.kill()
            number, memory = 2_000, []
            ended = time.monotonic() + down_seconds
            while time.monotonic() < ended:
                for key, numbers in (
                    await publish(kafka.bootstrap, "orders", range(number, number + per_second))
                ).items():
                    sent.setdefault(key, []).extend(numbers)
                number += per_second
                memory.append(_memory_mb(it))
                await asyncio.sleep(1)
            held = await it.trigger("ledger")
            assert next(c for c in held["conditions"] if c["type"] == "Delivering")["reason"] == "FunctionDown"
            await target.start()
            await until(lambda: not account(ledger, sent).missing, 60)
            counters = (await it.trigger("ledger"))["counters"]
        found = account(ledger, sent)
        print(f"\n{found}; memory {memory[2]:.0f} MB at first, {memory[-1]:.0f} MB at the end of {down_seconds} s")
        assert (found.missing, found.out_of_order) == ((), ())
        assert counters["deadLettered"] == 0
        assert counters["retried"] <= CONCURRENCY, "only calls that ran when it was killed were attempts"
        assert max(e.attempt for e in entries(ledger)) <= 2
        assert memory[-1] < memory[2] * 1.15 + 5


@pytest.mark.timeout(180)
async def test_one_poison_key_delays_no_other_key_and_is_redriven_after_the_function_is_fixed(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with apache_kafka() as kafka, function(FUNCTION, LEDGER=str(ledger), POISON="k7") as target:
        await create_topic(kafka.bootstrap, "orders", partitions=4)
        policy = {"backoffSeconds": 0.5, "backoffMaxSeconds": 1, "attempts": 12}
        trigger = kafka_trigger(kafka.bootstrap, "orders", target.url, delivery=policy)
        async with fabric(tmp_path / "m", tmp_path / "s", manifests=[trigger]) as it:
            latencies: dict[str, list[float]] = {}
            published: dict[int, float] = {}
            numbers = iter(range(10**6))

            async def phase(name: str, seconds: float, *, with_poison: bool) -> None:
                """About a hundred records a second over fifty keys; on request, one of them has the key k7."""
                start = next(numbers)
                first = True
                async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
                    ended = time.monotonic() + seconds
                    while time.monotonic() < ended:
                        number = next(numbers)
                        key = f"k{100 + number % 50}"
                        if with_poison and first:
                            key, first = "k7", False
                        published[number] = time.time()
                        await producer.send_and_wait(
                            "orders", b'{"key": "%s", "n": %d}' % (key.encode(), number), key=key.encode()
                        )
                        await asyncio.sleep(0.01)
                last = next(numbers)
                expected = sum(1 for n in published if start < n < last) - with_poison
                await until(lambda: sum(start < e.number < last for e in entries(ledger)) >= expected, 30)
                latencies[name] = sorted(e.at - published[e.number] for e in entries(ledger) if start < e.number < last)

            await phase("warm-up", 1, with_poison=False)
            await phase("before", 4, with_poison=False)
            await phase("during", 4, with_poison=True)
            for name in ("before", "during"):
                values = latencies[name]
                print(f"\n{name}: p50 {_ms(values, 0.5)}, p99 {_ms(values, 0.99)}, worst {_ms(values, 1)}")
            assert latencies["during"][-1] < 3, (
                "no other key waits for the poison key, whose attempts take longer than the phase"
            )

            async with asyncio.timeout(60):
                while (await it.trigger("ledger"))["deadLetters"] == 0:
                    await asyncio.sleep(0.2)
            found = await _letters(it)
            (letter,) = found
            shown = await it.ask_json(
                "GET", f"/v1/triggers/default/KafkaTrigger/ledger/dead-letters/show?identity={letter['identity']}"
            )
            assert b'"key": "k7"' in base64.b64decode(shown["data"])
            assert len(shown["attempts"]) == 12
            assert {attempt["status"] for attempt in shown["attempts"]} == {500}
            (tmp_path / "ledger.mended").touch()
            await it.ask("POST", "/v1/triggers/default/KafkaTrigger/ledger/dead-letters/redrive", {"identities": None})
            await until(lambda: any(e.key == "k7" for e in entries(ledger)), 10)
            assert await _letters(it) == []


async def _letters(it: Fabric) -> list[dict[str, Any]]:
    found = await it.ask_json("GET", "/v1/triggers/default/KafkaTrigger/ledger/dead-letters")
    letters: list[dict[str, Any]] = found["deadLetters"]
    return letters


def _ms(values: Sequence[float], share: float) -> str:
    return f"{values[min(len(values) - 1, int(len(values) * share))] * 1000:.1f} ms"


def _memory_mb(it: Fabric) -> float:
    return float(psutil.Process(it.pid).memory_info().rss) / 1e6
