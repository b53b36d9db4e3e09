"""The memory of a member of a consumer group, between two assignments of a partition."""

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError

from trigger_sources.kafka.member import Member
from trigger_sources.kafka.places import Beginning, Place
from trigger_sources.kafka.remembered import Remembered
from trigger_sources.kafka.watermark import Watermark
from trigger_sources.testing import StandInContext


async def test_records_that_settled_are_remembered_until_the_group_accepts_the_places() -> None:
    """The last commit failed, and so does the first one after the partition came back: the group rebalances again."""
    tp = TopicPartition("t", 0)
    member = Member(
        StandInContext(), cluster="c", group="g", topics=["t"], start="earliest", max_distance=10,
        skips_tombstones=False, concurrency=1,
    )  # fmt: skip
    mark = Watermark(5)
    mark.take(5)
    mark.settle(5)
    member._remembered[tp] = Remembered(7, mark, committed=5)
    places: list[Place] = []

    async def commit(found: dict[TopicPartition, Place]) -> None:
        places.append(found[tp])
        if len(places) == 1:
            raise CommitFailedError

    stand_ins: Any = member
    stand_ins._beginnings = SimpleNamespace(commit=commit)
    stand_ins._consumer = SimpleNamespace(seek=lambda tp, offset: None)
    beginning = Beginning(Place(5, topic_id=7), "Committed", in_group=True)
    with pytest.raises(CommitFailedError):
        await member._begin({tp: beginning})
    await member._begin({tp: beginning})
    assert [set(place.settled) for place in places] == [{5}, {5}]
    assert not member._remembered
