"""The clock of the machine: thousands of triggers sleep until their next ticks, and one look sees it jump for all."""

import asyncio
import time
from contextlib import suppress
from typing import Protocol

_LOOK_SECONDS = 0.5
_JUMP_SECONDS = 0.02  # since the last look, or in the slow corrections of many looks


class Clock(Protocol):
    """Wall-clock seconds since the epoch, and waiting."""

    def now(self) -> float: ...

    async def sleep(self, seconds: float, stopping: asyncio.Event) -> float:
        """Sleeps for so long, until `stopping` is set, or until the clock jumps. It may also return earlier.

        Returns the seconds that have passed, by a clock that never jumps.
        """


class WallClock:
    """The clock of the machine."""

    def now(self) -> float:
        return time.time()

    async def sleep(self, seconds: float, stopping: asyncio.Event) -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds) as limit:
                _watch_for(loop).sleeping.add(limit)
                try:
                    await stopping.wait()
                finally:
                    _watch_for(loop).sleeping.discard(limit)
        return loop.time() - began


class _JumpWatch:
    """Compares the wall clock with the loop's clock from time to time, and wakes all that sleep when they part."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.sleeping: set[asyncio.Timeout] = set()
        self.loop = loop
        self._ahead = self._distance()
        self._look_again()

    def _distance(self) -> float:
        return time.time() - self.loop.time()

    def _look_again(self) -> None:
        self.loop.call_later(_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        if abs((ahead := self._distance()) - self._ahead) > _JUMP_SECONDS:
            self._ahead = ahead
            for limit in self.sleeping:
                if not limit.expired():  # one whose time is over in this turn of the loop is about to wake by itself
                    limit.reschedule(self.loop.time())
        self._look_again()


_watch: _JumpWatch | None = None


def _watch_for(loop: asyncio.AbstractEventLoop) -> _JumpWatch:
    """The one of this event loop. A process has one loop at a time with triggers."""
    global _watch
    if _watch is None or _watch.loop is not loop:
        _watch = _JumpWatch(loop)
    return _watch
