"""Where a Kafka trigger begins: decided once, kept, never taken from one topic for another. On a real Apache Kafka."""

import asyncio
import shutil
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.new_partitions import NewPartitions
from aiokafka.protocol.admin import DeleteGroupsRequest
from aiokafka.structs import OffsetAndMetadata
from servers.kafka import Kafka, apache_kafka, assigned, committed_and_ends, create_topic
from servers.kafka_source import trigger

from trigger_sources.context import SourceError
from trigger_sources.delivery import Delivery, Outcome
from trigger_sources.kafka import KafkaTrigger, consumer, topic_ids
from trigger_sources.kafka.commit_metadata import encode
from trigger_sources.kafka.remembered import forget as forget_memory
from trigger_sources.kafka.reply import KafkaReply
from trigger_sources.kafka.trigger import _MEMBERS
from trigger_sources.testing import StandInContext

DONE = Outcome("delivered")
Generator = AsyncGenerator[Sequence[Delivery], None]
# Written by version 0.1.0: offsets 4, 5 and 8 settled above a committed offset of 3
OLD_METADATA = "k1:AQICAQ=="


async def produce(kafka: Kafka, topic: str, numbers: Sequence[int], partition: int = 0, **more: Any) -> None:
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        for number in numbers:
            await producer.send_and_wait(topic, b"%d" % number, partition=partition, **more)


@asynccontextmanager
async def administration(kafka: Kafka) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def recreate(kafka: Kafka, topic: str) -> None:
    async with administration(kafka) as admin:
        await admin.delete_topics([topic])
    await create_topic(kafka.bootstrap, topic, 1)


async def forget(kafka: Kafka, group: str, topic: str) -> None:
    """The broker's retention of offsets: the group is as if it had never been."""
    async with administration(kafka) as admin, asyncio.timeout(20):
        while any(code for _, code in (await admin._send_request_to_node(1, DeleteGroupsRequest([group]))).results):
            await asyncio.sleep(0.1)
    assert (await committed_and_ends(kafka.bootstrap, group, topic))[0] == {0: 0}


async def commit(kafka: Kafka, group: str, offsets: dict[TopicPartition, OffsetAndMetadata]) -> None:
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap, group_id=group, enable_auto_commit=False)
    consumer.assign(list(offsets))
    async with consumer:
        await consumer.commit(offsets)


class Reader:
    """Runs a trigger's generator; settles what it brings unless told otherwise."""

    def __init__(self, source: KafkaTrigger, context: StandInContext, settles: Callable[[Delivery], bool]) -> None:
        self.context = context
        self.taken: list[Delivery] = []
        self._settles = settles
        self._generator: Any = source.deliveries(context)
        self._pump = asyncio.create_task(self._pumped())

    async def _pumped(self) -> None:
        async with aclosing(self._generator):
            async for deliveries in self._generator:
                self.taken += deliveries
                for delivery in deliveries:
                    if self._settles(delivery):
                        await delivery.settle(DONE)

    @property
    def data(self) -> list[int]:
        return sorted(int(delivery.event.data or b"-1") for delivery in self.taken)

    @property
    def client(self) -> Any:
        return _MEMBERS[self.context.uid, self.context.function]._consumer

    async def connected(self) -> None:
        await self.until(lambda: bool(self.context.reports) and self.context.reports[-1][0])

    async def until(self, happened: Callable[[], bool]) -> None:
        async with asyncio.timeout(40):
            while not happened():
                if self._pump.done():
                    self._pump.result()
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        self.context.stopping.set()
        await self._pump


@asynccontextmanager
async def reader(
    source: KafkaTrigger, context: StandInContext, settles: Callable[[Delivery], bool] = lambda _: True
) -> AsyncIterator[Reader]:
    context.stopping.clear()
    found = Reader(source, context, settles)
    try:
        await found.connected()
        yield found
    finally:
        await found.stop()


async def test_partitions_that_are_added_later_are_read_from_their_beginning(kafka: Kafka, topic: str) -> None:
    await produce(kafka, topic, [1])
    async with reader(trigger(kafka, topic, start="latest"), StandInContext()) as running:
        async with administration(kafka) as admin:
            await admin.create_partitions({topic: NewPartitions(total_count=3)})
        await produce(kafka, topic, range(10, 20), partition=1)
        await produce(kafka, topic, range(20, 30), partition=2)
        await running.until(lambda: len(running.taken) >= 20)
        assert running.data == list(range(10, 30))


@pytest.mark.parametrize("start", ["latest", "2100-01-01T00:00:00Z"])
async def test_topics_that_match_later_are_read_from_their_beginning(kafka: Kafka, topic: str, start: str) -> None:
    source = trigger(kafka, topic, topics=[], topicPattern=f"{topic}-.*", start=start)
    async with reader(source, StandInContext()) as running:
        await create_topic(kafka.bootstrap, f"{topic}-new", 1)
        await produce(kafka, f"{topic}-new", range(10), timestamp_ms=1)
        await running.until(lambda: len(running.taken) >= 10)
        assert running.data == list(range(10))


async def test_two_replicas_decide_the_start_once_before_they_are_connected(kafka: Kafka, topic: str) -> None:
    await create_topic(kafka.bootstrap, f"{topic}-four", 4)
    source = trigger(kafka, f"{topic}-four", start="latest")
    for partition in range(4):
        await produce(kafka, f"{topic}-four", range(5), partition)
    one, two = StandInContext(replica="one"), StandInContext(replica="two")
    two.state = one.state
    async with AsyncExitStack() as stack:
        readers = [Reader(source, context, lambda _: True) for context in (one, two)]
        for running in readers:
            stack.push_async_callback(running.stop)
        await readers[0].connected()
        committed, ends = await committed_and_ends(kafka.bootstrap, f"g-{topic}-four", f"{topic}-four")
        assert committed == ends == dict.fromkeys(range(4), 5)
        for partition in range(4):
            await produce(kafka, f"{topic}-four", range(100 * partition + 100, 100 * partition + 110), partition)
        wanted = sorted(100 * partition + 100 + number for partition in range(4) for number in range(10))
        await readers[0].until(lambda: len({*readers[0].data, *readers[1].data}) == 40)
        assert sorted({*readers[0].data, *readers[1].data}) == wanted


async def test_another_program_that_holds_the_first_partition_and_commits_nothing_is_named(
    kafka: Kafka, topic: str
) -> None:
    async with administration(kafka) as admin:
        await admin.create_partitions({topic: NewPartitions(total_count=2)})
    other = AIOKafkaConsumer(  # its name comes first, and so do its partitions
        topic, bootstrap_servers=kafka.bootstrap, group_id=f"g-{topic}", client_id="a-program", enable_auto_commit=False
    )
    context = StandInContext()
    async with AsyncExitStack() as stack:
        async with other:
            running = Reader(trigger(kafka, topic, start="latest"), context, lambda _: True)
            stack.push_async_callback(running.stop)
            await running.until(lambda: bool(context.reports))
            connected, reason, message = context.reports[-1]
            assert (connected, reason) == (False, "StartUndecided")
            assert message.startswith(
                f"{topic}/0 is held by a-program (127.0.0.1) of consumer group 'g-{topic}', which"
            )
            assert "has not committed spec.start, latest" in message
            assert "stop it, let it commit, or name another spec.group" in message
        await running.connected()
        await produce(kafka, topic, [1])
        await running.until(lambda: running.data == [1])


async def test_records_published_while_a_trigger_with_start_latest_is_away_are_delivered(
    kafka: Kafka, topic: str
) -> None:
    context = StandInContext()
    source = trigger(kafka, topic, start="latest")
    async with reader(source, context):
        pass
    await produce(kafka, topic, range(10))
    async with administration(kafka) as admin:
        await admin.create_partitions({topic: NewPartitions(total_count=2)})
    await produce(kafka, topic, range(10, 20), partition=1)
    async with reader(source, context) as running:
        await running.until(lambda: len(running.taken) >= 20)
        assert running.data == list(range(20))


@pytest.mark.parametrize("start", ["earliest", "latest"])
async def test_a_group_that_the_broker_forgot_goes_on_where_it_was(kafka: Kafka, topic: str, start: str) -> None:
    context = StandInContext()
    source = trigger(kafka, topic, start=start)
    async with reader(source, context, lambda delivery: delivery.event.data != b"3") as running:
        await produce(kafka, topic, range(6))
        await running.until(lambda: len(running.taken) == 6)
    await forget(kafka, f"g-{topic}", topic)
    await produce(kafka, topic, range(10, 20))
    async with reader(source, context) as running:
        await running.until(lambda: len(running.taken) >= 11)
        assert running.data == [3, *range(10, 20)]
        reason, message = context.reports[-1][1:]
        assert reason == "OffsetsForgotten"
        assert f"{topic}/0 from 3" in message


async def test_another_group_begins_at_the_start_again(kafka: Kafka, topic: str) -> None:
    context = StandInContext()
    await produce(kafka, topic, range(5))
    for group in ("one", "two"):
        async with reader(trigger(kafka, topic, group=f"{topic}-{group}"), context) as running:
            await running.until(lambda: len(running.taken) >= 5)
            assert running.data == list(range(5))
    assert context.reports[-1] == (True, "", "")


async def test_a_group_of_version_0_1_is_adopted(kafka: Kafka, topic: str) -> None:
    async with administration(kafka) as admin:
        await admin.create_partitions({topic: NewPartitions(total_count=2)})
    await produce(kafka, topic, range(10))
    await produce(kafka, topic, range(10, 15), partition=1)
    tp = TopicPartition(topic, 0)
    await commit(kafka, f"g-{topic}", {tp: OffsetAndMetadata(3, OLD_METADATA)})
    async with reader(trigger(kafka, topic, start="latest"), StandInContext()) as running:
        await running.until(lambda: len(running.taken) >= 9)
        assert running.data == [3, 6, 7, 9, *range(10, 15)]
        assert {delivery.position for delivery in running.taken} >= {f"{topic}/0/3", f"{topic}/1/0"}
        cluster = running.taken[0].event.id.split("/")[0]
        assert {delivery.event.id for delivery in running.taken} >= {f"{cluster}/{topic}/0/9", f"{cluster}/{topic}/1/4"}


async def test_a_topic_that_was_recreated_while_nobody_read_it(kafka: Kafka, topic: str) -> None:
    context = StandInContext()
    source = trigger(kafka, topic)
    await produce(kafka, topic, range(40))
    async with reader(source, context) as running:
        await running.until(lambda: len(running.taken) == 40)
        old = {delivery.event.id for delivery in running.taken} | {delivery.position for delivery in running.taken}
    await recreate(kafka, topic)
    await produce(kafka, topic, range(100, 160))
    for _ in range(2):  # and once more, from the group's commits
        async with reader(source, context, lambda _: False) as running:
            await running.until(lambda: len(running.taken) >= 60)
            assert running.data == list(range(100, 160))
            assert not old & {delivery.event.id for delivery in running.taken}
            assert not old & {delivery.position for delivery in running.taken}
            assert {delivery.partition for delivery in running.taken} == {f"{topic}/0"}
    assert any(reason == "TopicRecreated" for _, reason, _ in context.reports)


async def test_a_topic_that_is_recreated_with_more_records_than_the_old_position(kafka: Kafka, topic: str) -> None:
    withdrawn: list[Callable[[Delivery], bool]] = []

    async def withdraw(lost: Callable[[Delivery], bool], grace_seconds: float) -> None:
        withdrawn.append(lost)

    context = StandInContext(on_withdraw=withdraw)
    await produce(kafka, topic, range(40))
    async with reader(trigger(kafka, topic), context, lambda delivery: delivery.event.data != b"7") as running:
        await running.until(lambda: len(running.taken) == 40)
        await recreate(kafka, topic)
        await produce(kafka, topic, range(100, 185))
        await running.until(lambda: set(running.data) >= set(range(100, 185)))
        (old,) = [delivery for delivery in running.taken if delivery.event.data == b"7"]
        (new,) = [delivery for delivery in running.taken if delivery.event.data == b"107"]
        assert old.position == f"{topic}/0/7"
        assert new.position != old.position
        assert new.event.id != old.event.id
        assert withdrawn[0](old)
        assert context.lost == [(1, "TopicRecreated")]
        with pytest.raises(ConnectionError):
            await old.settle(DONE)
        reason, message = context.reports[-1][1:]
        assert reason == "TopicRecreated"
        assert "1 records of the old topic" in message


@pytest.mark.parametrize("seen", [True, False])
async def test_a_topic_that_is_created_again_where_topics_have_no_ids(
    kafka: Kafka, topic: str, monkeypatch: pytest.MonkeyPatch, seen: bool
) -> None:
    """`seen`: the member sees that it is missing. All records come, or a message says that some may be missing."""
    monkeypatch.setattr(topic_ids._MetadataRequest, "API_VERSION", 99)  # no broker knows this one
    context = StandInContext()
    await produce(kafka, topic, range(40))
    async with reader(trigger(kafka, topic), context) as running:
        await running.until(lambda: len(running.taken) == 40)
        async with administration(kafka) as admin:
            await admin.delete_topics([topic])
            if seen:
                await running.until(lambda: context.reports[-1][1] == "TopicMissing")
            async with asyncio.timeout(20):
                while topic in await admin.list_topics():
                    await asyncio.sleep(0.02)
        await create_topic(kafka.bootstrap, topic, 1)
        await produce(kafka, topic, numbers := range(100, 160) if seen else range(100, 120))
        told = ("TopicRecreated", "Truncated", *(["TopicMaybeRecreated"] if seen else []))

        def all_or_told() -> bool:
            new = running.data[40:]
            goes_on = context.reports[-1][1] == "TopicMaybeRecreated" and new == list(range(140, 160))
            return context.reports[-1][1] in told and (goes_on or new == list(numbers))

        await running.until(all_or_told)


async def test_a_commit_of_the_old_topic_is_no_place_of_the_new_one(kafka: Kafka, topic: str) -> None:
    """A member that did not notice yet commits the old place to the new topic."""
    context = StandInContext()
    source = trigger(kafka, topic)
    await produce(kafka, topic, range(40))
    async with reader(source, context) as running:
        await running.until(lambda: len(running.taken) == 40)
    async with administration(kafka) as admin:
        offsets = await admin.list_consumer_group_offsets(f"g-{topic}")
    await recreate(kafka, topic)
    await produce(kafka, topic, range(100, 160))
    await commit(kafka, f"g-{topic}", offsets)
    async with reader(source, context) as running:
        await running.until(lambda: len(running.taken) >= 60)
        assert running.data == list(range(100, 160))


async def test_a_place_behind_the_end_is_reported_and_what_settled_is_not_lost(kafka: Kafka, topic: str) -> None:
    context = StandInContext()
    await produce(kafka, topic, range(10))
    # Everything before 50 settled, and above it 51 and 52
    place = OffsetAndMetadata(50, encode(50, [51, 52]))
    await commit(kafka, f"g-{topic}", {TopicPartition(topic, 0): place})
    async with reader(trigger(kafka, topic), context) as running:
        await running.until(lambda: len(running.taken) >= 10)
        assert context.lost == [(1, "Truncation")]
        assert context.reports[-1] == (
            True,
            "Truncated",
            f"{topic}/0 ends at 10, and was read up to 50: the brokers lost records; up to 1 known ones were not"
            " delivered, and newer ones may be missing; it is read again from its beginning, 0",
        )


@pytest.mark.timeout(180)  # it starts a broker
async def test_records_that_a_cut_log_lost_before_they_were_delivered_are_counted(topic: str) -> None:
    """The records that come after that have the offsets of those that are lost. They are delivered, too."""
    context = StandInContext()
    async with apache_kafka() as kafka:
        await create_topic(kafka.bootstrap, topic, 1)
        await produce(kafka, topic, range(7))
        async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
            for _ in range(3):  # the client fetches one of these at a time
                await producer.send_and_wait(topic, b"1" * 900_000, partition=0)
        source = trigger(kafka, topic, maxDistance=7)
        async with reader(source, context, lambda delivery: delivery.event.data not in (b"0", b"2", b"5")) as running:
            await running.until(lambda: len(running.taken) == 7)
            await running.until(lambda: TopicPartition(topic, 0) in running.client._fetcher._records)
            await kafka.kill()
            kafka.cut(topic, 4)
            await running.taken[0].settle(DONE)  # now the one that is fetched can be taken
            await running.until(lambda: len(running.taken) == 8)
            await kafka.start()
            await running.until(lambda: len(running.taken) >= 9)
            # Held: 2, which comes again, and 5, which does not. Known from the broker's answers: 8 and 9, unless a
            # rebalance came first, after a session that ended while the broker was away
            ((lost, _),) = context.lost
            assert context.lost == [(lost, "Truncation")] and lost in (3, 1)
            connected, reason, message = context.reports[-1]
            assert (connected, reason) == (True, "Truncated")
            assert message.startswith(
                f"{topic}/0 has other records, or none, from 4 on, and was read up to 8: the brokers lost records; up"
                f" to {lost} known ones were not delivered, and newer ones may be missing; reading goes on at "
            )
            assert {withdrawn(running.taken[2]) for withdrawn in context.withdrawn} == {True}  # also in a rebalance
            await produce(kafka, topic, range(104, 107))
            await running.until(lambda: any(delivery.event.data == b"106" for delivery in running.taken))
            again = [int(delivery.event.data or b"") for delivery in running.taken[8:]]
            assert list(dict.fromkeys(again)) == [2, 104, 105, 106]  # 2 once more after a rebalance


@pytest.mark.timeout(180)  # it starts a broker
async def test_new_records_at_the_offsets_of_settled_ones_that_a_cut_log_lost_are_delivered(topic: str) -> None:
    """The commit is within the log then, and only the settled records above it are not."""
    async with apache_kafka() as kafka:
        await create_topic(kafka.bootstrap, topic, 1)
        await produce(kafka, topic, range(8))
        source = trigger(kafka, topic)
        async with reader(source, StandInContext(), lambda found: found.event.data not in (b"2", b"5")) as running:
            await running.until(lambda: len(running.taken) == 8)
        await kafka.kill()
        kafka.cut(topic, 4)
        await kafka.start()
        await produce(kafka, topic, [104])
        context = StandInContext()
        async with reader(source, context) as running:
            await running.until(lambda: len(running.taken) == 2)
            assert context.lost == [(1, "Truncation")]  # that is 5
            assert context.reports[-1][1] == "Truncated"
            await produce(kafka, topic, range(105, 110))
            await running.until(lambda: len(running.taken) == 7)
            assert [int(delivery.event.data or b"") for delivery in running.taken] == [2, *range(104, 110)]


@pytest.mark.timeout(240)  # it starts a broker, twice
async def test_a_log_that_was_cut_and_has_grown_past_the_place_is_read_from_where_it_was_cut(topic: str) -> None:
    """As after a restore of a broker. The epochs of leaders show it; nothing below the cut is repeated."""
    async with apache_kafka() as kafka:
        await create_topic(kafka.bootstrap, topic, 1)
        await produce(kafka, topic, range(10))
        source, context = trigger(kafka, topic), StandInContext()
        unsettled = (b"2", b"7")
        async with reader(source, context, lambda found: found.event.data not in unsettled) as running:
            await running.until(lambda: len(running.taken) == 10)
        await kafka.kill()
        kafka.cut(topic, 5)
        await kafka.start()
        await produce(kafka, topic, range(105, 120))
        after = StandInContext(state=context.state)
        async with reader(source, after) as found:
            await found.until(lambda: len(found.taken) >= 16)
            assert found.data == [2, *range(105, 120)]
            assert after.lost == [(1, "Truncation")]  # that is 7
            assert after.reports[-1] == (
                True,
                "Truncated",
                f"{topic}/0 has other records, or none, from 5 on, and was read up to 10: the brokers lost records; up"
                " to 1 known ones were not delivered, and newer ones may be missing; reading goes on at 2",
            )
        async with reader(source, StandInContext(state=context.state)) as found:
            await produce(kafka, topic, [120])
            await found.until(lambda: bool(found.taken))
            assert found.data == [120]


@pytest.mark.timeout(240)  # it starts a broker, three times
async def test_a_restored_log_whose_new_records_have_an_epoch_again_is_read_from_its_beginning(topic: str) -> None:
    """The epoch's end would otherwise hide the new records before it."""
    async with apache_kafka() as kafka:
        await create_topic(kafka.bootstrap, topic, 1)
        await produce(kafka, topic, range(5))
        await kafka.stop()
        shutil.copytree(kafka.folder / "data", kafka.folder / "backup")
        await kafka.start()
        await produce(kafka, topic, range(5, 10))
        source, context = trigger(kafka, topic), StandInContext()
        async with reader(source, context) as running:
            await running.until(lambda: len(running.taken) == 10)
        await kafka.kill()
        shutil.rmtree(kafka.folder / "data")
        shutil.move(kafka.folder / "backup", kafka.folder / "data")
        await kafka.start()
        await produce(kafka, topic, range(105, 108))
        after = StandInContext(state=context.state)
        async with reader(source, after) as found:
            await found.until(lambda: len(found.taken) >= 8)
            assert found.data == [*range(5), *range(105, 108)]
            assert after.lost == []
            assert after.reports[-1][1] == "Truncated"
            assert "from 8 on, and maybe before, and was read up to 10" in after.reports[-1][2]


@pytest.mark.timeout(240)  # it starts a broker, twice
async def test_a_member_that_reads_finds_out_that_the_log_was_cut_and_has_grown_past_it(topic: str) -> None:
    async with apache_kafka() as kafka:
        await create_topic(kafka.bootstrap, topic, 1)
        await produce(kafka, topic, range(10))
        context = StandInContext()
        unsettled = (b"2", b"7")
        async with reader(trigger(kafka, topic), context, lambda one: one.event.data not in unsettled) as running:
            await running.until(lambda: len(running.taken) == 10)
            grown = asyncio.Event()
            send = running.client._client.send

            async def send_later(*arguments: Any, **more: Any) -> Any:
                await grown.wait()
                return await send(*arguments, **more)

            running.client._client.send = send_later
            await kafka.kill()
            kafka.cut(topic, 5)
            await kafka.start()
            await produce(kafka, topic, range(105, 120))
            grown.set()
            await running.until(lambda: running.data[-1] == 119)
            again = [int(delivery.event.data or b"") for delivery in running.taken[10:]]
            assert list(dict.fromkeys(again)) == [2, *range(105, 120)]  # 2 once more if the group rebalanced as well
            assert context.lost == [(1, "Truncation")]  # that is 7
            assert context.reports[-1][1] == "Truncated"
            assert any(withdrawn(running.taken[7]) for withdrawn in context.withdrawn)


@pytest.mark.timeout(240)  # it starts a broker
@pytest.mark.parametrize("is_another_process", [True, False])
async def test_a_record_that_waited_and_was_compacted_is_reported(topic: str, is_another_process: bool) -> None:
    """The lane of `a` is parked, while the records behind it settle."""
    compacts = {"cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.01"}
    async with apache_kafka(settings=["log.cleaner.backoff.ms=200"]) as kafka:
        await create_topic(kafka.bootstrap, topic, 1, **compacts)
        await produce(kafka, topic, [1], key=b"b")
        await produce(kafka, topic, [2], key=b"a")
        await produce(kafka, topic, [3], key=b"c")
        source, context = trigger(kafka, topic), StandInContext(uid=topic)
        async with reader(source, context, lambda found: found.event.data != b"2") as running:
            await running.until(lambda: running.data == [1, 2, 3])
        await produce(kafka, topic, [4], key=b"a")
        async with asyncio.timeout(60):
            while 1 in await offsets_in(kafka, topic):
                await produce(kafka, topic, [5], key=b"d")  # a segment ends when a record comes
        last = (await offsets_in(kafka, topic))[-1]
        if is_another_process:
            forget_memory(context.uid, context.function)
        context = StandInContext(uid=topic, state=context.state)
        async with reader(source, context) as running:
            await running.until(lambda: {found.position for found in running.taken} >= {f"{topic}/0/{last}"})
            assert running.data[:1] == [4]
            await running.until(lambda: bool(context.lost))
            assert context.lost == [(1, "RecordsCompacted")]
            connected, reason, message = context.reports[-1]
            assert (connected, reason) == (True, "RecordsCompacted")
            assert f"{topic}/0: 1 records that were taken and not settled" in message
        committed, ends = await committed_and_ends(kafka.bootstrap, f"g-{topic}", topic)
        assert committed == ends
        context = StandInContext(uid=topic, state=context.state)
        async with reader(source, context) as running:
            await produce(kafka, topic, [6], key=b"e")
            await running.until(lambda: running.data == [6])
            assert context.lost == []


async def offsets_in(kafka: Kafka, topic: str) -> list[int]:
    """The offsets of the records that the partition has."""
    async with AIOKafkaConsumer(topic, bootstrap_servers=kafka.bootstrap, auto_offset_reset="earliest") as client:
        end = (await client.end_offsets([TopicPartition(topic, 0)]))[TopicPartition(topic, 0)]
        found: list[int] = []
        while not found or found[-1] < end - 1:
            found.append((await client.getone()).offset)
        return found


async def test_a_member_that_was_stopped_past_its_session_starts_nothing_when_it_wakes(
    kafka: Kafka, topic: str
) -> None:
    context = StandInContext()
    async with reader(trigger(kafka, topic), context) as running:
        assert context.may_start()
        time.sleep(6.5)  # noqa: ASYNC251  the whole process stands still, as under SIGSTOP
        assert not context.may_start()
        await running.until(context.may_start)


async def test_a_flow_that_takes_nothing_for_very_long_goes_on_afterwards(
    kafka: Kafka, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client leaves the group then: the function may have been down for a long weekend."""
    monkeypatch.setattr(consumer, "_MOST_IDLE_MS", 1_500)
    await produce(kafka, topic, [1])
    source = trigger(kafka, topic)
    async with reader(source, StandInContext()) as running:  # an error of the first read would keep the member active
        await running.until(lambda: running.data == [1])
    await produce(kafka, topic, [2])
    generator: Any = source.deliveries(StandInContext())
    async with aclosing(generator), asyncio.timeout(60):
        await (await anext(generator))[0].settle(DONE)
        while await assigned(kafka.bootstrap, f"g-{topic}"):
            await asyncio.sleep(0.2)
        await produce(kafka, topic, [3])
        (following,) = await anext(generator)
        assert following.event.data == b"3"


@pytest.mark.parametrize("stalled", [False, True])
async def test_a_topic_that_is_created_again_with_fewer_partitions(kafka: Kafka, topic: str, stalled: bool) -> None:
    """Held events of every old partition are lost, and that number is reported. `stalled`: nobody sees it missing."""
    name = f"{topic}-four"
    await create_topic(kafka.bootstrap, name, 4)
    for partition in range(4):
        await produce(kafka, name, [10 * partition, 10 * partition + 1], partition)
    context = StandInContext()
    async with reader(trigger(kafka, name), context, lambda delivery: delivery.event.data[-1:] != b"1") as running:
        await running.until(lambda: len(running.taken) == 8)
        async with administration(kafka) as admin:
            await admin.delete_topics([name])
            if not stalled:
                await running.until(lambda: context.reports[-1][1] == "TopicMissing")
            async with asyncio.timeout(20):
                while name in await admin.list_topics():
                    await asyncio.sleep(0.02)
        await create_topic(kafka.bootstrap, name, 2)
        for partition in range(2):
            await produce(kafka, name, [100 + 10 * partition, 101 + 10 * partition], partition)
        await running.until(lambda: running.data[8:] == [100, 101, 110, 111])
        assert context.lost == [(4, "TopicRecreated")]


async def test_a_source_that_ends_withdraws_what_it_holds_before_it_leaves(kafka: Kafka, topic: str) -> None:
    seen: list[tuple[bool, bool]] = []

    async def withdraw(lost: Callable[[Delivery], bool], grace_seconds: float) -> None:
        async with administration(kafka) as admin:
            (group,) = (await admin.describe_consumer_groups([f"g-{topic}"]))[0].groups
        seen.append((lost(held[0]), bool(group[5])))
        await held[0].settle(DONE)

    await produce(kafka, topic, range(2))
    generator: Any = trigger(kafka, topic).deliveries(StandInContext(on_withdraw=withdraw))
    held: list[Delivery] = []
    async with aclosing(generator):
        while len(held) < 2:
            held += await anext(generator)
    assert seen == [(True, True)]  # it was still a member of the group
    assert (await committed_and_ends(kafka.bootstrap, f"g-{topic}", topic))[0] == {0: 1}


async def test_partitions_get_turns(kafka: Kafka, topic: str) -> None:
    await create_topic(kafka.bootstrap, f"{topic}-four", 4)
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, linger_ms=50) as producer:
        for partition in range(4):
            pending = [await producer.send(f"{topic}-four", b"%d" % n, partition=partition) for n in range(4_000)]
            await asyncio.gather(*pending)
    context = StandInContext(room=100)
    generator: Any = trigger(kafka, f"{topic}-four").deliveries(context)
    async with aclosing(generator):
        taken: list[Delivery] = []
        while len({delivery.partition for delivery in taken}) < 4:
            taken += await anext(generator)
        # The four are fetched by one request, or by two: from then on each read brings some of all
        assert len(taken) <= 300
        found = await anext(generator)
        assert sorted({delivery.partition or "" for delivery in found}) == [f"{topic}-four/{n}" for n in range(4)]


async def test_a_read_does_not_go_beyond_the_distance(kafka: Kafka, topic: str) -> None:
    await produce(kafka, topic, range(30))
    async with reader(trigger(kafka, topic, maxDistance=10), StandInContext(), lambda _: False) as running:
        await running.until(lambda: len(running.taken) >= 10)
        await produce(kafka, topic, [30])
        assert running.data == list(range(10))
        for delivery in list(running.taken):
            await delivery.settle(DONE)
        await running.until(lambda: len(running.taken) >= 20)
        assert running.data == list(range(20))


async def test_records_that_no_process_survived_say_how_often_they_were_handed_out(kafka: Kafka, topic: str) -> None:
    await produce(kafka, topic, range(3))
    context = StandInContext()
    counts = []
    for _ in range(3):
        generator: Any = trigger(kafka, topic).deliveries(context)
        held: list[Delivery] = []
        while len(held) < 3:
            held += await anext(generator)
        counts.append([delivery.handed_out for delivery in held])
        async with administration(kafka) as admin:
            crashed = await admin.list_consumer_group_offsets(f"g-{topic}")
        await generator.aclose()
        await commit(kafka, f"g-{topic}", crashed)  # a process that is killed leaves this commit
    assert counts == [[1, 1, 1], [2, 2, 2], [3, 3, 3]]
    for _ in range(2):  # an orderly end begins anew
        async with reader(trigger(kafka, topic), context, lambda _: False) as running:
            await running.until(lambda: len(running.taken) == 3)
    assert [delivery.handed_out for delivery in running.taken] == [1, 1, 1]


async def test_a_missing_topic_is_created_only_on_the_fabrics_own_broker(kafka: Kafka, topic: str) -> None:
    source = KafkaTrigger.model_validate({"function": "f", "topics": [f"{topic}-missing"]})
    reply = KafkaReply(topic=f"{topic}-reply")
    others = StandInContext(defaults={"kafka": [kafka.bootstrap]})
    for _ in range(2):  # the first attempt did not create it either
        with pytest.raises(SourceError, match=f"no topic '{topic}-missing'; create it, or set createTopics"):
            await source.prepare(others)
        with pytest.raises(SourceError, match=f"no topic '{topic}-reply'; create it"):
            await reply.open(others, {})
    own = StandInContext(defaults={"kafka": [kafka.bootstrap]}, own_servers=("kafka",))
    await source.prepare(own)
    await reply.open(own, {})
    await own.close()
    async with administration(kafka) as admin:
        async with asyncio.timeout(20):  # a broker learns of a new topic a moment after it was created
            while not {f"{topic}-missing", f"{topic}-reply"} <= set(await admin.list_topics()):
                await asyncio.sleep(0.05)
