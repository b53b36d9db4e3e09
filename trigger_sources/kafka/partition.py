"""One partition that this member of the group reads."""

import asyncio
from collections.abc import Awaitable
from dataclasses import replace

from aiokafka import TopicPartition

from trigger_sources.delivery import SETTLED, Delivery, Outcome
from trigger_sources.kafka.commit_metadata import LEAST_BYTES, MOST_BYTES, decode
from trigger_sources.kafka.places import Place, topic_name
from trigger_sources.kafka.watermark import Watermark


class Partition:
    """From taken over to given up. `suspects`: the number of next records that may be what ends the process."""

    __slots__ = (
        "alive", "committed", "full_at", "full_since", "id_prefix", "kept", "leaves", "mark", "metadata_bytes", "name",
        "notify", "place", "position", "reads", "source", "suspects", "tp",
    )  # fmt: skip

    def __init__(self, tp: TopicPartition, place: Place, cluster: str, notify: asyncio.Event, suspects: int) -> None:
        name = topic_name(tp.topic, place)
        self.tp = tp
        self.place = place
        self.name = f"{tp.topic}/{tp.partition}"
        self.position = f"{name}/{tp.partition}/"
        self.id_prefix = f"{cluster}/{self.position}"
        self.source = f"/kafka/{cluster}/{tp.topic}"
        self.mark = Watermark(place.offset, place.settled)
        self.suspects = suspects if place.times > 1 else 0
        self.committed: tuple[int, str] | None = None
        self.kept: str | None = None
        self.metadata_bytes = MOST_BYTES  # of a commit
        self.notify = notify
        self.alive = True
        self.reads = True  # False once its topic turned out to be another one
        self.full_at = -1  # the lowest unsettled offset, while no more may be taken
        self.full_since = 0.0  # by the monotonic clock
        self.leaves = False  # True once an orderly end is under way

    def settle(self, offset: int, outcome: Outcome) -> Awaitable[None]:
        if not self.alive:
            raise ConnectionError(f"{self.name} is assigned to another member, or was given up")
        if outcome.final:
            self.mark.settle(offset)
            self.notify.set()
        return SETTLED

    def full_seconds(self, max_distance: int, now: float) -> float:
        """For how long the same record has kept others from being taken, as far as the calls of this method show."""
        mark = self.mark
        if mark.distance < max_distance:
            self.full_at = -1
            return 0.0
        if self.full_at != mark.committable:
            self.full_at, self.full_since = mark.committable, now
        return now - self.full_since

    def goes_on(self, epoch: int) -> None:
        """The log has all that was read, and goes on with records of that leader's epoch."""
        self.place = replace(self.place, epoch=epoch)

    def shrink(self) -> bool:
        """The broker takes less metadata: a crash may repeat more. Returns whether it is any smaller."""
        before, self.metadata_bytes = self.metadata_bytes, max(LEAST_BYTES, self.metadata_bytes // 2)
        return self.metadata_bytes < before

    def now(self) -> Place:
        """The present place, for a commit."""
        mark, place = self.mark, self.place
        return Place(mark.committable, mark.above(), place.topic_id, place.renamed, self._times(), place.epoch)

    def snapshot(self) -> tuple[int, str]:
        """The content of its commit."""
        place = self.place
        packed = Place(0, topic_id=place.topic_id, renamed=place.renamed, times=self._times(), epoch=place.epoch)
        return self.mark.committable, self.mark.metadata(packed.marks, self.metadata_bytes)

    @property
    def uncommitted(self) -> int:
        """How many offsets settled since the last commit; some may hold no record."""
        offset, known = self.place.offset, self.place.settled
        if self.committed is not None:
            offset, metadata = self.committed
            known = decode(offset, metadata)
        return len(self.mark.settled_from(offset) - known)

    def _times(self) -> int:
        if self.leaves:
            return 0
        return self.place.times if self.mark.committable == self.place.offset else 1

    def suspected(self, deliveries: list[Delivery]) -> list[Delivery]:
        """Says of the next records how often they were handed out: the process ended without settling them."""
        count = min(self.suspects, len(deliveries))
        self.suspects -= count
        times = self.place.times
        return [*(replace(delivery, handed_out=times) for delivery in deliveries[:count]), *deliveries[count:]]
