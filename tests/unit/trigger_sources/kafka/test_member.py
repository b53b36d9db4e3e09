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
    member._remembered[tp] = Remembered(7, mark, 5)
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


async def test_a_memory_that_another_member_changes_during_a_look_up_ends_nothing() -> None:
    """Two members of one process share it, while one leaves and the next one joins."""
    tp = TopicPartition("t", 0)
    member = Member(
        StandInContext(uid="another"), cluster="c", group="g", topics=["t"], start="earliest", max_distance=10,
        skips_tombstones=False, concurrency=1,
    )  # fmt: skip
    member._remembered[tp] = Remembered(7, Watermark(5), committed=5)
    stand_ins: Any = member
    stand_ins._consumer = SimpleNamespace(partitions_for_topic=lambda topic: {0})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trigger_sources.kafka.member.present_ids", lambda consumer, expected: changed(member))
        await member._forget_what_others_have([])
    assert not member._remembered


async def test_a_topic_without_an_id_that_was_missing_and_has_its_offsets_is_told() -> None:
    """Nobody can tell whether it was created again."""
    tp = TopicPartition("t", 0)
    context = StandInContext(uid="a-third")
    member = Member(
        context, cluster="c", group="g", topics=["t"], start="earliest", max_distance=10, skips_tombstones=False,
        concurrency=1,
    )  # fmt: skip

    async def of(assigned: list[TopicPartition]) -> dict[TopicPartition, Beginning]:
        return {tp: Beginning(Place(5, frozenset({8})), "Committed")}

    async def commit(places: dict[TopicPartition, Place]) -> None:
        pass

    async def end_offsets(partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return {tp: 9}

    stand_ins: Any = member
    stand_ins._beginnings = SimpleNamespace(of=of, commit=commit)
    stand_ins._consumer = SimpleNamespace(seek=lambda tp, offset: None, end_offsets=end_offsets)
    member._gone.add(tp)
    await member._take_over([tp])
    connected, reason, message = context.reports[-1]
    assert (connected, reason) == (True, "TopicMaybeRecreated")
    assert "records before these offsets are not read: t/0 from 9; to read them, reset the group's" in message
    await member._take_over([tp])
    assert not member._gone


async def changed(member: Member) -> dict[str, int]:
    member._remembered.clear()
    return {}
