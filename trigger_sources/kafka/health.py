"""Finds out why a member of a group cannot read: the client tells nobody, and tries again silently."""

from collections.abc import Collection, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

_NAMED = 5


class Health:
    """Of one member. `topics` are those that must exist."""

    def __init__(self, consumer: AIOKafkaConsumer, group: str, topics: Sequence[str]) -> None:
        self._consumer: Any = consumer
        self._group = group
        self._topics = topics

    def problem(self, partitions: Collection[TopicPartition], *, in_session: bool) -> tuple[str, str] | None:
        """A CamelCase reason and a message, as the newest metadata says. None if all `partitions` can be read.

        `in_session`: whether the group's coordinator still counts the member in.
        """
        missing = sorted(topic for topic in self._topics if not self._consumer.partitions_for_topic(topic))
        if missing:
            return "TopicMissing", missing_text(missing)
        if not in_session and self._consumer._coordinator.coordinator_id is None:
            return (
                "CoordinatorMissing",
                f"group {self._group!r}: no broker coordinates it, so no event starts and nothing is committed;"
                " check the brokers that have copies of the topic __consumer_offsets",
            )
        leader = self._consumer._client.cluster.leader_for_partition
        offline = sorted(tp for tp in partitions if leader(tp) in (None, -1))
        if offline:
            named = ", ".join(f"{tp.topic}/{tp.partition}" for tp in offline[:_NAMED])
            more = f" and {len(offline) - _NAMED} more" if len(offline) > _NAMED else ""
            return (
                "PartitionOffline",
                f"no broker leads {named}{more}, so nothing arrives from there; check the brokers that have its copies",
            )
        return None


def missing_text(topics: Sequence[str]) -> str:
    return f"spec.topics: no topic {', '.join(map(repr, topics))}; create it, or set createTopics"
