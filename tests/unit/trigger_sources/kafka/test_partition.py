"""A partition that a member reads: the records that a crash would repeat, besides those that run."""

import asyncio

from aiokafka import TopicPartition

from trigger_sources.delivery import Outcome
from trigger_sources.kafka.partition import Partition
from trigger_sources.kafka.places import Place

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
