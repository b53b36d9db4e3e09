"""One partition that this member of the group reads."""

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from typing import Any

from aiokafka import TopicPartition

from trigger_sources.delivery import SETTLED, Delivery, Outcome
from trigger_sources.kafka.commit_metadata import LEAST_BYTES, MOST_BYTES, decode
from trigger_sources.kafka.places import Place, topic_name
from trigger_sources.kafka.watermark import Watermark


class Partition:
    """From taken over to given up. `suspects`: the number of next records that may be what ends the process."""

    __slots__ = (
        "alive", "committed", "full_at", "full_since", "id_prefix", "kept", "leaves", "mark", "metadata_bytes", "name",
        "notify", "place", "position", "reads", "source", "suspects", "tp", "waiting",
        "waits_until",
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
        # How many records before that offset were taken by the member before, and were not read again yet
        self.waiting, self.waits_until = place.waiting, place.offset + place.reach
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
        return replace(self._marked(), offset=self.mark.committable, settled=self.mark.above())

    def snapshot(self) -> tuple[int, str]:
        """The content of its commit."""
        return self.mark.committable, self.mark.metadata(self._marked().marks, self.metadata_bytes)

    def _marked(self) -> Place:
        """The content of a commit, without its offsets."""
        mark, unread = self.mark, max(0, self.waiting)
        end = max(mark.end, self.waits_until) if unread else mark.end
        return replace(
            self.place, times=self._times(), waiting=mark.unsettled + unread, reach=max(0, end - mark.committable)
        )

    def compacted(self, records: Sequence[Any], position: int) -> int:
        """How many of the waiting records are gone, told once `records` up to that position have passed them all."""
        self.waiting -= sum(one.offset < self.waits_until and not self.mark.knows(one.offset) for one in records)
        if position < self.waits_until:
            return 0
        gone, self.waiting = max(0, self.waiting), 0
        return gone

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
