"""Decides which held events may start, so that the events of one lane run one at a time and in order. Pure.

A lane is a key, not a hash slot: it exists while it has events that are not settled. Its first event is ready, running,
waiting for an attempt or parked; the others queue behind it.
"""

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Lanes(Generic[T]):
    """Events of one trigger and function. An event with the key None is ordered with no other."""

    __slots__ = ("_behind", "ready")

    def __init__(self) -> None:
        self.ready: deque[T] = deque()  # first events of their lanes that may start, oldest first
        self._behind: dict[Hashable, deque[T] | None] = {}  # by lane, the events behind its first one

    def add(self, key: Hashable | None, item: T) -> bool:
        """Returns whether the item is the first of its lane."""
        if key is None:
            self.ready.append(item)
            return True
        behind = self._behind
        if key not in behind:
            behind[key] = None  # most lanes never hold a second event: no queue until one comes
            self.ready.append(item)
            return True
        queue = behind[key]
        if queue is None:
            behind[key] = deque((item,))
        else:
            queue.append(item)
        return False

    def take_out(self, key: Hashable | None, item: T, *, first: bool) -> None:
        """The item no longer waits. The first of a lane stays its first until `finish`."""
        if first:
            self.ready.remove(item)
        else:
            queue = self._behind[key]
            assert queue is not None
            queue.remove(item)

    def finish(self, key: Hashable | None) -> T | None:
        """The lane's first event is done with. Returns the event that is the first one now, and may start."""
        if key is None:
            return None
        queue = self._behind[key]
        if queue:
            item = queue.popleft()
            self.ready.append(item)
            return item
        del self._behind[key]
        return None

    def queued(self, key: Hashable) -> int:
        """How many events queue behind the lane's first one."""
        return len(self._behind.get(key) or ())

    def __contains__(self, key: Hashable) -> bool:
        return key in self._behind

    def __len__(self) -> int:
        """How many lanes there are."""
        return len(self._behind)
