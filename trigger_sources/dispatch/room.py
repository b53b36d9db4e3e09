"""The room for held events: how many there may be, how large, and how much of it one lane takes. Pure."""

from collections.abc import Hashable, Iterable

from trigger_sources.budget import Account

LIMIT_BYTES = 64 * 1024 * 1024
EVENT_BYTES = 2 * 1024  # of a held event, beside its data
_MOST_LIMITS = 8  # limits of events are held at most, with those that lanes have over their share
_MOST_LIMITS_OF_BYTES = 2


class Room:
    """Room for `limit` events with `limit_bytes` of data. A lane takes a quarter of each at most.

    The events that a lane has over its share stand beside the room, so that a stuck lane leaves the room of all others
    alone. `most` events and `most_bytes` of data bound both together. In bytes, a lane's share is that of the events
    behind its first one: most lanes never have a second event, and cost no entry here.

    `account` is the trigger's account in the memory of the process. Each look at how much is free tells it how much is
    used: once for each read, and not for each event.
    """

    __slots__ = (
        "_queues", "account", "beside", "bytes", "bytes_beside", "enough", "events", "limit", "limit_bytes", "most",
        "most_bytes", "share", "share_bytes",
    )  # fmt: skip

    def __init__(self, limit: int, limit_bytes: int = LIMIT_BYTES) -> None:
        self.limit = limit
        self.limit_bytes = limit_bytes
        self.most = limit * _MOST_LIMITS
        self.most_bytes = limit_bytes * _MOST_LIMITS_OF_BYTES
        self.share = max(1, limit // 4)
        self.share_bytes = limit_bytes // 4
        # A read for one or two events costs as much as one for hundreds: it waits until so many may be taken
        self.enough = self.share
        self.events = 0  # those that are held, and their bytes: each event counts itself here, without a call
        self.bytes = 0
        self.beside = 0  # of the events, those over the share of their lanes
        self.bytes_beside = 0
        self.account: Account | None = None  # None: only the room's own limits count
        self._queues: dict[Hashable, list[int]] = {}  # events and bytes behind a lane's first event

    @property
    def free(self) -> int:
        """How many more events may be taken; 0 while those that are held are as many, or as large, as they may be.

        The account bounds their number by the average size of those that are held. Less than a quarter of its floor is
        not worth a read.
        """
        left = self._left
        if self.account is None:
            return left
        used = self.memory
        allowance = self.account.allowance(used)
        if left == 0 or (used and allowance <= self.account.floor // 4):
            return 0
        return min(left, max(1, allowance * self.events // used if used else allowance // EVENT_BYTES))

    @property
    def is_full(self) -> bool:
        """Whether less may be taken than makes a read worth its cost, until events of this room leave."""
        return self._left < self.enough

    @property
    def memory(self) -> int:
        """The memory that the held events take, approximately."""
        return self.bytes + self.events * EVENT_BYTES

    @property
    def _left(self) -> int:
        if self.bytes - self.bytes_beside >= self.limit_bytes or self.bytes >= self.most_bytes:
            return 0
        return max(0, min(self.limit - (self.events - self.beside), self.most - self.events))

    def queue(self, lane: Hashable, size: int) -> None:
        """An event that has entered stands behind the first one of its lane."""
        queue = self._queues.get(lane)
        if queue is None:
            queue = self._queues[lane] = [1, size]
        else:
            queue[0] += 1
            queue[1] += size
        if queue[0] >= self.share:  # with the first one they are more
            self.beside += 1
        if queue[1] > self.share_bytes:
            self.bytes_beside += min(size, queue[1] - self.share_bytes)

    def unqueue(self, lane: Hashable, size: int) -> None:
        """An event stands no longer behind the first one: it is about to leave, or is the first one now."""
        queue = self._queues[lane]
        if queue[0] >= self.share:
            self.beside -= 1
        if queue[1] > self.share_bytes:
            self.bytes_beside -= min(size, queue[1] - self.share_bytes)
        if queue[0] == 1:
            del self._queues[lane]
        else:
            queue[0] -= 1
            queue[1] -= size

    def is_filled_by(self, lanes: Iterable[tuple[Hashable | None, int]]) -> bool:
        """Whether nothing more would be taken if only these lanes were left. Each comes with its first event's bytes.

        Many lanes with few events each do not count as long as they are small: they fill the room in any case.
        """
        left = Room(self.limit, self.limit_bytes)
        for lane, size in lanes:
            events, queued = self._queues.get(lane, (0, 0))
            left.events += 1 + events
            left.bytes += size + queued
            left.beside += max(0, 1 + events - self.share)
            left.bytes_beside += max(0, queued - self.share_bytes)
        return (left.beside > 0 or left.bytes >= left.limit_bytes) and left.free < left.enough
