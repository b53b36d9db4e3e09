"""Where reading goes on in a log that lost records: their offsets are those of new ones, which have to be read."""

from collections.abc import Mapping
from dataclasses import replace

from aiokafka import AIOKafkaConsumer, TopicPartition

from trigger_sources.kafka.beginnings import patiently
from trigger_sources.kafka.notices import Moved, truncated
from trigger_sources.kafka.places import Beginning, Place
from trigger_sources.kafka.watermark import Watermark
from trigger_sources.values import frozen


@frozen()
class Known:
    """A partition as it is known from reading it, with at least `end` offsets.

    The offsets before `passed` that are not settled are taken. `read_to` is the place for a person.
    """

    place: Place
    mark: Watermark
    passed: int
    read_to: int
    end: int

    def lost_from(self, offset: int) -> int:
        """How many of the known offsets from that one on are not settled."""
        return self.mark.unsettled_from(offset) + self.mark.untaken(max(offset, self.passed), self.end)


async def ends_before(consumer: AIOKafkaConsumer, known: Mapping[TopicPartition, Known]) -> dict[TopicPartition, int]:
    """The ends of those partitions that end before a known offset. Where one ends before its place, a fetch tells."""
    if not known:
        return {}
    ends = await patiently(lambda: consumer.end_offsets(list(known)))
    return {tp: ends[tp] for tp, found in known.items() if found.place.offset <= ends[tp] < found.end}


async def begin_in_what_is_left(
    consumer: AIOKafkaConsumer, known: Mapping[TopicPartition, Known], ends: Mapping[TopicPartition, int]
) -> tuple[dict[TopicPartition, Beginning], list[Moved]]:
    """Where to begin with the partitions that have these ends now, and what to tell then."""
    firsts = await patiently(lambda: consumer.beginning_offsets(list(ends))) if ends else {}
    beginnings, moved = {}, []
    for tp, end in ends.items():
        found = known[tp]
        place, lost = found.place, found.lost_from(end)
        beginning = Beginning(replace(place, offset=firsts[tp], settled=frozenset(), times=0), "Truncated", True)
        beginnings[tp] = beginning
        notice = truncated(tp, found.read_to, end, lost, firsts[tp], has_id=bool(place.topic_id))
        moved.append(Moved(notice, lost, "Truncation"))
    return beginnings, moved
