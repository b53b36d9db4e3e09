"""The times that have run, as stretches of a schedule without a gap: no time runs twice, wherever the clock goes. Pure.

While the clock goes forward there is one stretch. A time that is left out begins another.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

MOST_STRETCHES = 32  # they are part of a trigger's stored state

Stretch = tuple[datetime, datetime]  # the first and the last time


class Runs:
    """The stretches of one schedule, in order. `next_after` is the schedule's next time, None if there is none."""

    def __init__(self, stretches: Iterable[Stretch], next_after: Callable[[datetime], datetime | None]) -> None:
        self._stretches = sorted(stretches)
        self._next_after = next_after

    @property
    def stretches(self) -> Sequence[Stretch]:
        return tuple(self._stretches)

    def end_around(self, time: datetime) -> datetime | None:
        """The end of the stretch that contains `time`. None if that time has not run."""
        place = self._place_of(time)
        if place < len(self._stretches) and self._stretches[place][0] <= time:
            return self._stretches[place][1]
        return None

    def add(self, time: datetime) -> None:
        """`time` has run. Beyond the limit, the earliest stretch is forgotten."""
        if self.end_around(time) is not None:
            return
        first = last = time
        place = self._place_of(time)
        following = place + 1 if self._joins(time, place) else place
        if following > place:
            last = self._stretches[place][1]
        if place > 0 and self._next_after(self._stretches[place - 1][1]) == time:
            place -= 1
            first = self._stretches[place][0]
        self._stretches[place:following] = [(first, last)]
        del self._stretches[:-MOST_STRETCHES]

    def _joins(self, time: datetime, place: int) -> bool:
        """Whether `time` comes directly before the stretch."""
        return place < len(self._stretches) and self._next_after(time) == self._stretches[place][0]

    def _place_of(self, time: datetime) -> int:
        """The index of the first stretch that ends at `time` or later."""
        return bisect_left(self._stretches, time, key=lambda stretch: stretch[1])
