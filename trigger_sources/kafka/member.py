"""One member of a Kafka trigger's consumer group: takes partitions over, reads them, and gives them up."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)

from trigger_sources.context import Context, SourceError
from trigger_sources.delivery import Delivery
from trigger_sources.kafka.answers import Answers
from trigger_sources.kafka.beginnings import Beginnings
from trigger_sources.kafka.commits import Commits
from trigger_sources.kafka.cut_logs import Cut, Known, begin_in_what_is_left, cuts
from trigger_sources.kafka.events import event_from_record
from trigger_sources.kafka.fetching import Fetching
from trigger_sources.kafka.first_start import FirstStart
from trigger_sources.kafka.health import Health
from trigger_sources.kafka.kept_places import KeptPlaces
from trigger_sources.kafka.leader_epochs import watch_epochs
from trigger_sources.kafka.leaders import NO_LEADER, end_offsets, first_offsets
from trigger_sources.kafka.letter_topics import LetterTopics
from trigger_sources.kafka.notices import Moved, Notices, compacted, deleted, forgotten, maybe_recreated, recreated
from trigger_sources.kafka.partition import Partition
from trigger_sources.kafka.places import Beginning, Place
from trigger_sources.kafka.remembered import Remembered, memory_of, remembered
from trigger_sources.kafka.retrying import patiently
from trigger_sources.kafka.session import Session
from trigger_sources.kafka.topic_ids import present_ids
from trigger_sources.kafka.unread import Unread, unread
from trigger_sources.kafka.watermark import Watermark
from trigger_sources.source import Lag

log = logging.getLogger(__name__)

SESSION_SECONDS = 6.0
_CLOSE_GRACE_SECONDS = 5.0
_CLOSE_COMMIT_SECONDS = 4.0
_READ_SECONDS = 0.25
_FULL_SECONDS = 0.05
_REVOKE_GRACE_SECONDS = 20.0  # a third of the time that the group waits for this member
_REVOKE_COMMIT_SECONDS = 5.0
_RECREATED_GRACE_SECONDS = 5.0
_HEALTH_SECONDS = 3.0
_KEEP_SECONDS = 60.0
_FOLLOW_SECONDS = 1.0  # until leaders that gave no answer are asked again
_SUSPECTS_BESIDE_CONCURRENCY = 64
_UNBOUNDED = 1_000_000


class Member(ConsumerRebalanceListener):  # type: ignore[misc]
    """From joined to left. `topics` are those that must exist, `max_distance` and the others the trigger's fields."""

    def __init__(
        self,
        context: Context,
        *,
        cluster: str,
        group: str,
        topics: Sequence[str],
        by_pattern: bool = False,
        start: str,
        former: Mapping[TopicPartition, Place] | None = None,
        max_distance: int,
        skips_tombstones: bool,
        concurrency: int,
    ) -> None:
        self._context = context
        self._cluster = cluster
        self._group = group
        self._topics = topics
        self._start = start
        self._former = former
        self._max_distance = max_distance
        self._skips_tombstones = skips_tombstones
        self._letter_topics = LetterTopics() if by_pattern else None
        self._suspects = concurrency + _SUSPECTS_BESIDE_CONCURRENCY
        self._partitions: dict[TopicPartition, Partition] = {}
        self._commits = Commits(context.name, self._partitions, self._commits_are_refused)
        self._settled = self._commits.settled
        self._tasks: list[asyncio.Task[None]] = []
        self._assigned: set[TopicPartition] = set()
        self._taking_over: asyncio.Task[None] | None = None
        self._joined = False  # every partition of the first assignment was taken over
        self._failed: Exception | None = None  # in a task beside `read`, which raises it
        self._unread = Unread()
        self._undecided = ""  # why nobody has decided yet where to begin
        self._remembered = memory_of(context.uid, context.function, f"{cluster}/{group}")
        self._gone: set[TopicPartition] = set()  # of topics that were deleted
        self._missing: set[TopicPartition] = set()  # of topics without ids that were not there at the last look
        # The epochs of leaders whose first records were fetched: none is taken until the log is known not to be cut
        self._new_leaders: dict[TopicPartition, int] = {}
        # Partitions whose leader did not tell at the beginning whether they were cut, as they were known then
        self._unchecked: dict[TopicPartition, Known] = {}
        self._following: asyncio.Task[None] | None = None
        self._follow_at = 0.0
        self._kept = KeptPlaces(context, f"{cluster}/{group}")
        self._kept_at = time.monotonic()
        self._notices = Notices()
        self._deleted = 0  # records that were deleted before they were read
        self._session = Session(SESSION_SECONDS)

    async def join(self, consumer: AIOKafkaConsumer, subscribe: Callable[[ConsumerRebalanceListener], None]) -> None:
        """Joins with a consumer that is started. The caller closes it after `leave`."""
        self._consumer = self._commits.consumer = consumer
        await self._kept.look()
        first_start = FirstStart(consumer, self._kept, self._start, self._former, undecided=self._report_undecided)
        self._beginnings = Beginnings(consumer, self._kept, first_start)
        self._fetching = Fetching(consumer, self._most)
        self._health = Health(consumer, self._group, self._topics, self._max_distance)
        self._answers = Answers(consumer)
        self._session.on_renewed = self._context.start_only_while(self._session.lasts)
        self._session.watch(consumer)
        watch_epochs(consumer, self._fetched)
        subscribe(self)
        self._tasks = [asyncio.create_task(self._commits.run()), asyncio.create_task(self._look_after())]

    # --- reading

    async def read(self) -> list[Delivery]:
        """The next records, at most as many as there is room for."""
        if self._failed is not None:
            raise SourceError("ConsumerFailed", f"no partitions: {self._failed!r}") from self._failed
        is_busy = self._is_taking_over or _runs(self._following)
        if self._new_leaders and not is_busy and time.monotonic() >= self._follow_at:
            self._following = asyncio.create_task(self._until_taken_over(self._follow_leaders))
        room = self._context.room
        if room < 1:
            await asyncio.sleep(_FULL_SECONDS)
            return []
        try:
            fetched = await self._fetching.read(room, _READ_SECONDS)
        except NoOffsetForPartitionError:
            await asyncio.sleep(_FULL_SECONDS)  # taking over is about to set the offset
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
        for tp, records in fetched:
            partition = self._partitions.get(tp)
            if partition is None or not partition.reads:
                continue  # not taken over yet, or revoked meanwhile: it is read again from its place
            if partition.waiting:
                self._find_compacted(partition, records, records[-1].offset + 1)
            if self._letter_topics is not None:
                records = self._without_letters(self._letter_topics, partition, records)
            taken = self._taken(partition, records)
            deliveries += partition.suspected(taken) if partition.suspects else taken
        return deliveries

    def _taken(self, partition: Partition, records: Sequence[Any]) -> list[Delivery]:
        deliveries = []
        mark, name, position, skips_tombstones = (
            partition.mark, partition.name, partition.position, self._skips_tombstones,
        )  # fmt: skip
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
                    f"{position}{offset}",
                    record.key,
                    name,
                    headers=tuple((title, value or b"") for title, value in headers) if headers else (),
                    settles_at_once=True,
                )
            )
        return deliveries

    def _without_letters(
        self, letter_topics: LetterTopics, partition: Partition, records: Sequence[Any]
    ) -> Sequence[Any]:
        events = letter_topics.events(partition.tp.topic, records)
        if len(events) < len(records):
            of_events = {record.offset for record in events}
            for record in records:
                if record.offset not in of_events:
                    partition.mark.skip(record.offset)
            self._settled.set()
            if notice := letter_topics.notice():
                self._notices.add(notice)
                self._report_connected()
        return events

    def _find_compacted(self, partition: Partition, records: Sequence[Any], position: int) -> None:
        lost = partition.compacted(records, position)
        if lost:
            self._context.report_lost(lost, "RecordsCompacted")
            self._notices.add(compacted(partition.tp, lost, partition.place.offset))
            self._report_connected()

    def _most(self, tp: TopicPartition) -> int:
        """How many records of a partition may be taken. Those of partitions that are not read here are thrown away."""
        partition = self._partitions.get(tp)
        if partition is None or not partition.reads:
            return _UNBOUNDED
        if tp in self._new_leaders:
            return 0
        return self._max_distance - partition.mark.distance

    async def lag(self) -> Lag | None:
        """The lag; its seconds are the age of the oldest record that is taken and not settled."""
        if not self._partitions:
            return None
        partitions = dict(self._partitions)
        ends, silent = await end_offsets(self._consumer, partitions)
        for tp in silent:  # the end as it was when records came last
            state = self._client_state(tp)
            ends[tp] = max(partitions[tp].mark.end, (state and state.highwater) or 0)
        marks = {tp: partition.mark for tp, partition in partitions.items()}
        events = sum(mark.behind(ends[tp]) for tp, mark in marks.items())
        oldest = min((mark.oldest_at for mark in marks.values() if mark.oldest_at is not None), default=None)
        if oldest is not None:
            return Lag(events, max(0.0, time.time() - oldest / 1000), of_share=True)
        return Lag(events, None if events else 0.0, of_share=True)

    @property
    def uncommitted(self) -> int:
        """How many records settled since the last commits, at most."""
        return sum(partition.uncommitted for partition in self._partitions.values())

    async def leave(self) -> None:
        """Withdraws the events that are held, so that no other member runs their keys at the same time, and commits."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stop_taking_over()
        partitions = list(self._partitions.values())
        if partitions and not self._context.stopping.is_set():  # a flow that stops has settled or returned them
            await self._withdraw(partitions, _CLOSE_GRACE_SECONDS)
        for partition in partitions:
            partition.leaves = True
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_COMMIT_SECONDS):
                    await asyncio.gather(self._commits.commit(), self._keep())
        finally:
            for partition in partitions:
                partition.alive = False
                if partition.reads and partition.snapshot() != partition.committed:
                    self._remember(partition)
            self._partitions.clear()
            self._context.start_only_while(lambda: True)

    async def _withdraw(self, partitions: Collection[Partition], grace_seconds: float) -> None:
        names = {partition.name for partition in partitions}
        await self._context.withdraw(lambda delivery: delivery.partition in names, grace_seconds)

    # --- the group; aiokafka awaits these two, without heartbeats while it awaits the second one

    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        await self._stop_taking_over()
        self._assigned.difference_update(revoked)
        partitions = [self._partitions[tp] for tp in revoked if tp in self._partitions]
        if not partitions:
            return
        await self._withdraw(partitions, _REVOKE_GRACE_SECONDS)
        for partition in partitions:
            partition.leaves = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_REVOKE_COMMIT_SECONDS):
                await self._commits.commit()
        for partition in partitions:
            partition.alive = False
            if partition.reads:  # the commit may have failed: a restarted broker no longer knows this member
                self._remember(partition)
            self._partitions.pop(partition.tp, None)
            self._new_leaders.pop(partition.tp, None)
            self._unchecked.pop(partition.tp, None)

    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        self._session.renew(time.monotonic())
        self._commits.accepted()  # the next commit tells more
        await self._stop_taking_over()
        self._assigned = set(assigned)
        self._undecided = ""
        self._fetching.bound(self._context.read_ahead_bytes, len(assigned))
        self._take_over_in_a_task(partial(self._take_over, list(assigned)))

    def _take_over_in_a_task(self, work: Callable[[], Awaitable[None]]) -> None:
        self._taking_over = asyncio.create_task(self._until_taken_over(work))

    @property
    def _is_taking_over(self) -> bool:
        return _runs(self._taking_over)

    async def _stop_taking_over(self) -> None:
        tasks = [task for task in (self._taking_over, self._following) if task is not None]
        self._taking_over = self._following = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _until_taken_over(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except (CommitFailedError, IllegalStateError) as error:
            # The group has assigned its partitions anew, or is about to
            log.info("assignment out of date", extra={"trigger": self._context.name, "error": repr(error)})
            self._unread.refused(error)
        except Exception as error:  # noqa: BLE001  `read` raises it
            self._failed = error

    async def _take_over(self, assigned: Sequence[TopicPartition]) -> None:
        """Takes over those partitions whose leaders tell where to begin. A later look finds the others."""
        await self._forget_what_others_have({*self._assigned, *assigned})
        beginnings = await self._beginnings.of(assigned)
        self._undecided = ""
        moved = self._unnamed({tp: at for tp, at in beginnings.items() if tp in self._gone and not at.place.topic_id})
        again = {tp: beginning for tp, beginning in beginnings.items() if beginning.origin == "TopicRecreated"}
        if again:
            old = self._of_older_topics({tp.topic: at.place.topic_id for tp, at in again.items()})
            moved.append(self._recreated(again, old))
        kept = {tp: beginning for tp, beginning in beginnings.items() if beginning.origin == "OffsetsForgotten"}
        if kept:
            moved.append(Moved(forgotten({tp: beginning.place.offset for tp, beginning in kept.items()})))
        known = {tp: self._known_before(tp, beginning) for tp, beginning in beginnings.items()}
        known = {tp: at for tp, at in known.items() if at.read_to > at.place.offset or at.place.tells_leaders}
        found, unanswered = await cuts(self._consumer, known)
        # Where the log ends before the place itself, and no epoch is known, a fetch finds that out
        found = {tp: cut for tp, cut in found.items() if cut.is_told or known[tp].place.offset <= cut.at}
        anew, told = begin_in_what_is_left(known, found)
        await self._begin({**beginnings, **anew}, [*moved, *told], {tp: known[tp] for tp in unanswered})
        self._gone -= beginnings.keys()
        self._joined = True
        self._report_connected()

    def _known_before(self, tp: TopicPartition, beginning: Beginning) -> Known:
        """A partition as the group's commit has it, and the memory of this member, if it is of that commit."""
        place, before = self._with_memory(tp, beginning), self._memory_of(tp, beginning)
        if before is None:
            return Known(place, Watermark(place.offset, place.settled), place.offset, place.end, place.end)
        read_to = max(place.end, before.mark.end)
        return Known(place, before.mark, before.mark.end, read_to, max(read_to, before.end))

    async def _forget_what_others_have(self, assigned: Collection[TopicPartition]) -> None:
        """The memory of this member counts only until another member reads the partition."""
        # The memory outlives this member, so another one of this process may change it meanwhile
        known = {tp: self._remembered[tp].topic_id for tp in self._remembered.keys() - set(assigned)}
        ids = await patiently(lambda: present_ids(self._consumer, {tp.topic: known[tp] for tp in known}))
        elsewhere = known.keys()
        another = {tp for tp in elsewhere if ids.get(tp.topic, 0) not in (0, known[tp])}
        gone = {tp for tp in elsewhere - another if not self._consumer.partitions_for_topic(tp.topic)}
        dropped = elsewhere - gone - another
        if gone - self._gone:
            self._gone = gone
            dropped |= set(await self._kept.gone(gone, assigned))
        for tp in dropped:
            self._remembered.pop(tp, None)

    def _of_older_topics(self, topic_ids: Mapping[str, int]) -> list[TopicPartition]:
        """The partitions that are remembered from before their topics had these ids."""
        return [
            tp
            for tp, before in self._remembered.items()
            if topic_ids.get(tp.topic, before.topic_id) not in (0, before.topic_id)
        ]

    def _recreated(self, beginnings: Mapping[TopicPartition, Beginning], old: Collection[TopicPartition]) -> Moved:
        """`old` are the remembered partitions of the deleted topics."""
        lost = sum(self._remembered[tp].mark.unsettled for tp in old)
        notice = recreated({tp: beginning.place.offset for tp, beginning in beginnings.items()}, lost)
        return Moved(notice, lost, "TopicRecreated", old)

    def _unnamed(self, beginnings: Mapping[TopicPartition, Beginning]) -> list[Moved]:
        """The notices about topics that were missing and are back, where the brokers give topics no ids."""
        moved = []
        anew = {tp: beginning for tp, beginning in beginnings.items() if beginning.origin == "New"}
        if anew:
            moved.append(self._recreated(anew, anew.keys() & self._remembered.keys()))
        if doubtful := beginnings.keys() - anew.keys():
            moved.append(Moved(maybe_recreated({tp: beginnings[tp].place.end for tp in doubtful})))
        return moved

    def _notice_missing(self) -> None:
        """Tells of topics that were missing at the last look and are back, where the brokers give topics no ids."""
        missing = {
            tp for tp, partition in self._partitions.items() if not partition.place.topic_id and not self._exists(tp)
        }
        if back := (self._missing - missing) & self._partitions.keys():
            self._notices.add(maybe_recreated({tp: self._partitions[tp].mark.end for tp in back}))
        self._missing = missing

    def _memory_of(self, tp: TopicPartition, beginning: Beginning) -> Remembered | None:
        """The memory of a partition that this member has, if it goes on to the place where reading begins."""
        before = self._remembered.get(tp)
        if before is None or beginning.origin != "Committed" or not before.is_of(beginning.place):
            return None
        return before

    def _with_memory(self, tp: TopicPartition, beginning: Beginning) -> Place:
        """The place where reading begins, with the records that settled here and whose commit reached no broker."""
        place, before = beginning.place, self._memory_of(tp, beginning)
        if before is None:
            return place
        waiting, reach = before.waiting_in(place)
        settled = place.settled | before.settled_from(place)
        return replace(place, settled=settled, epoch=max(place.epoch, before.epoch), waiting=waiting, reach=reach)

    async def _begin(
        self,
        beginnings: Mapping[TopicPartition, Beginning],
        moved: Collection[Moved] = (),
        unchecked: Mapping[TopicPartition, Known] = MappingProxyType({}),
    ) -> None:
        """Begins to read at these places, and tells which of them moved, once they are durable.

        Nothing is taken from `unchecked` ones, and their memory stays, until their leaders tell whether they were cut.
        """
        places = {tp: self._with_memory(tp, beginning) for tp, beginning in beginnings.items()}
        places = {tp: replace(place, times=place.times + 1) for tp, place in places.items()}
        await self._beginnings.commit(places)  # the memory is needed again if the group refuses this
        for move in moved:
            if move.lost:
                self._context.report_lost(move.lost, move.reason)
            self._notices.add(move.notice)
        for tp in {*places, *(tp for move in moved for tp in move.known_from)} - unchecked.keys():
            self._remembered.pop(tp, None)
        new = {tp for tp, beginning in beginnings.items() if not beginning.in_group}
        texts = {tp: place.kept_text() for tp, place in places.items() if tp in new or not self._kept.started}
        kept = await self._kept.write(texts, begun=True) if texts or not self._kept.started else True
        for tp, place in places.items():
            partition = Partition(tp, place, self._cluster, self._settled, self._suspects)
            partition.kept = texts.get(tp) if kept else None
            self._partitions[tp] = partition
            self._unchecked.pop(tp, None)
            self._new_leaders.pop(tp, None)
            if tp in unchecked:
                self._unchecked[tp] = unchecked[tp]
                self._new_leaders[tp] = place.epoch
            self._consumer.seek(tp, place.offset)

    # --- places that are none any more

    async def _compare_topics(self) -> None:
        """Notices topics that were deleted and created again. Raises KafkaError."""
        if self._is_taking_over:
            return
        reading = [partition for partition in self._partitions.values() if partition.reads]
        expected = {partition.tp.topic: partition.place.topic_id for partition in reading}
        ids = await present_ids(self._consumer, expected)
        others = {}
        for partition in reading:
            topic_id = ids.get(partition.tp.topic, 0)
            if topic_id and not partition.place.topic_id:
                partition.place = replace(partition.place, topic_id=topic_id)
                self._settled.set()
            elif topic_id not in (0, partition.place.topic_id):
                others[partition.tp] = topic_id
        if others and not self._is_taking_over:
            self._take_over_in_a_task(partial(self._begin_anew, others))

    async def _begin_anew(self, topic_ids: Mapping[TopicPartition, int]) -> None:
        """Goes on at the beginning of topics that were deleted and created again."""
        partitions = [
            partition
            for tp, partition in self._partitions.items()
            if topic_ids.get(tp, partition.place.topic_id) != partition.place.topic_id
        ]
        await self._give_up_for_now(partitions)
        await self._consumer._client.force_metadata_update()  # the new topic may have fewer partitions
        there = {partition.tp: topic_ids[partition.tp] for partition in partitions if self._exists(partition.tp)}
        beginnings = await patiently(lambda: self._beginnings.anew(there))
        for partition in partitions:
            if partition.tp not in beginnings:
                del self._partitions[partition.tp]
                if partition.tp not in there:  # the group is about to assign its partitions anew
                    self._assigned.discard(partition.tp)
                self._new_leaders.pop(partition.tp, None)
                self._unchecked.pop(partition.tp, None)
        if beginnings:  # else the memory says what is lost once the topic is there
            await self._begin(beginnings, [self._recreated(beginnings, [partition.tp for partition in partitions])])
            self._report_connected()

    async def _give_up_for_now(self, partitions: Collection[Partition]) -> None:
        """Withdraws the events of partitions that are about to begin anew. The memory stays until that is durable."""
        for partition in partitions:
            partition.reads = False
            state = self._client_state(partition.tp)
            self._remember(partition, (state and state.highwater) or 0)
        await self._withdraw(partitions, _RECREATED_GRACE_SECONDS)
        for partition in partitions:
            partition.alive = False

    def _remember(self, partition: Partition, end: int = 0) -> None:
        """Keeps the memory from before, if nothing could be read since."""
        if partition.tp not in self._unchecked or partition.tp not in self._remembered:
            self._remembered[partition.tp] = remembered(partition, end)

    async def _out_of_range(self, offsets: Mapping[TopicPartition, int]) -> None:
        """The broker does not have these offsets: of another topic, deleted by retention, or lost by the broker."""
        try:
            await self._compare_topics()
        except KafkaError:
            await asyncio.sleep(_FULL_SECONDS)
            return  # the same offset is fetched again
        known = {tp: offset for tp, offset in offsets.items() if tp in self._partitions and self._partitions[tp].reads}
        if not known or self._is_taking_over:
            return
        firsts, _ = await first_offsets(self._consumer, known)
        ends, _ = await end_offsets(self._consumer, firsts)
        short = []
        for tp, end in ends.items():  # the offset of one without an answer is fetched again
            partition, offset, beginning = self._partitions.get(tp), known[tp], firsts[tp]
            if partition is None or not partition.reads:
                continue  # revoked meanwhile
            if beginning > offset:
                self._begin_after_deleted(partition, offset, beginning)
            elif offset > end:
                short.append(tp)
            # else it passed: the same offset is fetched again
        if short and not self._is_taking_over:
            self._take_over_in_a_task(partial(self._begin_where_short, short))

    def _begin_after_deleted(self, partition: Partition, offset: int, beginning: int) -> None:
        """Goes on at the first record that is left. The taken ones are held here, and still delivered."""
        lost = partition.mark.untaken(offset, beginning)
        if lost:
            self._context.report_lost(lost, "RecordsDeleted")
            self._deleted += lost
            self._notices.add(deleted(partition.tp, self._deleted, beginning))
            self._report_connected()
        partition.mark.reach(beginning)
        partition.waiting = 0  # those that are gone count as deleted
        self._consumer.seek(partition.tp, beginning)
        self._settled.set()

    def _known_now(self, partition: Partition) -> Known:
        mark, state = partition.mark, self._client_state(partition.tp)
        passed = max(mark.end, state.position if state is not None and state.has_valid_position else 0)
        end = max(passed, mark.settled_end, (state and state.highwater) or 0)
        return Known(partition.now(), mark, passed, passed, end)

    async def _begin_where_short(self, short: Collection[TopicPartition]) -> None:
        """Begins anew with those of these partitions that end before the place in them."""
        known = {tp: self._known_now(self._partitions[tp]) for tp in short}
        found, _ = await cuts(self._consumer, known)  # the offset of one without an answer is fetched again
        await self._begin_where_cut(found, known)

    async def _follow_leaders(self) -> None:
        """Finds out whether logs that have new leaders were cut. Until then nothing is taken from there."""
        epochs = dict(self._new_leaders)
        reading = {tp: self._partitions[tp] for tp in epochs if tp in self._partitions and self._partitions[tp].reads}
        known = {tp: self._unchecked.get(tp) or self._known_now(partition) for tp, partition in reading.items()}
        found, unanswered = await cuts(self._consumer, known)
        if unanswered:
            self._follow_at = time.monotonic() + _FOLLOW_SECONDS
        if self._is_taking_over:
            return  # asked again then
        anew = {tp for tp, partition in reading.items() if self._partitions.get(tp) is not partition}
        found = {tp: cut for tp, cut in found.items() if tp not in anew}
        for tp, epoch in epochs.items():
            if tp in unanswered or tp in found or tp in anew or self._new_leaders.get(tp) != epoch:
                continue
            partition = reading.get(tp)
            if partition is not None:
                partition.goes_on(max(epoch, partition.place.epoch))
            if self._unchecked.pop(tp, None) is not None:
                self._remembered.pop(tp, None)
            del self._new_leaders[tp]
        if found:
            self._take_over_in_a_task(partial(self._begin_where_cut, found, known))

    def _fetched(self, tp: TopicPartition, epoch: int) -> None:
        """Records of that leader's epoch were fetched."""
        partition = self._partitions.get(tp)
        if partition is None or epoch <= partition.place.epoch:
            return
        if partition.place.epoch < 0:
            partition.goes_on(epoch)
        else:
            self._new_leaders[tp] = epoch

    async def _compare_logs(self) -> None:
        """Finds out whether logs were cut from which nothing comes just now. Raises KafkaError."""
        if self._is_taking_over:
            return
        reading = {
            tp: partition
            for tp, partition in self._partitions.items()
            if partition.reads and partition.place.tells_leaders and tp not in self._new_leaders
        }
        known = {tp: self._known_now(partition) for tp, partition in reading.items()}
        found, _ = await cuts(self._consumer, known)
        found = {tp: cut for tp, cut in found.items() if self._partitions.get(tp) is reading[tp]}
        if found and not self._is_taking_over:
            self._take_over_in_a_task(partial(self._begin_where_cut, found, known))

    async def _begin_where_cut(
        self, found: Mapping[TopicPartition, Cut], known: Mapping[TopicPartition, Known]
    ) -> None:
        """Begins anew with partitions that lost records.

        New records get the offsets of those that are gone. So the held ones are withdrawn, as another event may come
        with the same position. `known` is from before the cuts were found: the new log may be read meanwhile.
        """
        partitions = {tp: partition for tp, partition in self._partitions.items() if tp in found and partition.reads}
        if not partitions:
            return
        await self._give_up_for_now(partitions.values())
        settled = {tp: replace(known[tp], place=partition.now()) for tp, partition in partitions.items()}
        beginnings, told = begin_in_what_is_left(settled, {tp: found[tp] for tp in settled})
        await self._begin(beginnings, told)
        self._missing -= partitions.keys()  # no record of it is left out in any case
        self._report_connected()

    def _exists(self, tp: TopicPartition) -> bool:
        """Whether the brokers know the partition. The client would wait for one that they do not know."""
        return tp.partition in (self._consumer.partitions_for_topic(tp.topic) or ())

    def _commits_are_refused(self, refused: bool) -> None:
        self._session.may_commit(not refused)
        self._report_connected()

    async def _keep(self) -> None:
        """Keeps the present places in the trigger's own state."""
        texts = {tp: partition.now().kept_text() for tp, partition in self._partitions.items() if partition.reads}
        changed = {tp: text for tp, text in texts.items() if text != self._partitions[tp].kept}
        if changed and await self._kept.write(changed):
            for tp, text in changed.items():
                if tp in self._partitions:
                    self._partitions[tp].kept = text

    # --- while it runs

    async def _look_after(self) -> None:
        """Checks regularly: the consumer does not tell that no broker answers, or that topics are gone."""
        while True:
            await asyncio.sleep(_HEALTH_SECONDS)
            self._fetching.bound(self._context.read_ahead_bytes, len(self._partitions))  # other triggers came or went
            try:
                await self._look()
                if time.monotonic() - self._kept_at > _KEEP_SECONDS:
                    self._kept_at = time.monotonic()
                    await self._keep()
            except Exception as error:
                log.exception("looking after the consumer failed", extra={"trigger": self._context.name})
                problem = f"nobody knows whether all partitions are read: {error!r}; the log has the traceback"
                self._context.report(connected=False, reason="ConsumerFailed", message=problem)

    async def _look(self) -> None:
        report = self._context.report
        answered = await self._answers.look(self._health.needed({*self._partitions, *self._assigned}), _HEALTH_SECONDS)
        if answered:
            with contextlib.suppress(TimeoutError, KafkaError):
                async with asyncio.timeout(_HEALTH_SECONDS):
                    await self._compare_topics()
            self._notice_missing()
        left = self._unread.look(self._consumer.assignment(), self._partitions, time.monotonic())
        problem = self._health.problem(
            self._partitions,
            in_session=self._session.lasts(),
            silent=self._answers.silent,
            assigned=self._assigned,
            unchecked=self._unchecked,
        )
        if not answered:
            report(connected=False, reason="NotConnected", message=f"no broker answers: {self._health.brokers}")
        elif problem is not None:
            report(connected=False, reason=problem[0], message=problem[1])
        elif self._undecided:
            report(connected=False, reason="StartUndecided", message=self._undecided)
        elif left:
            report(connected=False, reason="PartitionsUnread", message=left)
        else:
            self._report_connected()
        self._pass_gaps()
        if answered:
            with contextlib.suppress(KafkaError):
                await self._compare_logs()
        self._take_over_the_rest()

    def _take_over_the_rest(self) -> None:
        """Tries again to take over what was assigned and is not read: a leader gave no answer, or a commit failed."""
        rest = unread(self._assigned, self._partitions)
        led = [tp for tp in rest if self._consumer._client.cluster.leader_for_partition(tp) not in NO_LEADER]
        if led and not self._is_taking_over:
            self._take_over_in_a_task(partial(self._take_over, led))

    def _report_undecided(self, message: str) -> None:
        self._undecided = message
        self._context.report(connected=False, reason="StartUndecided", message=message)

    def _report_connected(self) -> None:
        if self._commits.refusal:
            self._context.report(connected=False, reason="ConsumerFailed", message=self._commits.refusal)
        elif self._joined and not self._unchecked and not unread(self._assigned, self._partitions):
            reason, message = self._notices.text()
            self._context.report(connected=True, reason=reason, message=message)

    def _pass_gaps(self) -> None:
        """Passes offsets at a partition's end that hold no record, such as a transaction's markers."""
        for tp, partition in self._partitions.items():
            state = self._client_state(tp)
            if state is None or not state.has_valid_position or not partition.reads:
                continue
            if partition.waiting:
                self._find_compacted(partition, (), state.position)
            if partition.mark.reach(state.position):
                self._settled.set()

    def _client_state(self, tp: TopicPartition) -> Any:
        """The client's position in a partition and what it knows of its end; None if the partition is not assigned."""
        subscription = self._consumer._subscription.subscription
        assignment = subscription and subscription.assignment
        return assignment.state_value(tp) if assignment is not None else None


def _runs(task: asyncio.Task[None] | None) -> bool:
    return task is not None and not task.done()
