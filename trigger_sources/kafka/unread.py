"""Partitions that the group assigns to a member and that the member does not read: the status names them."""

from collections.abc import Collection, Mapping

from aiokafka import TopicPartition

from trigger_sources.kafka.health import named
from trigger_sources.kafka.partition import Partition

_GRACE_SECONDS = 15.0  # a take-over asks brokers several times, for three seconds each


def unread(
    assigned: Collection[TopicPartition], partitions: Mapping[TopicPartition, Partition]
) -> list[TopicPartition]:
    """Those that are not taken over, or were given up and are not begun anew."""
    return [tp for tp in assigned if tp not in partitions or not partitions[tp].reads]


class Unread:
    """Since when each of them is not read, whatever the cause is."""

    def __init__(self) -> None:
        self._since: dict[TopicPartition, float] = {}
        self._refusal = ""

    def refused(self, error: Exception) -> None:
        """A take-over ended so."""
        self._refusal = f"{type(error).__name__}: {error}".removesuffix(": ")

    def look(
        self, assigned: Collection[TopicPartition], partitions: Mapping[TopicPartition, Partition], now: float
    ) -> str:
        """A message for a person; empty while none has been left for long."""
        left = unread(assigned, partitions)
        self._since = {tp: self._since.get(tp, now) for tp in left}
        if not left:
            self._refusal = ""
        late = sorted(tp for tp, since in self._since.items() if now - since >= _GRACE_SECONDS)
        if not late:
            return ""
        seconds = round(now - min(self._since[tp] for tp in late))
        cause = f"; the last try ended with {self._refusal}" if self._refusal else ""
        return (
            f"{len(late)} of {len(assigned)} assigned partitions have not been read for {seconds} s:"
            f" {named(late)}{cause}; the trigger tries again; if this lasts, restart this replica and report its log"
        )
