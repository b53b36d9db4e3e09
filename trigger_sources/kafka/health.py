"""Finds out why a member of a group cannot read: the client tells nobody, and tries again silently."""

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from trigger_sources.kafka.client import advertised_by
from trigger_sources.kafka.leaders import NO_LEADER
from trigger_sources.kafka.partition import Partition

_NAMED = 5
_FULL_SECONDS = 60.0


class Health:
    """Of one member. `topics` are those that must exist."""

    def __init__(self, consumer: AIOKafkaConsumer, group: str, topics: Sequence[str], max_distance: int) -> None:
        self._consumer: Any = consumer
        self._group = group
        self._topics = topics
        self._max_distance = max_distance

    @property
    def brokers(self) -> str:
        """The addresses of the brokers."""
        return ", ".join(advertised_by(self._consumer._client))

    def needed(self, partitions: Collection[TopicPartition]) -> set[int]:
        """The ids of the brokers that lead partitions, as the newest metadata says, and of the group's coordinator."""
        found = {self._consumer._client.cluster.leader_for_partition(tp) for tp in partitions}
        return {*found, self._consumer._coordinator.coordinator_id} - set(NO_LEADER)

    def problem(
        self,
        partitions: Mapping[TopicPartition, Partition],
        *,
        in_session: bool,
        silent: Collection[int] = (),
        assigned: Collection[TopicPartition] = (),
        unchecked: Collection[TopicPartition] = (),
    ) -> tuple[str, str] | None:
        """A CamelCase reason and a message, as the newest metadata says. None if all partitions can be read.

        `partitions` are taken over, `assigned` ones are about to be. Nobody told yet whether `unchecked` ones were cut.

        `in_session`: whether the group's coordinator still counts the member in. `silent`: the ids of brokers that do
        not answer.
        """
        missing = sorted(topic for topic in self._topics if not self._consumer.partitions_for_topic(topic))
        if missing:
            others = "; the others are read" if len(missing) < len(set(self._topics)) else ""
            return "TopicMissing", missing_text(missing) + others
        coordinator = self._consumer._coordinator.coordinator_id
        if not in_session and (coordinator is None or coordinator in silent):
            which = (
                "no broker coordinates it"
                if coordinator is None
                else f"no answer from broker {coordinator}, which coordinates it"
            )
            return (
                "CoordinatorMissing",
                f"group {self._group!r}: {which}, so no event starts and nothing is committed;"
                " check the brokers that have copies of the topic __consumer_offsets",
            )
        leader = self._consumer._client.cluster.leader_for_partition
        needed = {*partitions, *assigned}
        offline = sorted(tp for tp in needed if leader(tp) in NO_LEADER)
        if offline:
            return (
                "PartitionOffline",
                f"no broker leads {named(offline)}, so nothing arrives from there;"
                " check the brokers that have copies of it",
            )
        unheard = sorted(tp for tp in needed if leader(tp) in silent)
        if unheard:
            brokers = sorted({leader(tp) for tp in unheard})
            return (
                "PartitionOffline",
                f"no answer from broker {', '.join(map(str, brokers))}, so nothing arrives from {named(unheard)};"
                " check the broker, and the network between",
            )
        if unchecked:
            return (
                "PartitionOffline",
                f"nothing is read from {named(sorted(unchecked))} until the leader tells whether records were lost"
                " there; check the broker, and the network between",
            )
        now = time.monotonic()
        full = sorted(
            tp for tp, found in partitions.items() if found.full_seconds(self._max_distance, now) > _FULL_SECONDS
        )
        if full:
            return (
                "DistanceReached",
                f"nothing more is taken from {named(full)}: offset {partitions[full[0]].mark.committable} of the first"
                f" one is not settled, and spec.maxDistance ({self._max_distance}) records follow it; mend the"
                " function, or `kubeirq lanes release` or `skip` it",
            )
        return None


def named(partitions: Sequence[TopicPartition]) -> str:
    """The first ones by name, and the number of the others."""
    more = f" and {len(partitions) - _NAMED} more" if len(partitions) > _NAMED else ""
    return ", ".join(f"{tp.topic}/{tp.partition}" for tp in partitions[:_NAMED]) + more


def missing_text(topics: Sequence[str]) -> str:
    return f"spec.topics: no topic {', '.join(map(repr, topics))}; create it, or set createTopics"
