"""Decides where this member of the group begins with the partitions that it is assigned."""

from collections.abc import Collection, Mapping
from dataclasses import replace

from aiokafka import AIOKafkaConsumer, TopicPartition

from trigger_sources.kafka.first_start import FirstStart
from trigger_sources.kafka.group_places import commit_places, committed_places
from trigger_sources.kafka.kept_places import KeptPlaces
from trigger_sources.kafka.leaders import first_offsets, offsets_since
from trigger_sources.kafka.places import AT_BEGINNING, Beginning, Place, beginning_of
from trigger_sources.kafka.retrying import patiently
from trigger_sources.kafka.topic_ids import present_ids


class Beginnings:
    """After the first start, partitions and topics that are found begin at their beginning."""

    def __init__(self, consumer: AIOKafkaConsumer, kept: KeptPlaces, first_start: FirstStart) -> None:
        self._consumer = consumer
        self._kept = kept
        self._first_start = first_start

    async def of(self, assigned: Collection[TopicPartition]) -> dict[TopicPartition, Beginning]:
        """Where to begin with those partitions whose leaders tell it. `of` is asked again for the others.

        Raises CommitFailedError where the group assigns its partitions anew meanwhile.
        """
        if self._first_start.is_needed:
            await self._first_start.until_begun(assigned)
        commits = await committed_places(self._consumer, assigned)
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
        await commit_places(self._consumer, places)

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
