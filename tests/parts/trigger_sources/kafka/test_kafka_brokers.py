"""The Kafka source on both brokers that it supports: a real Apache Kafka, and the embedded broker."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from servers.kafka import create_topic, shared_embedded_kafka, shared_kafka

from trigger_sources.dead_letters import DeadLetter
from trigger_sources.delivery import Delivery, Outcome
from trigger_sources.events import Event
from trigger_sources.kafka import KafkaTrigger
from trigger_sources.kafka.events import event_from_record
from trigger_sources.kafka.reply import KafkaReply
from trigger_sources.source import SourceError
from trigger_sources.testing import StandInContext

DONE = Outcome("delivered")
Generator = AsyncGenerator[Sequence[Delivery], None]


@pytest.fixture(params=["apache", "embedded"])
async def address(request: pytest.FixtureRequest) -> str:
    if request.param == "embedded":
        return await shared_embedded_kafka()
    return (await shared_kafka()).bootstrap


@pytest.fixture
async def topic(address: str) -> str:
    """A topic of one partition that no other test uses."""
    name = f"t-{uuid4().hex[:8]}"
    await create_topic(address, name, 1)
    return name


def trigger(address: str, topic: str, **spec: Any) -> KafkaTrigger:
    fields = {"function": "f", "brokers": [address], "topics": [topic], "group": f"g-{topic}", **spec}
    return KafkaTrigger.model_validate(fields)


def reading(source: KafkaTrigger, context: StandInContext) -> Any:
    return aclosing(source.deliveries(context))  # type: ignore[type-var]


async def produce(address: str, topic: str, numbers: Sequence[int], partition: int = 0, **more: Any) -> None:
    async with AIOKafkaProducer(bootstrap_servers=address) as producer:
        for number in numbers:
            await producer.send_and_wait(topic, b"%d" % number, partition=partition, **more)


async def take(generator: Generator, count: int, seconds: float = 20) -> list[Delivery]:
    found: list[Delivery] = []
    async with asyncio.timeout(seconds):
        while len(found) < count:
            found += await anext(generator)
    return found


async def until(happened: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not happened():
            await asyncio.sleep(0.02)


def offsets(deliveries: Sequence[Delivery]) -> list[int]:
    return [int((delivery.position or "").rpartition("/")[2]) for delivery in deliveries]


async def test_unsettled_records_return_with_the_same_id_and_settled_ones_do_not(address: str, topic: str) -> None:
    source, context = trigger(address, topic), StandInContext()
    await produce(address, topic, range(6))
    async with reading(source, context) as generator:
        first = await take(generator, 6)
        for delivery in first[:2]:
            await delivery.settle(DONE)
    async with reading(source, context) as generator:
        returned = await take(generator, 4)
    assert offsets(first) == [0, 1, 2, 3, 4, 5]
    assert offsets(returned) == [2, 3, 4, 5]
    assert [delivery.event for delivery in returned] == [delivery.event for delivery in first[2:]]
    assert {delivery.key for delivery in first} == {None}


async def test_ids_name_the_cluster(address: str, topic: str) -> None:
    await produce(address, topic, [1])
    async with reading(trigger(address, topic), StandInContext()) as generator:
        (delivery,) = await take(generator, 1)
    cluster, rest = delivery.event.id.split("/", 1)
    assert rest == f"{topic}/0/0"
    assert cluster not in ("", "kafka", "None")


async def test_the_source_takes_no_more_than_there_is_room_for(address: str, topic: str) -> None:
    context = StandInContext(room=3)
    await produce(address, topic, range(10))
    async with reading(trigger(address, topic), context) as generator:
        taken = 0
        while taken < 9:
            found = await anext(generator)
            assert 0 < len(found) <= 3
            taken += len(found)
        context.room = 0
        with pytest.raises(TimeoutError):
            await take(generator, 1, seconds=1)


async def test_a_reader_stops_within_a_second(address: str, topic: str) -> None:
    context = StandInContext()
    await produce(address, topic, [1])
    generator: Any = trigger(address, topic).deliveries(context)
    await take(generator, 1)
    waiting = asyncio.ensure_future(anext(generator))
    began = time.monotonic()
    context.stopping.set()
    with pytest.raises(StopAsyncIteration):
        await waiting
    assert time.monotonic() - began < 1


async def test_a_second_member_gets_its_share_after_the_first_has_settled_its_records(address: str, topic: str) -> None:
    two = f"{topic}-two"
    await create_topic(address, two, 2)
    source = trigger(address, two)
    for partition in (0, 1):
        await produce(address, two, range(5), partition)
    held: list[Delivery] = []
    later: list[Delivery] = []
    withdrawn: list[set[str]] = []

    async def settle_what_is_held(lost: Callable[[Delivery], bool], grace_seconds: float) -> None:
        """Stops as a flow does: settles deliveries in progress within the grace period, and forgets the rest."""
        gone = [delivery for delivery in held if lost(delivery)]
        withdrawn.append({str(delivery.partition) for delivery in gone})
        for delivery in gone[:-1]:
            await delivery.settle(DONE)

    async def pump(generator: Generator) -> None:
        async for deliveries in generator:
            later.extend(deliveries)

    first = StandInContext(replica="one", on_withdraw=settle_what_is_held)
    second = StandInContext(replica="two")
    async with reading(source, first) as one, reading(source, second) as other:
        held += await take(one, 10)
        pumps = [asyncio.create_task(pump(one)), asyncio.create_task(pump(other))]
        await until(lambda: bool(withdrawn and later), 40)
        assert withdrawn[0] == {f"{two}/0", f"{two}/1"}
        with pytest.raises(ConnectionError):
            await held[-1].settle(DONE)  # from an older generation: has no effect
        await produce(address, two, [9], 0)
        await produce(address, two, [9], 1)
        await until(lambda: len({delivery.position for delivery in later}) >= 3)
        first.stopping.set()
        second.stopping.set()
        await asyncio.gather(*pumps)
    # All held records but the last were settled and committed before the group continued
    assert {delivery.position for delivery in later} == {held[-1].position, f"{two}/0/5", f"{two}/1/5"}


async def test_a_group_without_commits_begins_at_a_time(address: str, topic: str) -> None:
    await produce(address, topic, [1, 2], timestamp_ms=1_700_000_000_000)
    await produce(address, topic, [3, 4], timestamp_ms=1_700_000_100_000)
    start = datetime.fromtimestamp(1_700_000_050, UTC).isoformat()
    async with reading(trigger(address, topic, start=start), StandInContext()) as generator:
        taken = await take(generator, 2)
    # The embedded broker has no index by time: it delivers more records, never fewer
    embedded = taken[0].event.id.startswith("tansu")
    assert offsets(taken) == ([0, 1, 2, 3] if embedded else [2, 3])


async def test_lag_is_given_in_records_and_in_seconds(address: str, topic: str) -> None:
    source, context = trigger(address, topic), StandInContext(room=2)
    await produce(address, topic, range(4), timestamp_ms=int(time.time() * 1000) - 60_000)
    async with reading(source, context) as generator:
        taken = await take(generator, 4)
        lag = await source.lag(context)
        assert lag is not None
        assert lag.events == 4
        assert 55 < (lag.seconds or 0) < 90
        await taken[-1].settle(DONE)
        lag = await source.lag(context)
        assert lag is not None
        assert lag.events == 3, "the last one is settled, though no commit can pass the first one"
        for delivery in taken[:-1]:
            await delivery.settle(DONE)
        lag = await source.lag(context)
        assert lag is not None
        assert (lag.events, lag.seconds) == (0, 0.0)


async def test_headers_without_a_value_stop_nothing(address: str, topic: str) -> None:
    headers = [("content-type", None), ("ce_specversion", None), ("", b"x")]
    await produce(address, topic, [1], headers=headers)
    async with reading(trigger(address, topic), StandInContext()) as generator:
        (delivery,) = await take(generator, 1)
    assert delivery.headers == (("content-type", b""), ("ce_specversion", b""), ("", b"x"))
    assert delivery.event.extensions["invalidcloudevent"].startswith("specversion")


async def test_skipped_tombstones_are_committed_too(address: str, topic: str) -> None:
    source = trigger(address, topic, tombstones="skip")
    async with AIOKafkaProducer(bootstrap_servers=address) as producer:
        await producer.send_and_wait(topic, None, key=b"gone")
        await producer.send_and_wait(topic, b"1", key=b"here")
        await producer.send_and_wait(topic, None, key=b"gone")
    async with reading(source, StandInContext()) as generator:
        (delivery,) = await take(generator, 1)
        await delivery.settle(DONE)
    await produce(address, topic, [2])
    async with reading(source, StandInContext()) as generator:
        assert offsets(await take(generator, 1)) == [3]


async def test_dead_letters_of_two_triggers_in_one_topic(address: str, topic: str) -> None:
    source = trigger(address, topic, delivery={"deadLetter": {"name": f"{topic}-dead"}})
    one, two = StandInContext(uid="default/one"), StandInContext(uid="default/two")
    letters, others = source.dead_letters(one), source.dead_letters(two)
    await letters.prepare()
    await letters.prepare()
    await others.prepare()
    tombstone = letter(one, topic, 1, None)
    large = letter(one, topic, 2, b"\xff" * 3_000_000)
    foreign = letter(two, topic, 1, b"theirs")
    for own in (tombstone, large):
        await letters.write(own)
    await others.write(foreign)
    assert [found async for found in letters.letters()] == [tombstone, large]
    assert [found async for found in others.letters()] == [foreign]
    again = replace(tombstone, failed_at=9.0, redriven=1)
    await letters.write(again)
    assert [found async for found in letters.letters()] == [large, again]
    assert (await letters.count(), await others.count()) == (2, 1)
    await letters.remove(again)
    await letters.remove(again)
    assert [found async for found in letters.letters()] == [large]
    assert [found async for found in others.letters()] == [foreign]
    await one.close()
    await two.close()


async def test_letters_and_their_removals_in_a_topic_of_a_pattern_are_no_events_and_other_records_are(
    address: str, topic: str
) -> None:
    context = StandInContext(uid="default/KafkaTrigger/one")
    letters = trigger(address, "other", delivery={"deadLetter": {"name": topic}}).dead_letters(context)
    await letters.prepare()
    own = letter(context, topic, 1, b"x")
    await letters.remove(own)  # as after compaction: its letter is gone
    await letters.write(own)
    await letters.remove(own)
    await context.close()
    async with AIOKafkaProducer(bootstrap_servers=address) as producer:
        await producer.send_and_wait(topic, None, key=b"default/customer-7")
    source = trigger(address, topic, topics=[], topicPattern=topic, start="earliest")
    async with reading(source, StandInContext()) as generator:
        assert offsets(await take(generator, 1)) == [3]


def letter(context: StandInContext, topic: str, offset: int, data: bytes | None) -> DeadLetter:
    event = Event(f"c/{topic}/0/{offset}", "/s", "t", data, extensions={"a": "b"})
    headers = (("h", b"\xff"),)
    return DeadLetter(
        context.uid, context.namespace, context.name, context.function, f"{topic}/0/{offset}", event, "R", "m",
        float(offset), b"\x00k", f"{topic}/0", headers,
    )  # fmt: skip


async def test_a_reply_is_a_cloudevent_in_a_record(address: str, topic: str) -> None:
    context = StandInContext()
    publisher = await KafkaReply(topic=topic).open(context, {"kafka": [address]})
    event = Event("1/f", "/f", "reply", b'{"a":1}', "application/json", extensions={"traceparent": "00-aa-bb-01"})
    await publisher.publish(event, b"k")
    await context.close()
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=address, auto_offset_reset="earliest")
    async with consumer, asyncio.timeout(10):
        record = await consumer.getone()
    found = event_from_record(record, "", "")
    assert record.key == b"k"
    assert (found.id, found.source, found.type, found.data) == (event.id, event.source, event.type, event.data)
    assert found.extensions["traceparent"] == "00-aa-bb-01"


async def test_new_topics_that_match_a_pattern_are_found(address: str, topic: str) -> None:
    source = trigger(address, topic, topics=[], topicPattern=f"{topic}(-new)?", start="earliest")
    await produce(address, topic, [1])
    async with reading(source, StandInContext()) as generator:
        await take(generator, 1)
        await create_topic(address, f"{topic}-new", 1)
        await create_topic(address, f"{topic}-new-not", 1)
        await produce(address, f"{topic}-new-not", [2])
        await produce(address, f"{topic}-new", [3])
        seen: set[str | None] = set()
        async with asyncio.timeout(30):
            while f"{topic}-new/0" not in seen:
                seen |= {delivery.partition for delivery in await anext(generator)}
        assert f"{topic}-new-not/0" not in seen


async def test_an_unreachable_broker_is_reported_and_no_connection_stays_open() -> None:
    source = trigger("127.0.0.1:1", "orders")
    with pytest.raises(SourceError, match=r"127\.0\.0\.1:1"):
        async with reading(source, StandInContext()) as generator:
            await take(generator, 1)
