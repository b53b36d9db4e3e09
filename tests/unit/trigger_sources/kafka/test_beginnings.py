"""The beginning of a group while one of the partitions has no leader: the others begin."""

import time
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import OffsetAndMetadata, TopicPartition

from trigger_sources.kafka.beginnings import Beginnings
from trigger_sources.kafka.first_start import FirstStart
from trigger_sources.kafka.kept_places import KeptPlaces
from trigger_sources.testing import StandInContext

LED, OFFLINE = TopicPartition("t", 0), TopicPartition("t", 1)


class Brokers:
    """The far side: a group without commits, and logs from 3 to 9. Nobody leads the second partition at first."""

    def __init__(self) -> None:
        self.leaders = {LED: 1, OFFLINE: -1}
        self.commits: dict[TopicPartition, OffsetAndMetadata] = {}
        self.times: dict[TopicPartition, int] = {}
        cluster = SimpleNamespace(leader_for_partition=self.leaders.__getitem__)
        self._client = SimpleNamespace(cluster=cluster, force_metadata_update=lambda: None)
        self._coordinator = SimpleNamespace(
            fetch_committed_offsets=self.fetch, commit_offsets=self.commit_offsets, group_id="g"
        )

    async def fetch(self, partitions: list[TopicPartition]) -> dict[TopicPartition, OffsetAndMetadata]:
        return {tp: self.commits[tp] for tp in partitions if tp in self.commits}

    async def commit_offsets(self, _: object, commits: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        self.commits |= commits

    def subscription(self) -> set[str]:
        return {"t"}

    def partitions_for_topic(self, topic: str) -> set[int]:
        return {0, 1}

    def _of(self, partitions: list[TopicPartition], offset: int) -> dict[TopicPartition, int]:
        assert all(self.leaders[tp] > 0 for tp in partitions), "the client would wait for a leader"
        return dict.fromkeys(partitions, offset)

    async def beginning_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return self._of(partitions, 3)

    async def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return self._of(partitions, 9)

    async def offsets_for_times(self, times: dict[TopicPartition, int]) -> dict[TopicPartition, Any]:
        self.times |= times
        return {tp: SimpleNamespace(offset=offset) for tp, offset in self._of(list(times), 5).items()}


@pytest.fixture
def brokers(monkeypatch: pytest.MonkeyPatch) -> Brokers:
    async def ids(consumer: object, expected: Mapping[str, int]) -> Mapping[str, int]:
        return dict.fromkeys(expected, 7)

    monkeypatch.setattr("trigger_sources.kafka.beginnings.present_ids", ids)
    monkeypatch.setattr("trigger_sources.kafka.first_start.present_ids", ids)
    return Brokers()


def beginnings_in(brokers: Any, start: str) -> Beginnings:
    kept = KeptPlaces(StandInContext(), "c/g")
    return Beginnings(brokers, kept, FirstStart(brokers, kept, start))


async def offsets(beginnings: Beginnings) -> dict[TopicPartition, int]:
    return {tp: beginning.place.offset for tp, beginning in (await beginnings.of([LED, OFFLINE])).items()}


async def test_a_partition_without_a_leader_is_left_out_until_it_has_one(brokers: Brokers) -> None:
    beginnings = beginnings_in(brokers, "earliest")
    assert await offsets(beginnings) == {LED: 3}
    brokers.leaders[OFFLINE] = 2
    assert await offsets(beginnings) == {LED: 3, OFFLINE: 3}


async def test_with_start_latest_it_begins_at_the_moment_of_the_first_start(brokers: Brokers) -> None:
    before = time.time() * 1000
    assert await offsets(beginnings_in(brokers, "latest")) == {LED: 9}
    after = time.time() * 1000
    brokers.leaders[OFFLINE] = 2
    another_member = beginnings_in(brokers, "latest")
    assert await offsets(another_member) == {LED: 9, OFFLINE: 5}
    assert int(before) <= brokers.times[OFFLINE] <= after
    place = (await another_member.of([OFFLINE]))[OFFLINE].place
    assert place.since == 0, "its commit names an offset from now on"


async def test_with_a_time_it_begins_at_that_time(brokers: Brokers) -> None:
    assert await offsets(beginnings_in(brokers, "2026-01-01T00:00:00Z")) == {LED: 5}
    brokers.leaders[OFFLINE] = 2
    assert await offsets(beginnings_in(brokers, "2026-01-01T00:00:00Z")) == {LED: 5, OFFLINE: 5}
    assert brokers.times[OFFLINE] == 1_767_225_600_000
