"""The memory of a member of a consumer group, between two assignments of a partition."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError

from trigger_sources.kafka.cut_logs import Cut
from trigger_sources.kafka.health import Health
from trigger_sources.kafka.member import Member
from trigger_sources.kafka.partition import Partition
from trigger_sources.kafka.places import Beginning, Place
from trigger_sources.kafka.remembered import Remembered, remembered
from trigger_sources.kafka.topic_ids import TopicIdsRequest
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
    stand_ins._consumer = SimpleNamespace(
        seek=lambda tp, offset: None,
        end_offsets=end_offsets,
        beginning_offsets=end_offsets,
        _client=SimpleNamespace(
            cluster=SimpleNamespace(leader_for_partition=lambda tp: 1), force_metadata_update=lambda: None
        ),
    )
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


class Brokers:
    """The far side of a member: a log from `first` to `end`, and a group that refuses the first `refusals` commits."""

    def __init__(self, found: Beginning, first: int, end: int, refusals: int) -> None:
        self.found, self.first, self.end, self.refusals = found, first, end, refusals
        self.committed: list[Place] = []
        self.seeks: list[int] = []
        self._subscription: Any = SimpleNamespace(subscription=None)
        self.epoch = 3  # that of the present leaders, which lost nothing
        self.led: dict[int, int] = {}  # the leaders of partitions that have another one than broker 1
        cluster = SimpleNamespace(leader_for_partition=lambda tp: self.led.get(tp.partition, 1))
        self._client: Any = SimpleNamespace(cluster=cluster, send=self.send, force_metadata_update=self.nothing)
        self._coordinator = SimpleNamespace(coordinator_id=1)

    def nothing(self) -> asyncio.Future[None]:
        done: asyncio.Future[None] = asyncio.Future()
        done.set_result(None)
        return done

    async def send(self, broker: int, request: Any) -> Any:
        if isinstance(request, TopicIdsRequest):
            partitions = [(0, number, 1, self.epoch) for number in (0, 1)]
            return SimpleNamespace(topics=[(0, "t", 7, False, partitions)])
        answers = [(0, tp.partition, min(epoch, self.epoch), self.end) for tp, epoch in request._epochs.items()]
        return SimpleNamespace(topics=[("t", answers)])

    async def of(self, assigned: list[TopicPartition]) -> dict[TopicPartition, Beginning]:
        return dict.fromkeys(assigned, self.found)

    async def anew(self, topic_ids: dict[TopicPartition, int]) -> dict[TopicPartition, Beginning]:
        return {
            tp: Beginning(Place(self.first, topic_id=topic_id, renamed=True), "TopicRecreated")
            for tp, topic_id in topic_ids.items()
        }

    async def commit(self, places: dict[TopicPartition, Place]) -> None:
        if self.refusals:
            self.refusals -= 1
            raise CommitFailedError
        self.committed += places.values()

    async def accept(self, commits: dict[TopicPartition, tuple[int, str]]) -> None: ...

    async def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, self.end)

    async def beginning_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, self.first)

    def partitions_for_topic(self, topic: str) -> set[int]:
        return {0, 1}

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self.seeks.append(offset)


TP = TopicPartition("t", 0)


def member_of(brokers: Brokers, uid: str) -> tuple[Member, StandInContext]:
    context = StandInContext(uid=uid)
    member = Member(
        context, cluster="c", group="g", topics=["t"], start="earliest", max_distance=10, skips_tombstones=False,
        concurrency=1,
    )  # fmt: skip
    stand_ins: Any = member
    stand_ins._beginnings = stand_ins._consumer = brokers
    return member, context


async def test_records_of_a_cut_log_are_counted_once_when_the_group_has_accepted_the_new_place() -> None:
    """The group refuses the first commit, as it assigns its partitions anew."""
    place = Place(5, frozenset({8, 9}), topic_id=7)
    brokers = Brokers(Beginning(place, "Committed", in_group=True), first=2, end=7, refusals=1)
    member, context = member_of(brokers, "cut-before")
    with pytest.raises(CommitFailedError):
        await member._take_over([TP])
    assert context.lost == []
    assert member._notices.text() == ("", "")
    await member._take_over([TP])
    assert context.lost == [(1, "Truncation")]  # that is 7
    assert "t/0 ends at 7, and was read up to 10" in context.reports[-1][2]
    assert brokers.seeks == [2]


async def test_a_topic_that_is_only_deleted_is_not_told_as_created_again() -> None:
    """A broker may give a topic that is gone another id."""
    brokers = Brokers(Beginning(Place(5, topic_id=7), "Committed", in_group=True), first=0, end=7, refusals=0)
    member, context = member_of(brokers, "deleted")
    member._partitions[TP] = partition = Partition(TP, Place(5, topic_id=7), "c", asyncio.Event(), 0)
    partition.mark.take(5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(brokers, "partitions_for_topic", lambda topic: None)
        await member._begin_anew({TP: 8})
    assert (context.lost, member._notices.text()) == ([], ("", ""))
    brokers.found = Beginning(Place(0, topic_id=8, renamed=True), "TopicRecreated")
    await member._take_over([TP])
    assert context.lost == [(1, "TopicRecreated")]
    assert "created again: topic 't'; 1 records of the old topic" in context.reports[-1][2]


async def test_what_the_group_refused_without_assigning_anew_is_taken_over_at_a_later_look() -> None:
    brokers = Brokers(Beginning(Place(5, topic_id=7), "Committed", in_group=True), first=0, end=7, refusals=1)
    member, context = member_of(brokers, "refused")
    member._assigned = {TP}
    await member._until_taken_over(lambda: member._take_over([TP]))
    assert TP not in member._partitions
    member._unread.look([TP], member._partitions, 0.0)
    assert "1 of 1 assigned partitions have not been read for 20 s: t/0; the last try ended with CommitFailedError" in (
        member._unread.look([TP], member._partitions, 20.0)
    )
    member._take_over_the_rest()
    assert member._taking_over is not None
    await member._taking_over
    assert member._partitions[TP].reads
    assert context.reports[-1][0]


async def test_records_that_were_only_taken_before_the_log_was_cut_are_counted_too() -> None:
    """Nothing above the commit settled: only the memory of the member knows that there was more."""
    brokers = Brokers(Beginning(Place(5, topic_id=7), "Committed", in_group=True), first=0, end=7, refusals=1)
    member, context = member_of(brokers, "cut-memory")
    mark = Watermark(5)
    for offset in (5, 6, 8, 9):  # 7 is a transaction's marker
        mark.take(offset)
    member._remembered[TP] = Remembered(7, mark, 5)
    with pytest.raises(CommitFailedError):
        await member._take_over([TP])
    assert context.lost == []
    await member._take_over([TP])
    assert context.lost == [(2, "Truncation")]
    assert brokers.seeks == [0]


@pytest.mark.parametrize("how", ["cut", "recreated"])
async def test_what_a_running_member_loses_is_counted_once_though_the_group_refuses_its_new_place(how: str) -> None:
    """The group assigns its partitions anew in between, so that only the memory knows of the lost records."""
    brokers = Brokers(Beginning(Place(5, topic_id=7), "Committed", in_group=True), first=0, end=7, refusals=1)
    member, context = member_of(brokers, f"running-{how}")
    partition = Partition(TP, Place(5, topic_id=7), "c", asyncio.Event(), 0)
    for offset in (5, 6, 7, 8, 9):
        partition.mark.take(offset)
    partition.mark.settle(8)
    member._partitions[TP] = partition
    begins = member._begin_anew({TP: 9})
    if how == "cut":
        begins.close()
        begins = member._begin_where_cut({TP: Cut(7, 7)}, {TP: member._known_now(partition)})
    with pytest.raises(CommitFailedError):
        await begins
    assert context.lost == []
    await member.on_partitions_revoked([TP])
    if how == "recreated":
        brokers.found = (await brokers.anew({TP: 9}))[TP]
    await member._take_over([TP])
    assert context.lost == [(2, "Truncation") if how == "cut" else (4, "TopicRecreated")]
    text = "up to 2 known ones were not delivered" if how == "cut" else "4 records of the old topic"
    assert text in context.reports[-1][2]
    await member._take_over([TP])
    assert len(context.lost) == 1


OTHER = TopicPartition("t", 1)


async def test_a_partition_without_a_leader_stops_no_other_one_and_is_not_read_unchecked() -> None:
    """A rebalance of a member that has joined. `Connected` is True again once the leader is there."""
    brokers = Brokers(Beginning(Place(50, topic_id=7, epoch=3), "Committed", in_group=True), 0, 100, 0)
    brokers.led[1] = -1
    member, context = member_of(brokers, "leaderless")
    member._joined = True
    member._health = Health(brokers, "g", ["t"], 10)  # type: ignore[arg-type]
    stand_ins: Any = member
    stand_ins._fetching = SimpleNamespace(bound=lambda size, partitions: None)
    await member.on_partitions_assigned([TP, OTHER])
    member._report_connected()
    assert context.reports == [], "they are not taken over"
    assert member._taking_over is not None
    await member._taking_over
    assert len(brokers.seeks) == 2
    assert (member._most(TP), member._most(OTHER)) == (10, 0)
    assert context.reports == []
    problem = member._health.problem(member._partitions, in_session=True, assigned=member._assigned)
    assert problem is not None
    assert "no broker leads t/1" in problem[1]
    await member._follow_leaders()
    assert member._most(OTHER) == 0
    brokers.led.clear()
    await member._follow_leaders()
    assert member._most(OTHER) == 10
    member._report_connected()
    assert [connected for connected, _, _ in context.reports] == [True]


async def test_a_cut_that_is_found_only_when_the_leader_is_back_is_counted_from_the_memory() -> None:
    """The group assigns its partitions anew in between."""
    brokers = Brokers(Beginning(Place(5, topic_id=7, epoch=3), "Committed", in_group=True), 0, 7, 0)
    brokers.led[0], brokers.epoch = -1, 4
    member, context = member_of(brokers, "leaderless-cut")
    mark = Watermark(5)
    for offset in (5, 6, 8, 9):
        mark.take(offset)
    member._remembered[TP] = Remembered(7, mark, 5, epoch=3)
    await member._take_over([TP])
    brokers.found = Beginning(brokers.committed[-1], "Committed", in_group=True)
    member._commits.consumer = SimpleNamespace(commit=brokers.accept)
    await member.on_partitions_revoked([TP])
    await member._take_over([TP])
    await member._follow_leaders()
    assert context.lost == []
    brokers.led.clear()
    await member._follow_leaders()
    assert member._taking_over is not None
    await member._taking_over
    assert context.lost == [(2, "Truncation")]
    assert brokers.committed[-1].offset == 5
    assert not member._remembered and not member._new_leaders and not member._unchecked


async def test_new_leaders_of_partitions_are_followed_one_by_one() -> None:
    brokers = Brokers(Beginning(Place(50), "Committed"), 0, 100, 0)
    brokers.led[1] = -1
    member, _ = member_of(brokers, "one-by-one")
    for tp in (TP, OTHER):
        member._partitions[tp] = Partition(tp, Place(50, topic_id=7, epoch=3), "c", asyncio.Event(), 0)
        member._fetched(tp, 4)
    await member._follow_leaders()
    assert (member._most(TP), member._most(OTHER)) == (10, 0)
    assert [partition.place.epoch for partition in member._partitions.values()] == [4, 3]


async def test_the_regular_look_at_the_others_goes_on_while_a_partition_has_no_leader() -> None:
    brokers = Brokers(Beginning(Place(50), "Committed"), 0, 40, 0)
    brokers.led[1], brokers.epoch = -1, 4
    member, context = member_of(brokers, "look")
    for tp in (TP, OTHER):
        member._partitions[tp] = Partition(tp, Place(50, topic_id=7, epoch=3), "c", asyncio.Event(), 0)
    member._fetched(OTHER, 4)
    await member._compare_logs()
    assert member._taking_over is not None
    await member._taking_over
    assert brokers.seeks == [40]
    assert context.lost == []


async def test_records_that_come_while_a_cut_partition_is_given_up_are_not_counted_as_lost() -> None:
    """All before 100 settled. The log was cut at 90, and had grown to 110 when that was found out."""
    brokers = Brokers(Beginning(Place(100), "Committed"), 0, 110, 0)
    member, context = member_of(brokers, "meanwhile")
    partition = Partition(TP, Place(100, topic_id=7, epoch=3), "c", asyncio.Event(), 0)
    member._partitions[TP] = partition
    state = SimpleNamespace(position=100, has_valid_position=True, highwater=110)
    assignment = SimpleNamespace(state_value=lambda tp: state)
    brokers._subscription = SimpleNamespace(subscription=SimpleNamespace(assignment=assignment))
    known = {TP: member._known_now(partition)}
    partition.mark.take(100)  # of the new log

    async def withdraw(partitions: Any, seconds: float) -> None:
        state.position, state.highwater = 120, 1_150

    stand_ins: Any = member
    stand_ins._withdraw = withdraw
    await member._begin_where_cut({TP: Cut(90, 110, 3)}, known)
    assert context.lost == []
    assert "was read up to 100: " in member._notices.text()[1]
    assert brokers.seeks == [90]


@pytest.mark.parametrize(
    ("commit", "waiting", "reach"),
    [
        (Place(0, topic_id=7, epoch=3), 5, 5),  # nobody read on
        (Place(0, frozenset({1, 2, 3, 4}), 7, epoch=3, waiting=1, reach=1), 1, 1),
        (Place(0, frozenset({1}), 7, epoch=3, waiting=4, reach=5), 3, 5),  # 2 settled here
        (Place(5, topic_id=7, epoch=3), 0, 0),
    ],
)
async def test_the_memory_of_waiting_records_ends_when_another_replica_has_read_on(
    commit: Place, waiting: int, reach: int
) -> None:
    member, _ = member_of(Brokers(Beginning(commit, "Committed"), 0, 9, 0), f"overtaken-{commit.offset}-{waiting}")
    partition = Partition(TP, Place(0, topic_id=7, epoch=3), "c", asyncio.Event(), 0)
    for offset in range(5):
        partition.mark.take(offset)
    member._remembered[TP] = remembered(partition)
    if waiting == 3:
        partition.mark.settle(2)
    place = member._with_memory(TP, Beginning(commit, "Committed", in_group=True))
    assert (place.waiting, place.reach) == (waiting, reach)
