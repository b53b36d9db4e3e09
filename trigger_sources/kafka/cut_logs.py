"""Finds logs that lost records, and where reading goes on in them: new records have the offsets of lost ones."""

from collections.abc import Collection, Mapping
from dataclasses import replace

from aiokafka import AIOKafkaConsumer, TopicPartition

from trigger_sources.kafka.leader_epochs import ends_of_epochs
from trigger_sources.kafka.leaders import from_leaders
from trigger_sources.kafka.notices import Moved, truncated
from trigger_sources.kafka.places import Beginning, Place
from trigger_sources.kafka.topic_ids import topics_at
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
        offset, settled = max(offset, self.place.offset), self.place.settled
        taken = self.mark.unsettled_in(offset, self.passed, settled)
        return taken + self.mark.untaken(max(offset, self.passed), end, settled)


@frozen()
class Cut:
    """The records from `at` on are lost. `first` and `end` are those that the log has at present.

    `epoch` is that of the last record before; None if nobody knows whether those before `at` are the same.
    `is_told`: the epochs of the leaders tell of the cut, and not only the log's end.
    """

    at: int
    end: int
    epoch: int | None = None
    first: int = 0
    is_told: bool = False


async def cuts(
    consumer: AIOKafkaConsumer, known: Mapping[TopicPartition, Known]
) -> tuple[dict[TopicPartition, Cut], set[TopicPartition]]:
    """Those logs that do not have all records any more that were read from them, and those that nobody tells about.

    It takes a bounded time. Raises KafkaError where a right is missing.
    """
    epochs = {tp: found.place.epoch for tp, found in known.items() if found.place.tells_leaders}
    same, unanswered = await ends_of_epochs(consumer, epochs) if epochs else ({}, set())
    doubtful = [
        tp for tp, found in known.items() if tp not in unanswered and (tp not in same or _differs(found, *same[tp]))
    ]

    async def look(leader: int, asked: Collection[TopicPartition]) -> Mapping[TopicPartition, Cut | None]:
        return await _cuts_at(consumer, leader, {tp: known[tp] for tp in asked}, same)

    found, unseen = await from_leaders(consumer, doubtful, look) if doubtful else ({}, set())
    return {tp: cut for tp, cut in found.items() if cut is not None}, unanswered | unseen


def _differs(known: Known, end: int, epoch: int) -> bool:
    """Whether a log whose records up to the known epoch end there, with that one, lacks records that were read."""
    return end < known.read_to or epoch < known.place.epoch


async def _cuts_at(
    consumer: AIOKafkaConsumer,
    leader: int,
    known: Mapping[TopicPartition, Known],
    same: Mapping[TopicPartition, tuple[int, int]],
) -> Mapping[TopicPartition, Cut | None]:
    """Looks closer at logs with the same leader. Raises KafkaError."""
    ends = await consumer.end_offsets(list(known))
    firsts = await consumer.beginning_offsets(list(known))
    told = {tp.topic for tp, before in known.items() if before.place.tells_leaders}
    topics = await topics_at(consumer, leader, told) if told else {}
    found: dict[TopicPartition, Cut | None] = {}
    for tp, before in known.items():
        found[tp] = None
        topic_id, epochs = topics.get(tp.topic, (0, {}))
        is_same_topic = topic_id == before.place.topic_id  # another one begins anew with its epochs
        present = epochs.get(tp.partition, -1)
        if tp not in same:
            # A leader tells nothing about epochs that are newer than its own: a restored partition has older ones
            is_older = before.place.tells_leaders and is_same_topic and 0 <= present < before.place.epoch
            if is_older or ends[tp] < before.read_to:
                found[tp] = Cut(ends[tp], ends[tp], first=firsts[tp], is_told=is_older)
        elif is_same_topic:
            at, epoch = same[tp]
            is_exact = is_same_before(before.place.epoch, epoch, present)
            found[tp] = Cut(at, ends[tp], epoch if is_exact else None, firsts[tp], True)
    return found


def is_same_before(asked: int, answered: int, present: int) -> bool:
    """Whether the records before the answered end of an epoch are those that were read.

    Not if the log has no record of that epoch: its records of older ones may be others, which no other replica had
    when it was elected. Nor if the epoch is the present one, whose leader loses nothing: a restored partition uses
    its numbers again.
    """
    return answered == asked < present


def place_in(place: Place, cut: Cut) -> Place:
    """Where to go on in a log whose records before the cut are the same: those that settled are not repeated."""
    assert cut.epoch is not None
    settled = frozenset(offset for offset in place.settled if offset < cut.at)
    offset = min(place.offset, cut.at)
    return replace(place, offset=offset, settled=settled, times=0, epoch=cut.epoch, waiting=0, reach=0)


def begin_in_what_is_left(
    known: Mapping[TopicPartition, Known], found: Mapping[TopicPartition, Cut]
) -> tuple[dict[TopicPartition, Beginning], list[Moved]]:
    """Where to begin with the partitions that were cut, and what to tell then."""
    beginnings, moved = {}, []
    for tp, cut in found.items():
        before = known[tp]
        if cut.epoch is None:
            place = Place(cut.first, topic_id=before.place.topic_id, renamed=before.place.renamed)
        else:
            place = place_in(before.place, cut)
        # An end that the brokers told counts if the log has not come there again: else it may be the new one's
        lost = before.lost_from(cut.at, before.end if before.end > cut.end else before.read_to)
        beginnings[tp] = Beginning(place, "Truncated", True)
        notice = truncated(
            tp, before.read_to, cut.at, lost, place.offset,
            has_id=bool(place.topic_id), is_exact=cut.epoch is not None, is_told=cut.is_told,
        )  # fmt: skip
        moved.append(Moved(notice, lost, "Truncation"))
    return beginnings, moved
