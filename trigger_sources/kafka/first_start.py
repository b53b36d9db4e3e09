"""Decides, once for a whole trigger, where its group begins."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from trigger_sources.kafka.group_members import holder_of
from trigger_sources.kafka.group_places import commit_places, committed_places
from trigger_sources.kafka.kept_places import KeptPlaces
from trigger_sources.kafka.leaders import end_offsets, offsets_since
from trigger_sources.kafka.places import Place
from trigger_sources.kafka.retrying import patiently
from trigger_sources.kafka.topic_ids import present_ids
from trigger_sources.spec import start_time

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.2
_LOOKS_PER_STATE = 5
_LOOKS_PER_MESSAGE = 25


class FirstStart:
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

    @property
    def is_needed(self) -> bool:
        """Whether a group without commits begins anywhere else than at the beginning."""
        return self._former is not None or self._start != "earliest"

    async def until_begun(self, assigned: Collection[TopicPartition]) -> None:
        """Decides, or waits until another member has decided. Raises CommitFailedError as `commit_places` does."""
        looks = 0
        while looks % _LOOKS_PER_STATE or not await self._kept.look():
            existing = self._existing()
            if not existing or (self._former is None and await committed_places(self._consumer, existing)):
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
        await commit_places(self._consumer, former)
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
        await commit_places(consumer, places)
        log.info("start decided", extra={"start": self._start, "partitions": len(offsets), "later": len(later)})

    def _existing(self) -> list[TopicPartition]:
        """The partitions of all topics of the trigger, as far as this member knows."""
        consumer = self._consumer
        topics: Iterable[str] = consumer.subscription()
        return [TopicPartition(topic, p) for topic in topics for p in consumer.partitions_for_topic(topic) or ()]


def milliseconds(text: str) -> int:
    """Milliseconds since the epoch of an RFC 3339 time. Raises ValueError."""
    return int(start_time(text, "earliest, latest").timestamp() * 1000)
