"""Takes fetched records from the client, so that each partition gets its turn and none gets ahead too far."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

_LEAST_BYTES = 64 * 1024  # a fetch that brings less costs more than it saves
_MOST_BYTES_OF_A_PARTITION = 1024 * 1024

Records = Sequence[tuple[TopicPartition, Sequence[Any]]]


class Fetching:
    """The client alone would hand out all that it has of one partition, before anything of the next one."""

    def __init__(self, consumer: AIOKafkaConsumer, most: Callable[[TopicPartition], int]) -> None:
        """`most` returns how many records of a partition may be taken now."""
        self._consumer = consumer
        self._most = most
        self._reads = 0
        self._read_at: dict[TopicPartition, int] = {}  # the number of the last read that took from it

    def bound(self, size: int, partitions: int) -> None:
        """Lets the client have `size` bytes of fetched records, over so many partitions. A larger record comes alone.

        The client fetches a partition again when its records have been taken.
        """
        fetcher = self._consumer._fetcher
        fetcher._fetch_max_bytes = max(_LEAST_BYTES, size)
        share = size // max(1, partitions)
        fetcher._max_partition_fetch_bytes = max(_LEAST_BYTES, min(share, _MOST_BYTES_OF_A_PARTITION))

    async def read(self, room: int, seconds: float) -> Records:
        """The next records, at most `room`; after so many seconds none. Raises KafkaError."""
        consumer: Any = self._consumer
        consumer._coordinator.check_errors()
        if consumer._subscription.reassignment_in_progress:
            with consumer._subscription.fetch_context():  # a member that was idle for too long joins again only then
                await asyncio.sleep(0.05)  # the client itself would wait for however long that takes
            return []
        open_ = self._open()
        if not open_:
            await self._arrival(seconds)
            open_ = self._open()
        found: list[tuple[TopicPartition, Sequence[Any]]] = []
        for waiting, tp in zip(range(len(open_), 0, -1), open_, strict=True):
            most = min(open_[tp], max(1, room // waiting))
            try:
                got = await consumer.getmany(tp, max_records=most)
            except KafkaError:
                if not found:
                    raise
                break  # it comes again with the next fetch; what was taken must not be lost
            if tp in got:
                found.append((tp, got[tp]))
                self._reads += 1
                self._read_at[tp] = self._reads
                room -= len(got[tp])
            if room < 1:
                break
        return found

    def _open(self) -> Mapping[TopicPartition, int]:
        """The partitions that have fetched records, or an error, and may be read; the longest unread one first."""
        fetched = [(tp, most) for tp in self._consumer._fetcher._records if (most := self._most(tp)) > 0]
        if len(fetched) > 1:
            fetched.sort(key=lambda one: self._read_at.get(one[0], 0))
        return dict(fetched)

    async def _arrival(self, seconds: float) -> None:
        """Returns when something was fetched, or after so many seconds. Raises errors of the group."""
        waiter = self._consumer._fetcher._create_fetch_waiter()
        try:
            async with asyncio.timeout(seconds):
                await waiter
        except TimeoutError:
            return
