"""The KafkaTrigger resource and its consumer."""

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import ClassVar, Literal

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)
from pydantic import Field, field_validator, model_validator

from trigger_sources.context import Context, SourceError
from trigger_sources.dead_letters import DeadLetters
from trigger_sources.delivery import SETTLED, Delivery, Outcome
from trigger_sources.kafka.client import admin_client, brokers_of, create_topics, not_connected
from trigger_sources.kafka.dead_letters import KafkaDeadLetters
from trigger_sources.kafka.events import event_from_record
from trigger_sources.kafka.security import Security, client_arguments
from trigger_sources.kafka.topic_names import TopicNames, subscribe
from trigger_sources.kafka.watermark import Watermark, decode
from trigger_sources.source import Lag, Ordering, Sharing, TriggerSource
from trigger_sources.spec import Brokers

log = logging.getLogger(__name__)

_COMMIT_SECONDS = 0.02  # after a crash, events that settled since the last commit are repeated: keep this short
_COMMIT_SHARE = 0.1  # the largest share of the time that commits take
_COMMIT_MOST_SECONDS = 1.0
_CLOSE_COMMIT_SECONDS = 2.0
_CLOSE_SECONDS = 1.0
_READ_SECONDS = 0.25
_FULL_SECONDS = 0.05
_REVOKE_GRACE_SECONDS = 20.0  # a third of the time that the group waits for this member
_REVOKE_COMMIT_SECONDS = 5.0
_HEALTH_SECONDS = 3.0


class KafkaTrigger(TriggerSource):
    """Calls a function for each record of Kafka topics, in order per key, committed after delivery."""

    sharing: ClassVar[Sharing] = "partitioned"
    default_ordering: ClassVar[Ordering] = "key"
    printer_columns: ClassVar[Mapping[str, str]] = {"Topics": "topics"}

    brokers: Brokers = Field(
        default_factory=list, description="The brokers, each as host:port; unset: the fabric's own"
    )
    topics: list[str] = Field(default_factory=list, description="The topics, by name")
    topic_pattern: str | None = Field(
        None,
        description="A regular expression of RE2; a topic whose whole name matches it is read, also one created later",
    )
    group: str | None = Field(
        None, min_length=1, description="The consumer group; unset: kubeirq.<namespace>.<trigger>.<function>"
    )
    start: str = Field(
        "earliest", description="The place where a group without commits begins: earliest, latest or an RFC 3339 time"
    )
    tombstones: Literal["deliver", "skip"] = Field(
        "deliver", description="Whether records without a value call the function"
    )
    max_distance: int = Field(
        10_000,
        ge=1,
        description="The most records of a partition from the lowest unsettled one to the newest one that was taken",
    )
    create_topics: bool = Field(
        False, description="Whether missing topics are created; on the fabric's own broker they always are"
    )
    security: Security | None = Field(None, description="Encryption and login; unset: plain text, no login")

    @field_validator("topics")
    @classmethod
    def _names(cls, value: list[str]) -> list[str]:
        for topic in value:
            if not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", topic):
                raise ValueError(f"{topic!r} is not a topic: letters, digits, ., _ and -, at most 249")
        return value

    @field_validator("start")
    @classmethod
    def _known_start(cls, value: str) -> str:
        if value not in ("earliest", "latest"):
            _time_of(value)
        return value

    @model_validator(mode="after")
    def _names_topics(self) -> "KafkaTrigger":
        if self.topics and self.topic_pattern:
            raise ValueError("topics and topicPattern: one of them")
        if not self.topics and not self.topic_pattern:
            raise ValueError("topics: at least one topic is needed")
        if self.topic_pattern:
            try:
                TopicNames(self.topic_pattern, None)
            except ValueError as error:
                raise ValueError(f"topicPattern: {error}") from None
        return self

    @property
    def addresses(self) -> Mapping[str, Sequence[str]]:
        return {"kafka": self.brokers}

    async def deliveries(self, context: Context) -> AsyncIterator[Sequence[Delivery]]:
        consumption = _Consumption(self, context)
        try:
            await consumption.start()
            while not context.stopping.is_set():
                deliveries = await consumption.read()
                if deliveries:
                    yield deliveries
        finally:
            await consumption.close()

    async def lag(self, context: Context) -> Lag | None:
        consumption = _CONSUMPTIONS.get((context.uid, context.function))
        return await consumption.lag() if consumption is not None else None

    async def prepare(self, context: Context) -> None:
        """Checks that the topics exist, or creates them if that is allowed."""
        if not self.topics:
            return
        async with admin_client(brokers_of(self.brokers, context), self.security, context) as admin:
            missing = sorted(set(self.topics) - set(await admin.list_topics()))
            if not missing:
                return
            if not self.create_topics and self.brokers:
                raise SourceError("TopicMissing", _missing_text(missing))
            await create_topics(admin, missing)

    def dead_letters(self, context: Context) -> DeadLetters:
        topic = self.delivery.dead_letter.name or f"kubeirq.{context.namespace}.{context.name}.dead-letters"
        return KafkaDeadLetters(topic, self.brokers, self.security, context)


def _missing_text(topics: Sequence[str]) -> str:
    return f"spec.topics: no topic {', '.join(map(repr, topics))}; create it, or set createTopics"


def _time_of(text: str) -> int:
    """Milliseconds since the epoch of an RFC 3339 time. Raises ValueError."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither earliest, latest nor an RFC 3339 time") from None
    if found.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone; end it with Z or an offset")
    return int(found.timestamp() * 1000)


# Running consumptions, for `lag`, which is called while the generator runs.
_CONSUMPTIONS: dict[tuple[str, str], "_Consumption"] = {}


class _Partition:
    """One partition that is assigned to this member."""

    __slots__ = (
        "alive",
        "committed",
        "id_prefix",
        "mark",
        "name",
        "notify",
        "paused",
        "source",
        "tp",
    )

    def __init__(self, tp: TopicPartition, offset: int, settled: set[int], cluster: str, notify: asyncio.Event) -> None:
        self.tp = tp
        self.name = f"{tp.topic}/{tp.partition}"
        self.id_prefix = f"{cluster}/{self.name}/"
        self.source = f"/kafka/{cluster}/{tp.topic}"
        self.mark = Watermark(offset, settled)
        self.committed: tuple[int, str] | None = None
        self.notify = notify
        self.alive = True
        self.paused = False

    def settle(self, offset: int, outcome: Outcome) -> Awaitable[None]:
        if not self.alive:
            raise ConnectionError(f"{self.name} is assigned to another member, or was given up")
        if outcome.final:
            self.mark.settle(offset)
            self.notify.set()
        return SETTLED


class _Consumption(ConsumerRebalanceListener):  # type: ignore[misc]
    """One member of the group, from joined to left."""

    def __init__(self, trigger: KafkaTrigger, context: Context) -> None:
        self._trigger = trigger
        self._context = context
        self._partitions: dict[TopicPartition, _Partition] = {}
        self._settled = asyncio.Event()
        self._commit_lock = asyncio.Lock()
        self._consumer: AIOKafkaConsumer | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._cluster = "kafka"
        self._failed: Exception | None = None  # in a callback of aiokafka, which hides the errors of callbacks
        self._remembered: dict[TopicPartition, Watermark] = {}  # of partitions that were revoked

    async def start(self) -> None:
        trigger, context = self._trigger, self._context
        brokers = brokers_of(trigger.brokers, context)
        group = trigger.group or f"kubeirq.{context.namespace}.{context.name}.{context.function}"
        async with admin_client(brokers, trigger.security, context) as admin:
            self._cluster = (await admin.describe_cluster()).get("cluster_id") or "kafka"
        consumer = AIOKafkaConsumer(
            bootstrap_servers=brokers,
            group_id=group,
            client_id=f"kubeirq-{context.replica}",
            enable_auto_commit=False,
            auto_offset_reset="none",  # this class decides where to begin, and skips nothing silently
            isolation_level="read_committed",  # no records of aborted transactions
            max_poll_interval_ms=86_400_000,  # a full or held flow is not a dead member
            rebalance_timeout_ms=60_000,
            session_timeout_ms=6_000,
            heartbeat_interval_ms=1_000,
            # The embedded broker does not wake a waiting fetch when a record comes; Apache Kafka does
            fetch_max_wait_ms=100 if trigger.brokers else 10,
            request_timeout_ms=20_000,
            metadata_max_age_ms=30_000,
            **await client_arguments(trigger.security, context),
        )
        self._consumer = consumer
        try:
            await consumer.start()
        except (KafkaError, OSError) as error:
            raise not_connected(brokers, trigger.security, error) from error
        if trigger.topic_pattern:
            subscribe(consumer, TopicNames(trigger.topic_pattern, trigger.delivery.dead_letter.name), self)
        else:
            consumer.subscribe(topics=trigger.topics, listener=self)
        context.report(connected=True)
        self._tasks = [asyncio.create_task(self._commit_always()), asyncio.create_task(self._look_after())]
        _CONSUMPTIONS[context.uid, context.function] = self

    async def read(self) -> list[Delivery]:
        """The records of one fetch, at most as many as there is room for."""
        consumer = self._consumer
        assert consumer is not None
        if self._failed is not None:
            raise SourceError("ConsumerFailed", f"no partitions: {self._failed!r}") from self._failed
        room = self._context.room
        if room < 1:
            await asyncio.sleep(_FULL_SECONDS)
            return []
        self._pause_or_resume()
        try:
            found = await consumer.getmany(timeout_ms=int(_READ_SECONDS * 1000), max_records=room)
        except NoOffsetForPartitionError:
            await asyncio.sleep(_FULL_SECONDS)  # the callback of the assignment is about to set the offset
            return []
        except OffsetOutOfRangeError as error:
            await self._out_of_range(error.args[0])
            return []
        except KafkaError as error:
            if not error.retriable:
                raise SourceError("ConsumerFailed", f"{type(error).__name__}: {error}") from error
            await asyncio.sleep(0.2)
            return []
        deliveries: list[Delivery] = []
        skips_tombstones = self._trigger.tombstones == "skip"
        for tp, records in found.items():
            partition = self._partitions.get(tp)
            if partition is None:
                continue  # revoked meanwhile: the member that has it now reads it
            mark, name = partition.mark, partition.name
            for record in records:
                offset = record.offset
                if mark.knows(offset) or (skips_tombstones and record.value is None):
                    mark.skip(offset)
                    self._settled.set()
                    continue
                mark.take(offset, record.timestamp)
                headers = record.headers
                deliveries.append(
                    Delivery(
                        event_from_record(record, partition.id_prefix, partition.source),
                        partial(partition.settle, offset),
                        f"{name}/{offset}",
                        record.key,
                        name,
                        headers=tuple((title, value or b"") for title, value in headers) if headers else (),
                        settles_at_once=True,
                    )
                )
        return deliveries

    async def close(self) -> None:
        """Commits and leaves the group."""
        identity = self._context.uid, self._context.function
        if _CONSUMPTIONS.get(identity) is self:
            del _CONSUMPTIONS[identity]
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        consumer = self._consumer
        if consumer is None:
            return
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_COMMIT_SECONDS):
                    await self._commit()
        finally:
            for partition in self._partitions.values():
                partition.alive = False
            self._partitions.clear()
            await _stop(consumer)

    async def lag(self) -> Lag | None:
        """The lag; its seconds are the age of the oldest record that is taken and not settled."""
        consumer = self._consumer
        if consumer is None or not self._partitions:
            return None
        partitions = dict(self._partitions)
        ends = await consumer.end_offsets(list(partitions))
        marks = {tp: partition.mark for tp, partition in partitions.items()}
        events = sum(max(0, ends[tp] - mark.committable) for tp, mark in marks.items())
        oldest = min((mark.oldest_at for mark in marks.values() if mark.oldest_at is not None), default=None)
        if oldest is not None:
            return Lag(events, max(0.0, time.time() - oldest / 1000), of_share=True)
        return Lag(events, None if events else 0.0, of_share=True)

    # --- the group; aiokafka awaits these while heartbeats go on

    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        partitions = [self._partitions[tp] for tp in revoked if tp in self._partitions]
        if not partitions:
            return
        names = {partition.name for partition in partitions}
        await self._context.withdraw(lambda delivery: delivery.partition in names, _REVOKE_GRACE_SECONDS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_REVOKE_COMMIT_SECONDS):
                await self._commit()
        for partition in partitions:
            partition.alive = False
            # The commit may have failed: a restarted broker no longer knows this member
            self._remembered[partition.tp] = partition.mark
            self._partitions.pop(partition.tp, None)

    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        try:
            await self._take_over(list(assigned))
        except Exception as error:  # noqa: BLE001  aiokafka would ignore it; `read` raises it
            self._failed = error

    async def _take_over(self, assigned: Sequence[TopicPartition]) -> None:
        consumer = self._consumer
        assert consumer is not None
        if not assigned:
            return
        # The consumer's own `committed` hides the metadata; this is the call that it makes
        committed = await consumer._coordinator.fetch_committed_offsets(list(assigned))
        new = []
        for tp in assigned:
            found = committed.get(tp)
            remembered = self._remembered.pop(tp, None)
            if found is None or found.offset < 0:
                new.append(tp)
                continue
            settled = decode(found.offset, found.metadata or "")
            if remembered is not None:
                settled |= remembered.settled_from(found.offset)
            self._partitions[tp] = self._partition(tp, found.offset, settled)
            consumer.seek(tp, found.offset)
        if new:
            await self._begin(new)

    def _partition(self, tp: TopicPartition, offset: int, settled: set[int]) -> _Partition:
        return _Partition(tp, offset, settled, self._cluster, self._settled)

    async def _begin(self, partitions: Sequence[TopicPartition]) -> None:
        """Begins at `start` with partitions that the group has never committed."""
        consumer, start = self._consumer, self._trigger.start
        assert consumer is not None
        if start == "earliest":
            offsets = await consumer.beginning_offsets(partitions)
        else:
            offsets = await consumer.end_offsets(partitions)
        if start not in ("earliest", "latest"):
            found = await consumer.offsets_for_times(dict.fromkeys(partitions, _time_of(start)))
            offsets.update({tp: at.offset for tp, at in found.items() if at is not None})
        for tp, offset in offsets.items():
            self._partitions[tp] = self._partition(tp, offset, set())
            consumer.seek(tp, offset)
        self._settled.set()  # the first commit keeps the place, even if no record comes for a long time

    async def _out_of_range(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Retention deleted the next records: continues at the earliest one, and reports the number of lost records."""
        consumer = self._consumer
        assert consumer is not None
        beginnings = await consumer.beginning_offsets(list(offsets))
        for tp, offset in offsets.items():
            beginning = beginnings[tp]
            if beginning > offset:
                self._context.report_lost(beginning - offset, "Retention")
            old = self._partitions.get(tp)
            if old is not None:
                old.alive = False
            self._partitions[tp] = self._partition(tp, beginning, set())
            consumer.seek(tp, beginning)

    # --- committing

    async def _commit_always(self) -> None:
        clock = asyncio.get_running_loop().time
        pause_seconds = _COMMIT_SECONDS
        while True:
            await self._settled.wait()
            await asyncio.sleep(pause_seconds)
            began = clock()
            try:
                await self._commit()
            except Exception:
                log.exception("commit failed", extra={"trigger": self._context.name})
            pause_seconds = min(_COMMIT_MOST_SECONDS, max(_COMMIT_SECONDS, (clock() - began) / _COMMIT_SHARE))

    async def _commit(self) -> None:
        consumer = self._consumer
        assert consumer is not None
        async with self._commit_lock:
            self._settled.clear()
            wanted: dict[TopicPartition, tuple[int, str]] = {}
            for tp, partition in self._partitions.items():
                snapshot = (partition.mark.committable, partition.mark.metadata())
                if snapshot != partition.committed:
                    wanted[tp] = snapshot
            if not wanted:
                return
            try:
                await consumer.commit(wanted)
            except (CommitFailedError, IllegalStateError) as error:
                # Of an older generation: the member that has the partition now commits
                log.info("commit out of date", extra={"trigger": self._context.name, "error": repr(error)})
                return
            except KafkaError as error:
                log.info("commit not accepted", extra={"trigger": self._context.name, "error": repr(error)})
                self._settled.set()
                return
            for tp, snapshot in wanted.items():
                found = self._partitions.get(tp)
                if found is not None:
                    found.committed = snapshot

    # --- while it runs

    def _pause_or_resume(self) -> None:
        """Pauses partitions that are at `max_distance`, and resumes the others."""
        consumer, bound = self._consumer, self._trigger.max_distance
        assert consumer is not None
        for tp, partition in self._partitions.items():
            full = partition.mark.distance >= bound
            if full != partition.paused and tp in consumer.assignment():
                (consumer.pause if full else consumer.resume)(tp)
                partition.paused = full

    async def _look_after(self) -> None:
        """Checks regularly: the consumer does not tell that no broker answers, or that topics are gone."""
        while True:
            await asyncio.sleep(_HEALTH_SECONDS)
            try:
                await self._look()
            except Exception:
                log.exception("looking after the consumer failed", extra={"trigger": self._context.name})

    async def _look(self) -> None:
        consumer, report = self._consumer, self._context.report
        assert consumer is not None
        try:
            async with asyncio.timeout(_HEALTH_SECONDS):
                answered = await consumer._client.force_metadata_update()
        except (TimeoutError, KafkaError, OSError):
            answered = False
        missing = sorted(topic for topic in self._trigger.topics if not consumer.partitions_for_topic(topic))
        if not answered:
            report(connected=False, reason="NotConnected", message="no broker answers")
        elif missing:
            report(connected=False, reason="TopicMissing", message=_missing_text(missing))
        else:
            report(connected=True)
        self._pass_gaps()

    def _pass_gaps(self) -> None:
        """Passes offsets at a partition's end that hold no record, such as a transaction's markers."""
        consumer = self._consumer
        assert consumer is not None
        assignment = consumer._subscription.subscription and consumer._subscription.subscription.assignment
        for tp, partition in self._partitions.items():
            state = assignment.state_value(tp) if assignment is not None else None
            if state is not None and state.has_valid_position and partition.mark.reach(state.position):
                self._settled.set()


async def _stop(consumer: AIOKafkaConsumer) -> None:
    """Leaves the group, and closes tasks and connections even if no broker answers."""
    # A separate task: while no broker answers, `stop` ends with the CancelledError of a fetch that it cancelled
    stopping = asyncio.create_task(consumer.stop())
    await asyncio.wait({stopping}, timeout=_CLOSE_SECONDS)
    if stopping.done() and not stopping.cancelled() and stopping.exception() is None:
        return
    stopping.cancel()
    coordinator, fetches = consumer._coordinator, list(consumer._fetcher._pending_tasks)
    for fetch in fetches:
        fetch.cancel()
    await asyncio.gather(
        stopping,
        *fetches,
        coordinator._stop_heartbeat_task(),
        coordinator._stop_commit_offsets_refresh_task(),
        consumer._client.close(),
        return_exceptions=True,
    )
