"""Why a member of a consumer group cannot read, as the newest metadata says."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.cluster import ClusterMetadata
from aiokafka.protocol.metadata import MetadataResponse_v1

from trigger_sources.kafka.health import Health
from trigger_sources.kafka.partition import Partition
from trigger_sources.kafka.places import Place

BROKERS = [(1, "one", 9092, None), (2, "two", 9092, None)]


def consumer(leaders: list[int], coordinator: int | None = 1) -> Any:
    """A consumer that knows the topic `t`, with these leaders of its partitions."""
    cluster = ClusterMetadata()
    partitions = [(5 if leader == -1 else 0, number, leader, [1, 2], [1, 2]) for number, leader in enumerate(leaders)]
    cluster.update_metadata(MetadataResponse_v1(BROKERS, 1, [(0, "t", False, partitions)]))
    return SimpleNamespace(
        partitions_for_topic=cluster.partitions_for_topic,
        _client=SimpleNamespace(cluster=cluster),
        _coordinator=SimpleNamespace(coordinator_id=coordinator),
    )


def problem(
    found: Any, *, in_session: bool = True, topics: tuple[str, ...] = ("t",), silent: tuple[int, ...] = ()
) -> tuple[str, str] | None:
    assigned = {tp: partition(tp) for number in found.partitions_for_topic("t") if (tp := TopicPartition("t", number))}
    return Health(found, "g", topics, 10).problem(assigned, in_session=in_session, silent=silent)


def partition(tp: TopicPartition) -> Partition:
    return Partition(tp, Place(0), "c", asyncio.Event(), 0)


def test_nothing_is_wrong_where_every_partition_has_a_leader() -> None:
    assert problem(consumer([1, 2, 1])) is None
    assert problem(consumer([1]), in_session=False) is None, "a rebalance takes its time"
    assert problem(consumer([1], coordinator=None)) is None, "a coordinator that moves is found again in time"


@pytest.mark.parametrize(
    ("leaders", "named"), [([1, -1], "t/1, so"), ([-1] * 8, "t/0, t/1, t/2, t/3, t/4 and 3 more, so")]
)
def test_partitions_that_no_broker_leads_are_named(leaders: list[int], named: str) -> None:
    found = problem(consumer(leaders))
    assert found is not None
    assert found[0] == "PartitionOffline"
    assert f"no broker leads {named}" in found[1]


def test_partitions_that_are_assigned_and_not_taken_over_count() -> None:
    found = consumer([1, -1])
    health = Health(found, "g", ("t",), 10)
    first, second = TopicPartition("t", 0), TopicPartition("t", 1)
    assert health.problem({first: partition(first)}, in_session=True) is None
    offline = health.problem({first: partition(first)}, in_session=True, assigned={first, second})
    assert offline is not None
    assert "no broker leads t/1, so" in offline[1]
    unchecked = health.problem({first: partition(first)}, in_session=True, unchecked={first})
    assert unchecked is not None
    assert unchecked[0] == "PartitionOffline"
    assert "nothing is read from t/0 until" in unchecked[1]


def test_partitions_of_a_broker_that_does_not_answer_are_named() -> None:
    assert problem(consumer([1, 2, 1]), silent=(2,)) == (
        "PartitionOffline",
        "no answer from broker 2, so nothing arrives from t/1; check the broker, and the network between",
    )
    assert problem(consumer([1, 1]), silent=(2,)) is None, "it leads none of them"


def test_a_group_that_no_broker_coordinates_starts_no_event() -> None:
    found = problem(consumer([1], coordinator=None), in_session=False)
    assert found is not None
    assert found[0] == "CoordinatorMissing"
    assert "group 'g'" in found[1]


def test_a_coordinator_that_does_not_answer_starts_no_event() -> None:
    found = problem(consumer([1], coordinator=2), in_session=False, silent=(2,))
    assert found is not None
    assert found[0] == "CoordinatorMissing"
    assert "no answer from broker 2, which coordinates it, so no event starts" in found[1]
    assert problem(consumer([1], coordinator=2), silent=(2,)) is None, "the session lasts"


def test_the_brokers_that_are_needed_lead_partitions_or_coordinate_the_group() -> None:
    health = Health(consumer([1, 2, -1], coordinator=3), "g", ("t",), 10)
    assert health.needed([TopicPartition("t", 1), TopicPartition("t", 2)]) == {2, 3}
    assert Health(consumer([1], coordinator=None), "g", ("t",), 10).needed([]) == set()


def test_a_missing_topic_comes_first() -> None:
    found = problem(consumer([-1]), topics=("t", "u"))
    assert found is not None
    assert found == ("TopicMissing", "spec.topics: no topic 'u'; create it, or set createTopics; the others are read")


def test_a_partition_that_one_record_keeps_from_being_read_is_named_after_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1_000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    tp = TopicPartition("t", 0)
    found = partition(tp)
    health = Health(consumer([1]), "g", ("t",), 10)
    for offset in range(10):
        found.mark.take(offset)
    assert health.problem({tp: found}, in_session=True) is None
    now += 61
    found.mark.settle(0)
    found.mark.take(10)
    assert health.problem({tp: found}, in_session=True) is None, "it moves, though slowly"
    now += 61
    problem = health.problem({tp: found}, in_session=True)
    assert problem is not None
    assert problem[0] == "DistanceReached"
    assert "from t/0: offset 1 of" in problem[1]
    found.mark.settle(1)
    assert health.problem({tp: found}, in_session=True) is None
