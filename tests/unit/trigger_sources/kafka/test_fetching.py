"""How fetched records are taken from the client: in turn, within the room and the distance, and none is lost."""

import asyncio
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import OffsetOutOfRangeError
from hypothesis import given
from hypothesis import strategies as st

from trigger_sources.kafka.fetching import Fetching

A, B, C = (TopicPartition("t", number) for number in range(3))


class Client:
    """Stands for the broker's side of the client: what it has fetched, in its order."""

    def __init__(self, fetched: Mapping[TopicPartition, list[int] | Exception]) -> None:
        self.fetched = dict(fetched)
        self._coordinator = SimpleNamespace(check_errors=lambda: None)
        self._subscription = SimpleNamespace(reassignment_in_progress=False)
        self._fetcher = SimpleNamespace(
            _records=self.fetched, _create_fetch_waiter=lambda: asyncio.get_running_loop().create_future()
        )

    async def getmany(self, tp: TopicPartition, max_records: int) -> Mapping[TopicPartition, Sequence[int]]:
        records = self.fetched[tp]
        if isinstance(records, Exception):
            del self.fetched[tp]
            raise records
        self.fetched[tp] = records[max_records:]
        if not self.fetched[tp]:
            del self.fetched[tp]
        return {tp: records[:max_records]}


async def test_each_partition_has_its_share_and_each_is_first_in_turn() -> None:
    client = Client({A: list(range(1_000)), B: list(range(1_000)), C: list(range(1_000))})
    fetching = Fetching(client, lambda _: 1_000)
    first = set()
    for _ in range(3):
        found = await fetching.read(90, 0)
        assert {tp: len(records) for tp, records in found} == {A: 30, B: 30, C: 30}
    for _ in range(3):
        ((tp, _),) = await fetching.read(1, 0)
        first.add(tp)
    assert len(first) == 3


async def test_a_partition_at_its_distance_waits_and_its_share_is_the_others() -> None:
    fetching = Fetching(Client({A: list(range(1_000)), B: list(range(1_000))}), {A: 0, B: 1_000}.__getitem__)
    assert [(tp, len(records)) for tp, records in await fetching.read(90, 0)] == [(B, 90)]
    fetching = Fetching(Client({A: list(range(1_000))}), {A: 0}.__getitem__)
    assert await fetching.read(90, 0) == []


async def test_an_error_of_one_partition_loses_no_records_of_another() -> None:
    client = Client({A: list(range(10)), B: OffsetOutOfRangeError({B: 1}), C: list(range(10))})
    fetching = Fetching(client, lambda _: 1_000)
    found: Any = []
    for _ in range(4):
        try:
            found += await fetching.read(90, 0)
        except OffsetOutOfRangeError:
            continue
    assert sorted(tp for tp, _ in found) == [A, C]


@given(st.dictionaries(st.integers(0, 9), st.integers(0, 50), min_size=1), st.integers(1, 100), st.integers(0, 20))
def test_no_read_is_larger_than_the_room_or_a_distance(sizes: dict[int, int], room: int, distance: int) -> None:
    fetched = {TopicPartition("t", number): list(range(size)) for number, size in sizes.items() if size}
    found = asyncio.run(Fetching(Client(fetched), lambda _: distance).read(room, 0))
    assert sum(len(records) for _, records in found) <= room
    assert all(len(records) <= distance for _, records in found)
