"""Finds logs that lost records, and where reading goes on in them: new records have the offsets of lost ones."""

from collections.abc import Mapping
from dataclasses import replace

from aiokafka import AIOKafkaConsumer, TopicPartition

from trigger_sources.kafka.beginnings import patiently
from trigger_sources.kafka.leader_epochs import ends_of_epochs
from trigger_sources.kafka.notices import Moved, truncated
from trigger_sources.kafka.places import Beginning, Place
from trigger_sources.kafka.topic_ids import ids_at
from trigger_sources.kafka.watermark import Watermark
from trigger_sources.values import frozen


@frozen()
class Known:
    """A partition as it is known from reading it, with at least `end` offsets.

    The offsets before `passed` that are not settled are taken. All before `read_to` were read once, in any case.
    """

    place: Place
    mark: Watermark
    passed: int
    read_to: int
    end: int

    def lost_from(self, offset: int, end: int) -> int:
        """How many of the offsets from that one up to `end` are not settled."""
        return self.mark.unsettled_from(offset) + self.mark.untaken(max(offset, self.passed), end)


@frozen()
class Cut:
    """The records from `at` on are lost. `end` is the log's present end.

    `epoch` is that of the last record before; None if nobody knows whether those before `at` are the same.
    """

    at: int
    end: int
    epoch: int | None = None


async def cuts(consumer: AIOKafkaConsumer, known: Mapping[TopicPartition, Known]) -> dict[TopicPartition, Cut]:
    """Those logs that do not have all records any more that were read from them. Raises KafkaError."""
    epochs = {tp: found.place.epoch for tp, found in known.items() if found.place.tells_leaders}
    same = await ends_of_epochs(consumer, epochs) if epochs else {}
    short = [tp for tp, found in known.items() if tp not in same or same[tp][0] < found.read_to]
    ends = await consumer.end_offsets(short) if short else {}
    found = {}
    for tp, end in ends.items():
        if tp not in same:
            if end < known[tp].read_to:
                found[tp] = Cut(end, end)
        elif await _is_still(consumer, tp, known[tp].place.topic_id):
            found[tp] = Cut(same[tp][0], end, same[tp][1])
    return found


async def _is_still(consumer: AIOKafkaConsumer, tp: TopicPartition, topic_id: int) -> bool:
    """Whether the broker that told of the epochs has the same topic: another one begins anew with them."""
    leader = consumer._client.cluster.leader_for_partition(tp)
    return leader is not None and (await ids_at(consumer, leader, [tp.topic])).get(tp.topic) == topic_id


def place_in(place: Place, cut: Cut) -> Place:
    """Where to go on in a log whose records before the cut are the same: those that settled are not repeated."""
    assert cut.epoch is not None
    settled = frozenset(offset for offset in place.settled if offset < cut.at)
    offset = min(place.offset, cut.at)
    return replace(place, offset=offset, settled=settled, times=0, epoch=cut.epoch, waiting=0, reach=0)


async def begin_in_what_is_left(
    consumer: AIOKafkaConsumer, known: Mapping[TopicPartition, Known], found: Mapping[TopicPartition, Cut]
) -> tuple[dict[TopicPartition, Beginning], list[Moved]]:
    """Where to begin with the partitions that were cut, and what to tell then."""
    unsure = [tp for tp, cut in found.items() if cut.epoch is None]
    firsts = await patiently(lambda: consumer.beginning_offsets(unsure)) if unsure else {}
    beginnings, moved = {}, []
    for tp, cut in found.items():
        before = known[tp]
        if cut.epoch is None:
            place = Place(firsts[tp], topic_id=before.place.topic_id, renamed=before.place.renamed)
        else:
            place = place_in(before.place, cut)
        # An end that the brokers told counts if the log has not come there again: else it may be the new one's
        lost = before.lost_from(cut.at, before.end if before.end > cut.end else before.read_to)
        beginnings[tp] = Beginning(place, "Truncated", True)
        notice = truncated(
            tp, before.read_to, cut.at, lost, place.offset,
            has_id=bool(place.topic_id), is_exact=cut.epoch is not None,
        )  # fmt: skip
        moved.append(Moved(notice, lost, "Truncation"))
    return beginnings, moved
