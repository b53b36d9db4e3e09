"""Pure: which held events may start, so that those of one lane run one at a time and in order.

A lane is a key, not a hash slot: it exists while it has events that are not settled. Its first event owns it (ready,
running, waiting for a retry or parked); the others queue behind it.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Lanes(Generic[T]):
    """Events of one trigger and function. A key of None is ordered with nothing."""

    __slots__ = ("_behind", "ready")

    def __init__(self) -> None:
        self.ready: deque[T] = deque()  # owners that may start, oldest first
        self._behind: dict[Hashable, deque[T] | None] = {}  # per lane what queues behind its owner

    def add(self, key: Hashable | None, item: T) -> None:
        if key is None:
            self.ready.append(item)
            return
        behind = self._behind
        if key not in behind:
            behind[key] = None  # most lanes never hold a second event: no queue until one comes
            self.ready.append(item)
            return
        queue = behind[key]
        if queue is None:
            behind[key] = deque((item,))
        else:
            queue.append(item)

    def finish(self, key: Hashable | None) -> None:
        """The lane's owner is done with: the next one may start."""
        if key is None:
            return
        queue = self._behind[key]
        if queue:
            self.ready.append(queue.popleft())
        else:
            del self._behind[key]

    def forget(self, lost: Callable[[T], bool]) -> list[T]:
        """Removes those that queue behind an owner and are lost; returns them."""
        forgotten: list[T] = []
        for key, queue in self._behind.items():
            if not queue:
                continue
            kept: deque[T] = deque()
            for item in queue:
                (forgotten if lost(item) else kept).append(item)
            if len(kept) != len(queue):
                self._behind[key] = kept
        return forgotten

    def queued(self, key: Hashable) -> int:
        """How many queue behind the lane's owner."""
        return len(self._behind.get(key) or ())

    def __contains__(self, key: Hashable) -> bool:
        return key in self._behind

    def __len__(self) -> int:
        """How many lanes there are."""
        return len(self._behind)

    def waiting(self) -> Iterator[T]:
        """Those that queue behind an owner."""
        for queue in self._behind.values():
            yield from queue or ()
