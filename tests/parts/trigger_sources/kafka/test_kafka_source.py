"""The Kafka source on a real broker: offsets are committed in order, after records are settled."""

import asyncio
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from servers.kafka import committed_and_ends, create_topic, shared_kafka

from trigger_sources.dead_letters import DeadLetter, Unreadable
from trigger_sources.delivery import Delivery, Outcome
from trigger_sources.events import Event
from trigger_sources.kafka import KafkaTrigger
from trigger_sources.kafka.dead_letters import METADATA_HEADER, KafkaDeadLetters
from trigger_sources.source import SourceError
from trigger_sources.testing import StandInContext

DONE = Outcome("delivered")


@dataclass(frozen=True)
class Place:
    """A topic, a group and a topic of dead letters on the broker that no other test uses."""

    bootstrap: str
    topic: str = field(default_factory=lambda: f"t-{uuid4().hex[:8]}")

    @property
    def group(self) -> str:
        return f"g-{self.topic}"


@pytest.fixture
async def kafka() -> Place:
    return Place((await shared_kafka()).bootstrap)


def trigger(kafka: Place, **spec: Any) -> KafkaTrigger:
    place = {"brokers": [kafka.bootstrap], "topics": [kafka.topic], "group": kafka.group}
    delivery = {"deadLetter": {"name": f"{kafka.topic}-dead"}}
    return KafkaTrigger.model_validate({"function": "f", **place, "delivery": delivery, **spec})


async def produce(kafka: Place, count: int, partition: int | None = 0, **more: Any) -> None:
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        for number in range(count):
            await producer.send_and_wait(kafka.topic, b"%d" % number, key=b"k", partition=partition, **more)


async def has_committed(kafka: Place, offset: int) -> bool:
    try:
        return (await committed_and_ends(kafka.bootstrap, kafka.group, kafka.topic))[0] == {0: offset}
    except KafkaError:
        return False  # the group has no coordinator before its first member


async def take(generator: Any, count: int) -> list[Delivery]:
    found: list[Delivery] = []
    async with asyncio.timeout(20):
        while len(found) < count:
            found += await anext(generator)
    return found


async def test_after_a_crash_unsettled_records_return_and_records_settled_out_of_order_do_not(
    kafka: Place,
) -> None:
    await create_topic(kafka.bootstrap, kafka.topic, 1)
    await produce(kafka, 10)
    context = StandInContext()
    first = trigger(kafka).deliveries(context)
    taken = await take(first, 10)
    assert [delivery.position for delivery in taken] == [f"{kafka.topic}/0/{offset}" for offset in range(10)]
    assert {delivery.key for delivery in taken} == {b"k"}
    for delivery in (*taken[:2], *taken[5:8]):
        await delivery.settle(DONE)
    await first.aclose()  # type: ignore[attr-defined]
    assert await committed_and_ends(kafka.bootstrap, kafka.group, kafka.topic) == ({0: 2}, {0: 10})
    with pytest.raises(ConnectionError):
        await taken[3].settle(DONE)  # a late settle has no effect
    again = trigger(kafka).deliveries(context)
    returned = await take(again, 5)
    assert [delivery.position for delivery in returned] == [f"{kafka.topic}/0/{offset}" for offset in (2, 3, 4, 8, 9)]
    assert returned[0].event.id == taken[2].event.id
    for delivery in returned:
        await delivery.settle(DONE)
    await again.aclose()  # type: ignore[attr-defined]
    assert await committed_and_ends(kafka.bootstrap, kafka.group, kafka.topic) == ({0: 10}, {0: 10})


async def test_a_partition_at_its_limit_stops_and_the_others_go_on(kafka: Place) -> None:
    await create_topic(kafka.bootstrap, kafka.topic, 2)
    await produce(kafka, 50, 0)
    context = StandInContext(room=10)
    generator = trigger(kafka, maxDistance=10).deliveries(context)
    taken = await take(generator, 10)
    await produce(kafka, 5, 1)
    others = await take(generator, 5)
    assert {delivery.partition for delivery in taken} == {f"{kafka.topic}/0"}
    assert {delivery.partition for delivery in others} == {f"{kafka.topic}/1"}
    for delivery in taken:
        await delivery.settle(DONE)
    assert {delivery.partition for delivery in await take(generator, 1)} == {f"{kafka.topic}/0"}
    await generator.aclose()  # type: ignore[attr-defined]


async def test_starting_at_the_latest_and_tombstones_and_cloudevents(kafka: Place) -> None:
    await create_topic(kafka.bootstrap, kafka.topic, 1)
    await produce(kafka, 3)
    context = StandInContext()
    generator = trigger(kafka, start="latest").deliveries(context)
    waiting = asyncio.create_task(take(generator, 3))
    while not await has_committed(kafka, 3):
        await asyncio.sleep(0.1)
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        await producer.send_and_wait(kafka.topic, None, key=b"gone")
        headers = [("ce_specversion", b"1.0"), ("ce_id", b"own"), ("ce_source", b"/own"), ("ce_type", b"own.type")]
        await producer.send_and_wait(kafka.topic, b"{}", headers=headers)
        await producer.send_and_wait(kafka.topic, b"{}", headers=headers[:2])
    tombstone, own, invalid = (delivery.event for delivery in await waiting)
    assert tombstone.data is None
    assert (own.id, own.source, own.type) == ("own", "/own", "own.type")
    assert invalid.type == "dev.kubeirq.kafka.record"
    assert invalid.extensions["invalidcloudevent"] == "source: a CloudEvent needs one"
    await generator.aclose()  # type: ignore[attr-defined]


async def test_a_missing_topic_and_an_unreachable_broker_are_named(kafka: Place) -> None:
    with pytest.raises(SourceError, match=f"no topic '{kafka.topic}'"):
        await trigger(kafka).prepare(StandInContext())
    await trigger(kafka, createTopics=True).prepare(StandInContext())
    await trigger(kafka).prepare(StandInContext())
    with pytest.raises(SourceError, match=r"spec\.brokers: none is named"):
        await KafkaTrigger.model_validate({"function": "f", "topics": ["t"]}).prepare(StandInContext())


async def test_dead_letters_keep_every_byte_and_are_replaced_and_removed(kafka: Place) -> None:
    await create_topic(kafka.bootstrap, kafka.topic, 1)
    await produce(kafka, 1, headers=[("h", b"\xff")])
    context = StandInContext()
    generator = trigger(kafka).deliveries(context)
    (delivery,) = await take(generator, 1)
    await generator.aclose()  # type: ignore[attr-defined]
    letters = trigger(kafka).dead_letters(context)
    await letters.prepare()
    letter = DeadLetter(
        context.uid, "default", "trigger", context.function, f"{kafka.topic}/0/0", delivery.event, "R", "m", 1.0,
        delivery.key, delivery.partition, tuple(delivery.headers),
    )  # fmt: skip
    await letters.write(letter)
    await letters.write(letter)
    assert [found async for found in letters.letters()] == [letter]
    await letters.remove(letter)
    assert [found async for found in letters.letters()] == []
    await context.close()


async def test_dead_letters_of_former_functions_are_found_and_one_that_cannot_be_read_stops_none(kafka: Place) -> None:
    contexts = [StandInContext(function=name) for name in ("former", "f")]
    former, present = (trigger(kafka).dead_letters(context) for context in contexts)
    for place, context in zip((former, present), contexts, strict=True):
        await place.prepare()
        for number in range(2):
            await place.write(
                DeadLetter(
                    context.uid, "default", "trigger", context.function, f"t/0/{number}",
                    Event(id="1", source="/s", type="t", data=b"x"), "R", "m", 1.0,
                )
            )  # fmt: skip
    headers = [(METADATA_HEADER, b"{}")]
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        await producer.send_and_wait(f"{kafka.topic}-dead", b"x", key=b"default/trigger/former/t/0/0", headers=headers)
    assert isinstance(present, KafkaDeadLetters)
    assert await present.functions() == ["f", "former"]
    unreadable: list[Unreadable] = []
    (letter,) = [found async for found in present.of("former", unreadable.append).letters()]
    assert (letter.function, letter.position) == ("former", "t/0/1")
    assert [found.place for found in unreadable] == [f"topic {kafka.topic}-dead, partition 0, offset 4"]
    assert await former.count() == 2, "it is still there"
    await present.remove(letter)
    assert [found async for found in former.letters()] == []
    assert len([found async for found in present.letters()]) == 2
    for context in contexts:
        await context.close()
