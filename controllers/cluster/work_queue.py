"""A work queue of keys to reconcile: each key waits once, runs once at a time, and is retried with backoff.

Keys that changed go before those of a resync, so that an edit does not wait behind thousands of objects. Every fourth
key comes from the resync nevertheless, so that edits without end do not stop it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from controllers.cluster.metrics import QUEUE_DEPTH, RECONCILE_ERRORS, RECONCILE_SECONDS

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)

_FIRST_DELAY_SECONDS = 0.2
_MAX_DELAY_SECONDS = 60.0
_RESYNC_TURN = 4  # of so many keys, one comes from the resync


class WorkQueue(Generic[K]):
    """Call `add` when something about a key may have changed. The queue then calls `reconcile` with the key."""

    def __init__(
        self,
        reconcile: Callable[[K], Awaitable[None]],
        *,
        name: str = "",  # in metrics; without one the queue has none
        workers: int = 4,
        expected: tuple[type[Exception], ...] = (),  # errors of servers, which are logged without a traceback
    ) -> None:
        self._reconcile = reconcile
        self._name = name
        self._workers = workers
        self._expected = expected
        self._waiting: dict[K, None] = {}  # first in, first out; this and the next have no key in common
        self._resync: dict[K, None] = {}
        self._taken = 0
        self._running: set[K] = set()
        self._failures: dict[K, int] = {}
        self._delayed: dict[K, asyncio.TimerHandle] = {}
        self._wake = asyncio.Event()
        self._done = asyncio.Event()
        if name:
            QUEUE_DEPTH.read(name, lambda: self.depth)

    def add(self, key: K) -> None:
        if (timer := self._delayed.pop(key, None)) is not None:
            timer.cancel()
        self._resync.pop(key, None)
        self._waiting.setdefault(key)
        self._wake.set()

    def add_for_resync(self, key: K) -> None:
        """Adds a key about which nothing is known to have changed. Does nothing if the key waits."""
        if key not in self._waiting:
            self._resync.setdefault(key)
            self._wake.set()

    def add_after(self, key: K, seconds: float) -> None:
        """Adds the key after a delay. Does nothing if the key waits or has a delay."""
        if key not in self._waiting and key not in self._resync and key not in self._delayed:
            self._delayed[key] = asyncio.get_running_loop().call_later(seconds, self.add, key)

    @property
    def depth(self) -> int:
        """The number of keys that wait."""
        return len(self._waiting) + len(self._resync)

    @property
    def is_idle(self) -> bool:
        """Whether no key waits, runs or has a delay."""
        return not self.depth and not self._running and not self._delayed

    async def wait_until_idle(self) -> None:
        """Returns once no key waits or runs. A failed key may still have a delay."""
        while self.depth or self._running:
            self._done.clear()
            await self._done.wait()

    async def wait_for_running(self) -> None:
        """Returns once no key runs. Keys may still wait."""
        while self._running:
            self._done.clear()
            await self._done.wait()

    async def run(self) -> None:
        """Runs until it is cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._workers):
                    group.create_task(self._work())
        finally:
            for timer in self._delayed.values():
                timer.cancel()

    async def _work(self) -> None:
        while True:
            key = self._take()
            if key is None:
                self._wake.clear()
                await self._wake.wait()
                continue
            self._running.add(key)
            try:
                with RECONCILE_SECONDS.measured(queue=self._name):
                    await self._reconcile(key)
            except Exception as error:
                RECONCILE_ERRORS.add(queue=self._name)
                failures = self._failures[key] = self._failures.get(key, 0) + 1
                delay = min(_MAX_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2 ** (failures - 1))
                log.warning(
                    "reconcile failed",
                    extra={"key": str(key), "retry_in_seconds": delay, "problem": str(error)},
                    exc_info=not isinstance(error, self._expected),
                )
                self.add_after(key, delay)
            else:
                self._failures.pop(key, None)
            finally:
                self._running.discard(key)
                self._wake.set()  # the key may have been added again while it ran
                self._done.set()
            await asyncio.sleep(0)  # thousands of keys that need no request must not keep the loop from the Leases

    def _take(self) -> K | None:
        """The next key that does not run. None if there is none."""
        lanes = [self._waiting, self._resync]
        if self._taken % _RESYNC_TURN == _RESYNC_TURN - 1:
            lanes.reverse()
        for lane in lanes:
            for key in lane:
                if key not in self._running:
                    del lane[key]
                    self._taken += 1
                    return key
        return None
