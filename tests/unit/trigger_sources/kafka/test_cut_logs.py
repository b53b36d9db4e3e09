"""A log that was cut and has grown again: nothing new is skipped, and nothing that stayed is repeated."""

from bisect import bisect_right
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from trigger_sources.kafka.commit_metadata import LEAST_BYTES
from trigger_sources.kafka.cut_logs import Cut, Known, begin_in_what_is_left, cuts, is_same_before, place_in
from trigger_sources.kafka.places import Place, place_of_commit, place_of_text
from trigger_sources.kafka.topic_ids import TopicIdsRequest
from trigger_sources.kafka.watermark import Watermark


class Log:
    """A partition's log as its brokers keep it. A record is its own number, however often an offset is used."""

    def __init__(self) -> None:
        self.records: list[tuple[int, int]] = []  # the number, and the epoch of the leader that took it
        self.starts = [(0, 0)]  # of each epoch
        self.numbers = 0
        self.epoch = 0
        self.former: list[tuple[list[tuple[int, int]], list[tuple[int, int]]]] = []  # the logs of former leaders

    def append(self, count: int) -> None:
        for _ in range(count):
            self.numbers += 1
            self.records.append((self.numbers, self.epoch))

    def elect(self, kept: int) -> None:
        """A new leader that has only so many records."""
        self._leave()
        del self.records[kept:]
        self._begin_epoch()

    def elect_former(self, which: int) -> None:
        """A former leader comes back, with all records that it had, and none of those since: an unclean election."""
        self._leave()
        records, starts = self.former[which % len(self.former)]
        self.records, self.starts = list(records), list(starts)
        self._begin_epoch()

    def restore(self, which: int) -> None:
        """All replicas are as they were once, and so is the number of the next epoch."""
        self._leave()
        records, starts = self.former[which % len(self.former)]
        self.records, self.starts, self.epoch = list(records), list(starts), starts[-1][0]
        self._begin_epoch()

    def _leave(self) -> None:
        self.former.append((list(self.records), list(self.starts)))

    def _begin_epoch(self) -> None:
        self.epoch += 1
        end = len(self.records)
        self.starts = [(epoch, start) for epoch, start in self.starts if start < end] + [(self.epoch, end)]

    def end_of(self, epoch: int) -> tuple[int, int]:
        """The answer of a broker: the end of the newest epoch that is not above, and that epoch."""
        index = bisect_right(self.starts, (epoch, len(self.records)))
        end = self.starts[index][1] if index < len(self.starts) else len(self.records)
        return end, self.starts[index - 1][0] if index else epoch


# How many records a leader takes; and how many of all records the next one has, or which former leader it is
LEADERS = st.lists(st.tuples(st.integers(0, 9), st.one_of(st.integers(0, 30), st.integers(-4, -1))), max_size=5)


def grow(log: Log, leaders: list[tuple[int, int]]) -> None:
    for count, choice in leaders:
        log.append(count)
        if choice < 0:
            log.elect_former(choice)
        else:
            log.elect(choice)


@given(before=LEADERS, read=st.integers(0, 30), after=LEADERS, data=st.data())
def test_nothing_new_is_skipped_and_nothing_that_stayed_is_repeated(
    before: list[tuple[int, int]], read: int, after: list[tuple[int, int]], data: st.DataObject
) -> None:
    log = Log()
    grow(log, before)
    log.append(3)
    place, seen, settled, epoch = read_from(log, read, data)
    log.append(data.draw(st.integers(0, 3)))
    grow(log, after)
    log.append(2)
    if epoch < 0:
        return
    end, last = log.end_of(epoch)
    is_cut = end < len(seen) or last < epoch
    assert is_cut or log.records[: len(seen)] == seen
    if not is_cut or not is_same_before(epoch, last, log.epoch):
        return  # it goes on, or begins at the beginning
    going_on = place_in(place, Cut(end, len(log.records), last))
    done = {*range(going_on.offset), *going_on.settled}
    for number, record in enumerate(log.records):
        is_same = number < len(seen) and seen[number] == record
        assert (number in done) == (is_same and number in settled)
    mark = Watermark(0)
    for number in range(len(seen)):
        mark.take(number)
    for number in settled:
        mark.settle(number)
    lost = Known(place, mark, len(seen), len(seen), len(seen)).lost_from(end, len(seen))
    gone = {number for number, record in enumerate(seen) if log.records[number : number + 1] != [record]}
    assert lost == len(gone - settled)


@given(before=LEADERS, read=st.integers(0, 30), which=st.integers(0, 9), count=st.integers(0, 9), data=st.data())
def test_a_restored_log_that_uses_an_epoch_again_is_not_taken_for_the_same(
    before: list[tuple[int, int]], read: int, which: int, count: int, data: st.DataObject
) -> None:
    """It has one leader since. One with another leader, or with more records than were read, goes unnoticed."""
    log = Log()
    grow(log, before)
    log.append(3)
    _place, seen, _settled, epoch = read_from(log, read, data)
    log.restore(which)
    log.append(count)
    if epoch < 0:
        return
    end, last = log.end_of(epoch)
    if is_same_before(epoch, last, log.epoch):
        assert log.records[: min(end, len(seen))] == seen[:end]
    elif last == epoch and end >= len(seen):
        return  # it goes unnoticed, if it is another log
    else:
        assert end < len(seen) or last < epoch


def read_from(log: Log, read: int, data: st.DataObject) -> tuple[Place, list[tuple[int, int]], frozenset[int], int]:
    """A place with the first records read, and some of them settled."""
    seen = log.records[:read]
    settled = frozenset(data.draw(st.sets(st.integers(0, len(seen) - 1)))) if seen else frozenset()
    offset = next(number for number in range(len(seen) + 1) if number not in settled)
    epoch = seen[-1][1] if seen else -1
    place = Place(offset, frozenset(found for found in settled if found > offset), 7, epoch=epoch)
    assert place_of_commit(place.offset, place.metadata()) == place
    assert place_of_text(place.kept_text()) is not None
    return place, seen, settled, epoch


def test_records_that_settled_at_another_replica_are_not_lost() -> None:
    mark = Watermark(0)
    for offset in range(5):
        mark.take(offset)
    before = Known(Place(20, frozenset({22}), 7), mark, 5, 23, 23)
    assert before.lost_from(3, 23) == 2  # 20 and 21
    assert Known(Place(0, frozenset({1, 4, 6}), 7), mark, 5, 7, 7).lost_from(3, 7) == 2  # 3 and 5


TP = TopicPartition("t", 0)


@pytest.mark.parametrize(
    ("answer", "present", "end", "expected"),
    [
        ((90, 3), 4, 110, Cut(90, 110, 3, 2, True)),
        ((100, 3), 4, 110, None),
        ((70, 3), 3, 70, Cut(70, 70, None, 2, True)),  # a restored partition uses the epoch again
        ((90, 2), 5, 110, Cut(90, 110, None, 2, True)),  # a former leader came back
        ((105, 2), 5, 110, Cut(105, 110, None, 2, True)),
        ((-1, -1), 2, 110, Cut(110, 110, None, 2, True)),  # a restored partition has older epochs only
        ((-1, -1), -1, 110, None),
        ((-1, -1), -1, 90, Cut(90, 90, None, 2, False)),
    ],
)
async def test_a_cut_is_exact_only_where_the_epochs_show_that_the_records_before_are_the_same(
    answer: tuple[int, int], present: int, end: int, expected: Cut | None
) -> None:
    async def send(leader: int, request: Any) -> Any:
        if isinstance(request, TopicIdsRequest):
            return SimpleNamespace(topics=[(0, "t", 7, False, [(0, 0, 1, present)])])
        return SimpleNamespace(topics=[("t", [(0, 0, answer[1], answer[0])])])

    async def ends(partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, end)

    async def firsts(partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 2)

    client = SimpleNamespace(cluster=SimpleNamespace(leader_for_partition=lambda tp: 1), send=send)
    consumer: Any = SimpleNamespace(_client=client, end_offsets=ends, beginning_offsets=firsts)
    known = {TP: Known(Place(100, topic_id=7, epoch=3), Watermark(100), 100, 100, 100)}
    found, unanswered = await cuts(consumer, known)
    assert (found.get(TP), unanswered) == (expected, set())
    if expected is not None:
        beginnings, told = begin_in_what_is_left(known, found)
        assert beginnings[TP].place.offset == (2 if expected.epoch is None else expected.at)
        assert ("and maybe before" in told[0].notice.message) == (expected.epoch is None and expected.is_told)


def test_a_place_with_an_epoch_fits_the_least_metadata() -> None:
    place = Place(5, topic_id=2**128 - 1, renamed=True, times=1_000, epoch=2**31 - 1)
    text = place.metadata(LEAST_BYTES)
    assert len(text) <= LEAST_BYTES
    assert place_of_commit(5, text) == place
