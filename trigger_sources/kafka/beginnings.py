"""Decides where this member of the group begins with the partitions that it is assigned."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, OffsetAndMetadata, TopicPartition
from aiokafka.errors import KafkaError, OffsetMetadataTooLargeError

from trigger_sources.kafka.commit_metadata import LEAST_BYTES, MOST_BYTES
from trigger_sources.kafka.group_members import holder_of
from trigger_sources.kafka.kept_places import KeptPlaces
from trigger_sources.kafka.leaders import end_offsets, first_offsets, offsets_since
from trigger_sources.kafka.places import AT_BEGINNING, Beginning, Place, beginning_of, place_of_commit
from trigger_sources.kafka.topic_ids import present_ids
from trigger_sources.spec import start_time

log = logging.getLogger(__name__)
T = TypeVar("T")

_RETRY_SECONDS = 0.1
_LOOK_SECONDS = 0.2
_LOOKS_PER_STATE = 5
_LOOKS_PER_MESSAGE = 25


class Beginnings:
    """`start` is decided once, for the whole trigger, and kept as the group's commits before any record is taken.

    The member that is assigned the first partition decides. The group's coordinator accepts its commit only while the
    assignment holds, so that two members cannot decide differently. The others wait for the commit. Partitions and
    topics that are found after that begin at their beginning. While another member holds the first partition and
    decides nothing, `undecided` hears about it, with a message for a person.

    A trigger that got another function has begun already. The same member commits `former`, the places of the former
    function's group, in the same way.
    """

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        kept: KeptPlaces,
        start: str,
        former: Mapping[TopicPartition, Place] | None = None,
        *,
        undecided: Callable[[str], None] = lambda message: None,
    ) -> None:
        self._consumer = consumer
        self._kept = kept
        self._start = start
        self._former = former
        self._undecided = undecided

    async def of(self, assigned: Collection[TopicPartition]) -> dict[TopicPartition, Beginning]:
        """Where to begin with those partitions whose leaders tell it. `of` is asked again for the others.

        Raises CommitFailedError where the group assigns its partitions anew meanwhile.
        """
        if self._former is not None or self._start != "earliest":
            await self._until_begun(assigned)
        commits = await self._commits(assigned)
        kept = await self._kept.read(tp for tp in assigned if tp not in commits or not commits[tp].topic_id)
        known = {tp.topic: place.topic_id for tp, place in (*kept.items(), *commits.items()) if place.topic_id}
        ids = await patiently(
            lambda: present_ids(self._consumer, {tp.topic: known.get(tp.topic, 0) for tp in assigned})
        )
        found = {tp: beginning_of(commits.get(tp), kept.get(tp), ids.get(tp.topic, 0)) for tp in assigned}
        return await self._with_offsets(found)

    async def anew(self, partitions: Mapping[TopicPartition, int]) -> dict[TopicPartition, Beginning]:
        """At the beginning of topics that were deleted and created again, given with their present ids.

        Those whose leaders do not tell it are left out.
        """
        return await self._with_offsets(
            {
                tp: Beginning(Place(AT_BEGINNING, topic_id=topic_id, renamed=True), "TopicRecreated")
                for tp, topic_id in partitions.items()
            }
        )

    async def commit(self, places: Mapping[TopicPartition, Place]) -> None:
        """Makes places the group's. Raises CommitFailedError where the assignment does not hold any more."""
        most_bytes = MOST_BYTES
        while places:
            commits = {tp: OffsetAndMetadata(place.offset, place.metadata(most_bytes)) for tp, place in places.items()}
            try:
                await self._consumer._coordinator.commit_offsets(None, commits)
            except OffsetMetadataTooLargeError:
                if most_bytes <= LEAST_BYTES:
                    raise
                most_bytes //= 2
            else:
                return

    async def _with_offsets(self, found: dict[TopicPartition, Beginning]) -> dict[TopicPartition, Beginning]:
        unread = {tp for tp, beginning in found.items() if beginning.place.offset == AT_BEGINNING}
        since = {tp: beginning.place.since for tp, beginning in found.items() if beginning.place.since}
        offsets = (await first_offsets(self._consumer, unread))[0] if unread else {}
        if since:
            offsets |= (await offsets_since(self._consumer, since))[0]
        told = {
            tp: replace(found[tp], place=replace(found[tp].place, offset=offset, since=0))
            for tp, offset in offsets.items()
        }
        untold = (unread | since.keys()) - told.keys()
        return {tp: told.get(tp, beginning) for tp, beginning in found.items() if tp not in untold}

    # --- the first start

    async def _until_begun(self, assigned: Collection[TopicPartition]) -> None:
        looks = 0
        while looks % _LOOKS_PER_STATE or not await self._kept.look():
            existing = self._existing()
            if not existing or (self._former is None and await self._commits(existing)):
                return
            first = min(existing)
            if first in assigned:
                await (self._decide(existing) if self._former is None else self._carry_over(self._former))
                return
            await asyncio.sleep(_LOOK_SECONDS)
            looks += 1
            if looks % _LOOKS_PER_MESSAGE == 0:
                await self._tell_undecided(first)

    async def _tell_undecided(self, first: TopicPartition) -> None:
        try:
            holder = await holder_of(self._consumer, first) or "no member"
        except (KafkaError, ValueError):
            return
        waits_for = f"spec.start, {self._start}" if self._former is None else "the former function's place"
        self._undecided(
            f"{first.topic}/{first.partition} is held by {holder} of consumer group"
            f" {self._consumer._coordinator.group_id!r}, which has not committed {waits_for}: the member that holds the"
            " first partition does that for all; if it is another program, stop it, let it commit, or name another"
            " spec.group"
        )

    async def _carry_over(self, former: Mapping[TopicPartition, Place]) -> None:
        await self.commit(former)
        await self._kept.begun()

    async def _decide(self, existing: Collection[TopicPartition]) -> None:
        consumer = self._consumer
        ids = await patiently(lambda: present_ids(consumer, {tp.topic: 0 for tp in existing}))
        if self._start == "latest":
            since = int(time.time() * 1000)
            offsets, later = await end_offsets(consumer, existing)
        else:
            since = milliseconds(self._start)
            offsets, later = await offsets_since(consumer, dict.fromkeys(existing, since))
        places = {tp: Place(offset, topic_id=ids.get(tp.topic, 0)) for tp, offset in offsets.items()}
        places |= {tp: Place(0, topic_id=ids.get(tp.topic, 0), since=since) for tp in later}
        await self.commit(places)
        log.info("start decided", extra={"start": self._start, "partitions": len(offsets), "later": len(later)})

    def _existing(self) -> list[TopicPartition]:
        """The partitions of all topics of the trigger, as far as this member knows."""
        consumer = self._consumer
        topics: Iterable[str] = consumer.subscription()
        return [TopicPartition(topic, p) for topic in topics for p in consumer.partitions_for_topic(topic) or ()]

    async def _commits(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, Place]:
        # The consumer's own `committed` hides the metadata; this is the call that it makes
        coordinator: Any = self._consumer._coordinator
        found = await coordinator.fetch_committed_offsets(list(partitions))
        return {tp: place_of_commit(at.offset, at.metadata or "") for tp, at in found.items() if at.offset >= 0}


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """The result of a call that is repeated while it fails with an error that passes. Raises KafkaError."""
    while True:
        try:
            return await call()
        except KafkaError as error:
            if not error.retriable:
                raise
            await asyncio.sleep(_RETRY_SECONDS)


def milliseconds(text: str) -> int:
    """Milliseconds since the epoch of an RFC 3339 time. Raises ValueError."""
    return int(start_time(text, "earliest, latest").timestamp() * 1000)
