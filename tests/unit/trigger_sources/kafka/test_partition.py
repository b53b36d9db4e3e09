"""A partition that a member reads: the records that a crash would repeat, besides those that run."""

import asyncio
from types import SimpleNamespace
from typing import Any

from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from trigger_sources.delivery import Outcome
from trigger_sources.kafka.commit_metadata import LEAST_BYTES
from trigger_sources.kafka.partition import Partition
from trigger_sources.kafka.places import Place, place_of_commit

DONE = Outcome("delivered")


def test_records_that_settled_since_the_last_commit_are_counted() -> None:
    partition = Partition(TopicPartition("t", 0), Place(5, frozenset({7})), "c", asyncio.Event(), 0)
    assert partition.uncommitted == 0, "the place with 7 was committed before the first record"
    for offset in (5, 6, 8, 9):
        partition.mark.take(offset)
    partition.settle(8, DONE)
    assert partition.uncommitted == 1
    partition.committed = partition.snapshot()
    assert partition.uncommitted == 0
    partition.settle(5, DONE)
    partition.settle(9, DONE)
    assert partition.uncommitted == 2
    partition.settle(6, Outcome("returned"))
    assert partition.uncommitted == 2, "it comes again in any case"
    partition.settle(6, DONE)
    assert partition.uncommitted == 3
    partition.committed = partition.snapshot()
    assert partition.uncommitted == 0


def record(offset: int) -> Any:
    return SimpleNamespace(offset=offset)


@given(
    st.lists(st.integers(0, 40), unique=True, min_size=1).map(sorted),
    st.sets(st.integers(0, 40)),
    st.sets(st.integers(0, 40)),
    st.integers(1, 7),
    st.booleans(),
)
def test_waiting_records_that_compaction_removed_are_counted_once(
    offsets: list[int], settled: set[int], removed: set[int], size: int, twice: bool
) -> None:
    """`offsets` are the records of a log. Another process reads it after compaction, `twice` from a new commit."""
    tp = TopicPartition("t", 0)
    before = Partition(tp, Place(0, topic_id=7), "c", asyncio.Event(), 0)
    for offset in offsets:
        before.mark.take(offset)
    for offset in settled:
        before.mark.settle(offset)
    waiting = set(offsets) - settled
    assert before.now().waiting == len(waiting)
    place, gone = place_of_commit(*before.snapshot()), 0
    left = [offset for offset in [*offsets, 50, 51] if offset not in removed or offset >= 50]
    for round_ in range(2 if twice else 1):
        partition = Partition(tp, place, "c", asyncio.Event(), 0)
        unread = [offset for offset in left if offset >= place.offset]
        if twice and round_ == 0:
            unread = unread[:size]  # then the process ends
        for first in range(0, len(unread), size):
            records = [record(offset) for offset in unread[first : first + size]]
            if partition.waiting:
                gone += partition.compacted(records, records[-1].offset + 1)
            for one in records:
                (partition.mark.skip if partition.mark.knows(one.offset) else partition.mark.take)(one.offset)
        place = place_of_commit(*partition.snapshot())
    assert gone == len(waiting & removed)


def test_a_commit_says_how_many_records_wait_in_the_least_metadata() -> None:
    place = Place(5, topic_id=2**128 - 1, renamed=True, times=1_000, epoch=2**31 - 1, waiting=10_000, reach=10_000)
    text = place.metadata(LEAST_BYTES)
    assert len(text) <= LEAST_BYTES
    assert place_of_commit(5, text) == place
