"""The time of the event loop that filters may take: it is bounded in all, and the triggers have it in turn."""

import asyncio
import time
from collections.abc import Callable

MOST_SECONDS = 0.01  # in one round of the event loop; one filter on one event may take as long


class LoopTime:
    """One for all dispatchers of an event loop. Once the time of a round is used up, filters go on in the next round.

    So the loop serves everything else between two rounds, however many events wait for filters. A trigger that has to
    wait comes after those that wait already.
    """

    __slots__ = ("_begun", "_waiting", "is_over", "used")

    def __init__(self) -> None:
        self.is_over = False  # the time of this round is used up
        self.used = 0.0  # seconds in this round
        self._begun = False  # its end is scheduled
        self._waiting: dict[Callable[[], None], None] = {}  # in order

    def spent(self, began: float) -> float:
        """A filter was evaluated, from that moment of `time.perf_counter` until now. Returns the seconds."""
        seconds = time.perf_counter() - began
        self.used += seconds
        self.is_over = self.used >= MOST_SECONDS
        if not self._begun:
            self._begin()
        return seconds

    def wait(self, go_on: Callable[[], None]) -> None:
        """Calls `go_on` in a later round."""
        self._waiting[go_on] = None

    def leave(self, go_on: Callable[[], None]) -> None:
        """Its trigger goes away: it is not called any more."""
        self._waiting.pop(go_on, None)

    def _begin(self) -> None:
        self._begun = True
        asyncio.get_running_loop().call_soon(self._next_round)

    def _next_round(self) -> None:
        self.is_over, self.used, self._begun = False, 0.0, False
        try:
            while self._waiting and not self.is_over:
                go_on = next(iter(self._waiting))
                del self._waiting[go_on]
                go_on()
        finally:
            if self._waiting and not self._begun:  # a fault in one trigger must not keep the others waiting
                self._begin()
