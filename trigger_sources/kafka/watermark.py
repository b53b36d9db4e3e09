"""The watermark of a partition whose events settle out of order. Pure."""

from collections import deque
from collections.abc import Collection, Iterable, Set

from trigger_sources.kafka.commit_metadata import MOST_BYTES, encode

_PRUNE_LEAST = 256


class Watermark:
    """Offsets of one partition, taken in ascending order (with gaps) and settled in any order.

    `committable` is the lowest offset that is not settled. Offsets that were never taken, because they are compacted
    or a transaction's markers, count as settled.
    """

    __slots__ = ("_next", "_order", "_prune_at", "_settled", "_taken", "committable")

    def __init__(self, start: int, settled: Iterable[int] = ()) -> None:
        """`settled` are offsets from `start` on that settled before; `knows` finds them until they are skipped."""
        self.committable = start
        self._next = start  # the offset after the newest one that was taken or skipped
        self._taken: dict[int, int] = {}  # by unsettled offset: the time of the record
        # The taken offsets, lowest first; the first one is unsettled. A look for the first key of a dict would pass all
        # the keys that were deleted in front of it
        self._order: deque[int] = deque()
        # Above the lowest unsettled one; also those that were not read again yet, and lower ones until they are pruned
        self._settled = set(settled)
        self._prune_at = _PRUNE_LEAST

    def take(self, offset: int, at: int = 0) -> None:
        """Takes an offset; they come in ascending order. `at` is for `oldest_at`, in any unit."""
        if not self._taken:
            self.committable = offset
        self._taken[offset] = at
        self._order.append(offset)
        self._next = offset + 1

    def skip(self, offset: int) -> None:
        """Passes an offset that settled before, or that the policy does not deliver."""
        self._next = offset + 1
        if self._taken:
            self._settled.add(offset)
        else:
            self._settled.discard(offset)
            self.committable = self._next

    def knows(self, offset: int) -> bool:
        """Whether an offset that is not taken yet settled before."""
        return offset in self._settled

    def settle(self, offset: int) -> None:
        """Settles an offset. One that is not taken is ignored, because it settled already."""
        taken = self._taken
        if offset not in taken:
            return
        del taken[offset]
        if offset != self.committable:
            self._settled.add(offset)
            return
        order = self._order
        while order and order[0] not in taken:
            order.popleft()
        self.committable = order[0] if order else self._next
        if len(self._settled) > self._prune_at:
            self._settled = {found for found in self._settled if found >= self.committable}
            self._prune_at = max(_PRUNE_LEAST, 2 * len(self._settled))

    def reach(self, offset: int) -> bool:
        """Notes that all offsets before this one were seen. Returns whether that moves `committable`.

        It does not move while an offset is unsettled.
        """
        if self._taken or offset <= self._next:
            return False
        self.committable = self._next = offset
        return True

    @property
    def oldest_at(self) -> int | None:
        """The `at` of the lowest unsettled offset."""
        return self._taken[self._order[0]] if self._order else None

    @property
    def end(self) -> int:
        """The offset after the newest one that was taken or skipped."""
        return self._next

    @property
    def distance(self) -> int:
        """The distance from the lowest unsettled offset to the one after the newest taken one."""
        return self._next - self.committable

    @property
    def unsettled(self) -> int:
        return len(self._taken)

    def behind(self, end: int) -> int:
        """How many offsets up to `end`, without it, are not settled: the taken ones, and those that come after them.

        After a takeover it counts settled ones, too, until they are skipped.
        """
        return len(self._taken) + max(0, end - self._next)

    def unsettled_in(self, offset: int, end: int, elsewhere: Set[int] = frozenset()) -> int:
        """How many taken offsets from `offset` up to `end`, and without it, are settled neither here nor elsewhere."""
        return sum(offset <= found < end and found not in elsewhere for found in self._taken)

    def untaken(self, offset: int, end: int, elsewhere: Set[int] = frozenset()) -> int:
        """How many offsets from `offset` up to `end`, without it, were neither taken nor settled, here or elsewhere.

        `offset` is one that reading has not passed.
        """
        return max(0, end - offset - sum(offset <= found < end for found in self._settled | elsewhere))

    @property
    def settled_end(self) -> int:
        """The offset after the highest settled one that is known."""
        return max(self.committable, max(self._settled, default=-1) + 1)

    def settled_from(self, offset: int) -> set[int]:
        """All settled offsets from `offset` on, in case the partition comes back without its last commit."""
        return {*range(offset, self.committable), *(found for found in self._settled if found >= offset)}

    def above(self) -> set[int]:
        """The settled offsets above `committable`."""
        return {offset for offset in self._settled if offset >= self.committable}

    def metadata(self, marks: Collection[int] = (), most_bytes: int = MOST_BYTES) -> str:
        """The settled offsets above `committable`, for the commit's metadata: the lowest that fit; and the marks."""
        return encode(self.committable, self.above(), marks, most_bytes)
