"""Problems with a real Apache Kafka: retention, transactions, killed brokers, deleted topics, wrong passwords."""

import asyncio
import signal
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.client import ConnectionGroup
from aiokafka.conn import create_conn
from aiokafka.errors import CommitFailedError, KafkaError
from servers.kafka import (
    SASL_PASSWORD,
    SASL_USER,
    Kafka,
    apache_kafka,
    committed_and_ends,
    create_topic,
    second_broker,
)
from servers.kafka_source import trigger

from trigger_sources.dead_letters import DeadLetter, LetterTooLarge
from trigger_sources.delivery import Delivery, Outcome
from trigger_sources.events import Event
from trigger_sources.kafka import KafkaTrigger
from trigger_sources.kafka.consumer import close_consumer, open_consumer
from trigger_sources.kafka.dead_letters import KafkaDeadLetters
from trigger_sources.kafka.member import SESSION_SECONDS
from trigger_sources.kafka.reply import KafkaReply
from trigger_sources.kafka.trigger import _MEMBERS
from trigger_sources.source import SourceError
from trigger_sources.testing import Origin, StandInContext
from trigger_sources.testing.contract import called, flow

DONE = Outcome("delivered")
Generator = AsyncGenerator[Sequence[Delivery], None]


def reading(source: KafkaTrigger, context: StandInContext) -> Any:
    return aclosing(source.deliveries(context))  # type: ignore[type-var]


async def produce(kafka: Kafka, topic: str, numbers: Sequence[int], partition: int = 0) -> None:
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        for number in numbers:
            await producer.send_and_wait(topic, b"%d" % number, partition=partition)


async def take(generator: Generator, count: int) -> list[Delivery]:
    found: list[Delivery] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            found += await anext(generator)
    return found


async def settle_all(generator: Generator) -> None:
    async for deliveries in generator:
        for delivery in deliveries:
            await delivery.settle(DONE)


async def until(happened: Callable[[], bool], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not happened():
            await asyncio.sleep(0.02)


async def until_committed(kafka: Kafka, topic: str, offset: int) -> None:
    async with asyncio.timeout(30):
        while (await committed_and_ends(kafka.bootstrap, f"g-{topic}", topic))[0] != {0: offset}:
            await asyncio.sleep(0.1)


async def reset(kafka: Kafka, group: str, tp: TopicPartition) -> None:
    """Sets the group's offset to 0, once the broker knows that the group has no members."""
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap, group_id=group, enable_auto_commit=False)
    await consumer.start()
    consumer.assign([tp])
    try:
        async with asyncio.timeout(30):
            while True:
                try:
                    await consumer.commit({tp: 0})
                except CommitFailedError:
                    await asyncio.sleep(0.1)
                else:
                    return
    finally:
        await consumer.stop()


def offsets(deliveries: Sequence[Delivery]) -> list[int]:
    return [int((delivery.position or "").rpartition("/")[2]) for delivery in deliveries]


async def test_gaps_of_transactions_are_skipped_and_aborted_records_are_not_delivered(kafka: Kafka, topic: str) -> None:
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=topic) as producer:
        for number, aborted in ((1, False), (2, True), (3, False)):
            await producer.begin_transaction()
            await producer.send_and_wait(topic, b"%d" % number, partition=0)
            await (producer.abort_transaction() if aborted else producer.commit_transaction())
    async with reading(trigger(kafka, topic), StandInContext()) as generator:
        taken = await take(generator, 2)
        assert [delivery.event.data for delivery in taken] == [b"1", b"3"]
        assert offsets(taken) == [0, 4]
        for delivery in reversed(taken):
            await delivery.settle(DONE)
        pump = asyncio.create_task(take(generator, 1))
        await until_committed(kafka, topic, 6)  # after the last transaction's marker
        await produce(kafka, topic, [4])
        assert offsets(await pump) == [6]


async def test_records_lost_to_retention_are_counted(kafka: Kafka, topic: str) -> None:
    await produce(kafka, topic, range(10))
    context = StandInContext()
    async with reading(trigger(kafka, topic), context) as generator:
        taken = await take(generator, 10)
        for delivery in (*taken[:3], taken[5]):
            await delivery.settle(DONE)
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=8)})
    await admin.close()
    async with reading(trigger(kafka, topic), context) as generator:
        assert offsets(await take(generator, 2)) == [8, 9]
        await until(lambda: context.reports[-1][1] == "RecordsDeleted")
    assert context.lost == [(4, "RecordsDeleted")], "3 to 7, without 5, which was delivered"
    connected, _, message = context.reports[-1]
    assert connected
    assert message == f"up to 4 records were deleted before they were read; reading goes on: {topic}/0 from 8"


async def test_the_source_continues_after_the_broker_is_killed_and_restarted(topic: str) -> None:
    async with apache_kafka() as kafka:
        await create_topic(kafka.bootstrap, topic, 1)
        await produce(kafka, topic, range(4))
        context = StandInContext()
        taken: list[Delivery] = []

        async def pump(generator: Generator) -> None:
            async for deliveries in generator:
                taken.extend(deliveries)

        async with reading(trigger(kafka, topic), context) as generator:
            pumping = asyncio.create_task(pump(generator))
            await until(lambda: len(taken) == 4)
            await taken[0].settle(DONE)
            await kafka.kill()
            await until(lambda: not context.reports[-1][0])
            assert context.reports[-1][1] == "NotConnected"
            await taken[1].settle(DONE)
            await kafka.start()
            await until(lambda: context.reports[-1][0])
            await produce(kafka, topic, [4])
            await until(lambda: f"{topic}/0/4" in {delivery.position for delivery in taken})
            # Settled records do not come again, although the commit of the second one reached no broker
            assert not {f"{topic}/0/0", f"{topic}/0/1"} & {delivery.position for delivery in taken[4:]}
            newest = {delivery.position: delivery for delivery in taken}
            for delivery in list(newest.values())[2:]:
                await delivery.settle(DONE)
            await until_committed(kafka, topic, 5)
            context.stopping.set()
            await pumping


async def settle_while_no_broker_takes_commits(
    kafka: Kafka, topic: str, context: StandInContext, settled: Sequence[int]
) -> None:
    """Of four records the first one is committed, and then these are settled. The source ends, the broker is back."""
    await create_topic(kafka.bootstrap, topic, 1)
    await produce(kafka, topic, range(4))
    async with reading(trigger(kafka, topic), context) as generator:
        taken = await take(generator, 4)
        await taken[0].settle(DONE)
        await until_committed(kafka, topic, 1)
        await kafka.kill()
        for number in settled:
            await taken[number].settle(DONE)
    await kafka.start()


async def test_a_source_that_starts_again_repeats_no_record_whose_commit_reached_no_broker(topic: str) -> None:
    """As after an error of the client, an edit or a changed Secret while the broker is away."""
    async with apache_kafka() as kafka:
        context = StandInContext()
        await settle_while_no_broker_takes_commits(kafka, topic, context, (1, 3))
        async with reading(trigger(kafka, topic), context) as generator:
            await produce(kafka, topic, [4])
            assert offsets(await take(generator, 2)) == [2, 4]


async def test_a_group_that_is_reset_is_read_again_although_a_commit_failed(topic: str) -> None:
    async with apache_kafka() as kafka:
        context = StandInContext()
        await settle_while_no_broker_takes_commits(kafka, topic, context, (1,))
        await reset(kafka, f"g-{topic}", TopicPartition(topic, 0))
        async with reading(trigger(kafka, topic), context) as generator:
            assert offsets(await take(generator, 4)) == [0, 1, 2, 3]


async def test_a_broker_that_is_away_for_longer_than_the_session_cuts_no_running_call(
    topic: str, tmp_path: Path
) -> None:
    release = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.Response:
        await release.wait()
        return web.Response()

    async with apache_kafka() as kafka:
        await create_topic(kafka.bootstrap, topic, 1)
        origin = Origin(trigger(kafka, topic), lambda count: produce(kafka, topic, range(count)))
        async with called(answer) as function, flow(origin, function.url, tmp_path) as found:
            await produce(kafka, topic, range(3))
            await until(lambda: len(function.ids) == 3)
            await kafka.kill()
            await asyncio.sleep(SESSION_SECONDS + 2)  # the session ends by the clock
            await kafka.start()
            await until(lambda: found.connected[0])
            release.set()
            await until(lambda: found.dispatcher.counters.delivered >= 3)
            await produce(kafka, topic, [3])
            await until(lambda: found.dispatcher.counters.delivered >= 4 and found.dispatcher.held == 0)
            assert len(function.ids) == 4, function.ids


async def test_a_source_is_closed_in_time_while_no_broker_answers(topic: str) -> None:
    async with apache_kafka() as kafka:
        await create_topic(kafka.bootstrap, topic, 1)
        await produce(kafka, topic, range(2))
        generator: Any = trigger(kafka, topic).deliveries(StandInContext())
        (first, *_) = await take(generator, 2)
        await kafka.kill()
        await first.settle(DONE)
        began = time.monotonic()
        await generator.aclose()
        assert time.monotonic() - began < 5


async def test_a_deleted_topic_becomes_a_condition_and_a_recreated_one_is_read_from_its_beginning(
    kafka: Kafka, topic: str
) -> None:
    await produce(kafka, topic, range(3))
    context = StandInContext()
    taken: list[Delivery] = []

    async def pump(generator: Generator) -> None:
        async for deliveries in generator:
            taken.extend(deliveries)
            for delivery in deliveries:
                await delivery.settle(DONE)

    async with reading(trigger(kafka, topic), context) as generator:
        pumping = asyncio.create_task(pump(generator))
        await until(lambda: len(taken) == 3)
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
        await admin.start()
        await admin.delete_topics([topic])
        await admin.close()
        await until(lambda: context.reports[-1] == (False, "TopicMissing", missing(topic)))
        await create_topic(kafka.bootstrap, topic, 1)
        await produce(kafka, topic, [7])
        await until(lambda: context.reports[-1][0])
        await until(lambda: taken[-1].event.data == b"7")
        context.stopping.set()
        await pumping


@pytest.mark.timeout(180)  # the client looks for new topics every 30 seconds
async def test_one_missing_topic_of_several_stops_no_other_and_is_read_once_it_exists(kafka: Kafka, topic: str) -> None:
    late = f"{topic}-late"
    source, context = trigger(kafka, topic, topics=[topic, late]), StandInContext()
    await produce(kafka, topic, [1])
    await source.prepare(context)
    taken: list[Delivery] = []

    async def pump(generator: Generator) -> None:
        async for deliveries in generator:
            taken.extend(deliveries)
            for delivery in deliveries:
                await delivery.settle(DONE)

    async with reading(source, context) as generator:
        pumping = asyncio.create_task(pump(generator))
        await until(lambda: [one.event.data for one in taken] == [b"1"])
        message = f"{missing(late)}; the others are read"
        await until(lambda: context.reports[-1] == (False, "TopicMissing", message))
        await create_topic(kafka.bootstrap, late, 1)
        await produce(kafka, late, [2])
        await until(lambda: [one.event.data for one in taken] == [b"1", b"2"], 120)
        await until(lambda: context.reports[-1][0])
        context.stopping.set()
        await pumping
    with pytest.raises(SourceError, match=f"no topic '{topic}-a', '{topic}-b'"):
        await trigger(kafka, topic, topics=[f"{topic}-b", f"{topic}-a"]).prepare(context)


def missing(topic: str) -> str:
    return f"spec.topics: no topic '{topic}'; create it, or set createTopics"


@pytest.mark.timeout(180)  # it starts a broker
async def test_commits_fit_a_broker_that_takes_less_metadata_than_usual(topic: str) -> None:
    async with apache_kafka(settings=["offset.metadata.max.bytes=200"]) as kafka:
        await create_topic(kafka.bootstrap, topic, 1)
        await produce(kafka, topic, range(600))
        context = StandInContext(room=1_000)
        async with reading(trigger(kafka, topic), context) as generator:
            taken = await take(generator, 600)
            await taken[0].settle(DONE)
            for delivery in taken[2::2]:  # each leaves a gap, which the metadata names
                await delivery.settle(DONE)
            await until_committed(kafka, topic, 1)
        async with reading(trigger(kafka, topic), context) as generator:
            repeated = offsets(await take(generator, 300))
            assert repeated[:280] == list(range(1, 560, 2)), "the lowest of those that settled are known"


@pytest.mark.timeout(240)  # it starts two brokers, and one of them twice
async def test_a_partition_that_no_broker_leads_is_reported(topic: str) -> None:
    async with apache_kafka() as kafka:
        await create_topic(kafka.bootstrap, "first", 1)
        async with reading(trigger(kafka, "first"), StandInContext()) as generator:
            pump = asyncio.create_task(take(generator, 1))
            await produce(kafka, "first", [1])
            await pump  # so the first broker coordinates the groups
        async with second_broker(kafka) as second:
            admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
            await admin.start()
            await admin.create_topics([NewTopic(topic, -1, -1, replica_assignments={0: [1], 1: [2]})])
            await admin.close()
            context = StandInContext()
            async with reading(trigger(kafka, topic), context) as generator:
                pumping = asyncio.create_task(settle_all(generator))
                await until(lambda: bool(context.reports) and context.reports[-1][0])
                await second.kill()
                await until(lambda: f"no broker leads {topic}/1," in context.reports[-1][2], 60)
                assert context.reports[-1][1] == "PartitionOffline"
                await second.start()
                await until(lambda: context.reports[-1][0], 60)
                context.stopping.set()
                await pumping


@pytest.mark.timeout(300)  # it starts two brokers, and one of them twice
async def test_a_trigger_begins_with_the_partitions_that_are_led_and_reads_the_others_once_they_are() -> None:
    topic = "partly-led"
    async with apache_kafka() as kafka:
        await create_topic(kafka.bootstrap, "first", 1)
        async with reading(trigger(kafka, "first"), StandInContext()) as generator:
            pump = asyncio.create_task(take(generator, 1))
            await produce(kafka, "first", [1])
            await pump  # so the first broker coordinates the groups
        async with second_broker(kafka) as second:
            admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
            await admin.start()
            await admin.create_topics([NewTopic(topic, -1, -1, replica_assignments={0: [1], 1: [2]})])
            await produce(kafka, topic, [1], partition=1)
            await second.kill()
            await until_unled(admin, topic, 1)  # a source that begins before that may ask the broker that is gone
            await admin.close()
            starts = "earliest", "latest"
            sources = {start: trigger(kafka, topic, start=start, group=f"{start}-{topic}") for start in starts}
            contexts = {start: StandInContext(uid=f"{start}/{topic}") for start in sources}
            found: dict[str, list[str]] = {start: [] for start in starts}
            async with (
                reading(sources["earliest"], contexts["earliest"]) as one,
                reading(sources["latest"], contexts["latest"]) as other,
            ):
                pumps = [
                    asyncio.create_task(collect(one, found["earliest"])),
                    asyncio.create_task(collect(other, found["latest"])),
                ]
                for context in contexts.values():
                    await until(lambda context=context: told(context, f"no broker leads {topic}/1,"), 60)
                    assert context.reports[-1][1] == "PartitionOffline"
                    await until(lambda context=context: is_taken_over(context, TopicPartition(topic, 0)), 60)
                await produce(kafka, topic, [2])
                await until(lambda: all(f"{topic}/0/0" in positions for positions in found.values()), 60)
                await second.start()
                await produce(kafka, topic, [3], partition=1)
                await until(lambda: all(f"{topic}/1/1" in positions for positions in found.values()), 60)
                for context in contexts.values():
                    await until(lambda context=context: context.reports[-1][0], 60)
                    context.stopping.set()
                await asyncio.gather(*pumps)
            assert f"{topic}/1/0" in found["earliest"]
            assert f"{topic}/1/0" not in found["latest"], "it is from before the trigger first ran"


async def until_unled(admin: AIOKafkaAdminClient, topic: str, partition: int) -> None:
    async with asyncio.timeout(60):
        while True:
            with suppress(KafkaError):  # it asked the broker that is gone
                (found,) = await admin.describe_topics([topic])
                if {each["partition"]: each["leader"] for each in found["partitions"]}[partition] == -1:
                    return
            await asyncio.sleep(0.2)


def told(context: StandInContext, text: str) -> bool:
    return bool(context.reports) and text in context.reports[-1][2]


def is_taken_over(context: StandInContext, partition: TopicPartition) -> bool:
    member = _MEMBERS.get((context.uid, context.function))
    return member is not None and partition in member._partitions


async def collect(generator: Generator, positions: list[str]) -> None:
    async for deliveries in generator:
        for delivery in deliveries:
            positions.append(delivery.position or "")
            await delivery.settle(DONE)


@pytest.mark.timeout(240)  # it starts two brokers
async def test_a_broker_that_hangs_stops_the_partitions_that_it_leads_and_no_others(topic: str) -> None:
    settings = ["broker.session.timeout.ms=600000"]  # the cluster counts it in for as long as the test looks
    async with apache_kafka(settings=settings) as kafka:
        await create_topic(kafka.bootstrap, "first", 1)
        contexts = StandInContext(uid="one"), StandInContext(uid="two"), StandInContext(uid="three")
        fine = contexts[0], contexts[2]  # of these one has no partition: both read the only one of a topic
        async with (
            reading(trigger(kafka, "first"), contexts[0]) as generator,
            reading(trigger(kafka, "first"), contexts[2]) as second_generator,
        ):
            pumping = [asyncio.create_task(settle_all(found)) for found in (generator, second_generator)]
            for context in fine:  # the first broker coordinates the groups
                await until(lambda context=context: bool(context.reports) and context.reports[-1][0])
            async with second_broker(kafka) as second:
                assert second.process is not None
                admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
                await admin.start()
                await admin.create_topics([NewTopic(topic, -1, -1, replica_assignments={0: [1], 1: [2]})])
                await admin.close()
                async with reading(trigger(kafka, topic), contexts[1]) as other:
                    pumping_other = asyncio.create_task(settle_all(other))
                    await until(lambda: bool(contexts[1].reports) and contexts[1].reports[-1][0])
                    for context in fine:
                        known = _MEMBERS[context.uid, context.function]._consumer._client.cluster
                        await until(lambda known=known: len(known.brokers()) == 2)
                    second.process.send_signal(signal.SIGSTOP)
                    begun = [len(context.reports) for context in fine]
                    try:
                        await until(lambda: contexts[1].reports[-1][1] == "PartitionOffline", 60)
                        # Half of the looks would ask the second broker first
                        for context, count in zip(fine, begun, strict=True):
                            await until(lambda context=context, count=count: len(context.reports) >= count + 6, 60)
                    finally:
                        second.process.send_signal(signal.SIGCONT)
                    assert f"no answer from broker 2, so nothing arrives from {topic}/1;" in contexts[1].reports[-1][2]
                    for context, count in zip(fine, begun, strict=True):
                        assert set(context.reports[count:]) == {(True, "", "")}
                    await until(lambda: contexts[1].reports[-1][0], 60)
                    contexts[1].stopping.set()
                    await pumping_other
            for context in fine:
                context.stopping.set()
            await asyncio.gather(*pumping)


async def test_a_small_record_is_not_refused_for_the_size_of_others_that_are_sent_with_it(
    kafka: Kafka, topic: str
) -> None:
    """The client sends records together, and brokers refuse all of them."""
    small = f"{topic}-small"
    await create_topic(kafka.bootstrap, small, 1, **{"max.message.bytes": "3000"})
    context = StandInContext(defaults={"kafka": [kafka.bootstrap]})
    letters = KafkaDeadLetters(small, [], None, context)
    await letters.prepare()
    events = [Event(f"{number}", "/s", "t", b"x" * 500) for number in range(40)]
    written = [
        DeadLetter(
            trigger_uid=context.uid, namespace="default", trigger="t", function=context.function,
            position=event.id, event=event, reason="TooOld", message="", failed_at=1.0,
        )
        for event in events
    ]  # fmt: skip
    publisher = await KafkaReply.model_validate({"topic": small, "brokers": [kafka.bootstrap]}).open(context, {})
    try:
        await asyncio.gather(*map(letters.write, written))
        assert await letters.count() == 40
        await asyncio.gather(*(publisher.publish(event, b"k") for event in events))
        await asyncio.gather(*map(letters.remove, written))
        assert await letters.count() == 0
        with pytest.raises(LetterTooLarge, match=r"max\.message\.bytes"):
            await letters.write(replace(written[0], event=replace(events[0], data=b"x" * 4_000)))
    finally:
        await context.close()


async def test_a_reply_that_is_not_published_names_the_topic_and_the_brokers(kafka: Kafka, topic: str) -> None:
    absent, context = f"{topic}-absent", StandInContext()
    publisher = await KafkaReply.model_validate({"topic": absent, "brokers": [kafka.bootstrap]}).open(context, {})
    try:
        with pytest.raises(OSError, match=f"^reply to topic '{absent}' of {kafka.bootstrap}: .*Unknown"):
            await publisher.publish(Event("1", "/s", "t", b"1"), b"k")
    finally:
        await context.close()


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
async def test_the_right_password_connects_and_a_wrong_one_is_reported(mechanism: str) -> None:
    async with apache_kafka(sasl=mechanism) as kafka:
        sasl = {"mechanism": mechanism, "username": SASL_USER, "password": {"name": "kafka", "key": "password"}}
        source = KafkaTrigger.model_validate(
            {
                "function": "f",
                "brokers": [kafka.sasl_bootstrap],
                "topics": ["t"],
                "createTopics": True,
                "security": {"sasl": sasl},
            }
        )
        context = StandInContext(secrets={("kafka", "password"): SASL_PASSWORD})
        await source.prepare(context)
        await produce(kafka, "t", [1])
        async with reading(source, context) as generator:
            assert len(await take(generator, 1)) == 1
        with pytest.raises(SourceError, match=str(kafka.sasl_bootstrap)):
            await source.prepare(StandInContext(secrets={("kafka", "password"): "wrong"}))


async def test_a_connection_that_is_made_while_the_consumer_closes_is_closed_too(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = await open_consumer([kafka.bootstrap], "late", None, StandInContext(), fetch_wait_ms=100)
    (broker,) = consumer._client.cluster.brokers()

    async def late(*arguments: Any, **options: Any) -> Any:
        await asyncio.sleep(0.3)  # so the client is closed by then
        return await create_conn(*arguments, **options)

    monkeypatch.setattr("aiokafka.client.create_conn", late)
    asked = asyncio.create_task(consumer._client.ready(broker.nodeId, group=ConnectionGroup.COORDINATION))
    await asyncio.sleep(0)
    await close_consumer(consumer)
    await asked
    assert not [conn for conn in consumer._client._conns.values() if conn.connected()]
    assert not await consumer._client.ready(broker.nodeId), "a closed client connects no more"


async def test_a_start_that_is_cancelled_leaves_no_connection_open(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    async def cancelling(*arguments: Any, **options: Any) -> Any:
        made.append(await create_conn(*arguments, **options))
        if len(made) == 1:
            opening.cancel()
        return made[-1]

    monkeypatch.setattr("aiokafka.client.create_conn", cancelling)
    opening = asyncio.create_task(
        open_consumer([kafka.bootstrap], "cancelled", None, StandInContext(), fetch_wait_ms=100)
    )
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert made and not [conn for conn in made if conn.connected()]
