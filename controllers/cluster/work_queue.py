"""Keys that wait to be reconciled: each once, never two at a time for one key, later again when it failed."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)

_FIRST_DELAY_SECONDS = 0.2
_MOST_DELAY_SECONDS = 60.0


class WorkQueue(Generic[K]):
    """`add` says that something about the key may have changed; `reconcile` finds out what."""

    def __init__(
        self,
        reconcile: Callable[[K], Awaitable[None]],
        *,
        workers: int = 4,
        expected: tuple[type[Exception], ...] = (),  # what a server may say any day: told without a traceback
    ) -> None:
        self._reconcile = reconcile
        self._workers = workers
        self._expected = expected
        self._waiting: dict[K, None] = {}  # in the order of their coming
        self._running: set[K] = set()
        self._failures: dict[K, int] = {}
        self._later: dict[K, asyncio.TimerHandle] = {}
        self._news = asyncio.Event()
        self._done = asyncio.Event()

    def add(self, key: K) -> None:
        if (timer := self._later.pop(key, None)) is not None:
            timer.cancel()
        self._waiting.setdefault(key)
        self._news.set()

    def add_after(self, key: K, seconds: float) -> None:
        """Unless it comes sooner."""
        if key not in self._waiting and key not in self._later:
            self._later[key] = asyncio.get_running_loop().call_later(seconds, self.add, key)

    @property
    def is_idle(self) -> bool:
        """Nothing waits, nothing runs."""
        return not self._waiting and not self._running and not self._later

    async def idle(self) -> None:
        """Returns once nothing waits and nothing runs; what failed may come again later."""
        while self._waiting or self._running:
            self._done.clear()
            await self._done.wait()

    async def quiet(self) -> None:
        """Returns once nothing runs at all, whatever waits."""
        while self._running:
            self._done.clear()
            await self._done.wait()

    async def run(self) -> None:
        """Until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._workers):
                    group.create_task(self._work())
        finally:
            for timer in self._later.values():
                timer.cancel()

    async def _work(self) -> None:
        while True:
            key = next((found for found in self._waiting if found not in self._running), None)
            if key is None:
                self._news.clear()
                await self._news.wait()
                continue
            del self._waiting[key]
            self._running.add(key)
            try:
                await self._reconcile(key)
            except Exception as error:
                failures = self._failures[key] = self._failures.get(key, 0) + 1
                delay = min(_MOST_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2 ** (failures - 1))
                log.warning(
                    "reconcile failed",
                    extra={"key": str(key), "again_in_seconds": delay, "problem": str(error)},
                    exc_info=not isinstance(error, self._expected),
                )
                self.add_after(key, delay)
            else:
                self._failures.pop(key, None)
            finally:
                self._running.discard(key)
                self._news.set()  # what came for this key meanwhile may be taken now
                self._done.set()
