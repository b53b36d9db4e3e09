"""Holds a trigger while everything that it delivers fails, or while its filter fails on every event."""

import asyncio
import logging
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Literal

from trigger_sources.dispatch.retry import FailureRun

log = logging.getLogger(__name__)

TRY_AGAIN_SECONDS = 30.0
LANES_TRIED = 16  # so that a few poison events, all of one key perhaps, cannot keep the trigger held


class FailureHold:
    """Flowing, or holding since a moment. While it holds, one event is on trial, or the next trial waits for a timer.

    A bad deploy must not empty a topic into the dead letters: after a run of final failures the function is to blame,
    not the events. A success ends the hold, and so does a person.

    A wrong filter must not do that either. So the trigger also holds if the filter could not be evaluated on any of the
    first events. Then no event is tried twice, since the filter fails on it again. Only another event can end the hold.
    """

    __slots__ = (
        "_hold_after", "_timer", "_trial", "_tried", "_try_again", "_where", "filter_errors", "filter_works", "reason",
        "run", "since",
    )  # fmt: skip

    def __init__(self, hold_after: int | None, try_again: Callable[[], None], where: Mapping[str, str]) -> None:
        self.since: float | None = None  # seconds since the epoch
        self.reason: Literal["EverythingFails", "FilterFails"] = "EverythingFails"
        self.run = FailureRun(hold_after)
        self.filter_works = False  # it could be evaluated on an event
        self.filter_errors = 0  # on all events so far, as long as it does not work
        self._hold_after = hold_after
        self._tried: set[Hashable] = set()  # lanes whose first event the filter fails on, while the trigger holds
        self._try_again = try_again
        self._where = where
        self._trial = False
        self._timer: asyncio.TimerHandle | None = None

    def may_start(self, lane: Hashable) -> bool:
        """Whether an event of that lane may start; while the trigger holds, as the one on trial.

        An event of a lane that has not failed need not wait for the timer: it may show that not everything fails.
        """
        if self.since is None:
            return True
        if self.reason == "FilterFails":
            return not self._trial and lane not in self._tried
        return not self._trial and (self._timer is None or lane not in self.run.lanes)

    def started(self) -> None:
        """An event starts. While it holds, that event is the one on trial."""
        self._trial = self.since is not None

    def trial_over(self) -> None:
        """The event on trial gave its place back."""
        self._trial = False

    def attempt_failed(self) -> None:
        """An attempt failed and another one follows: while it holds, the next trial waits."""
        if self.since is not None:
            self._wait()

    def failed_finally(
        self, lane: Hashable, last: str, others_are_held: Callable[[set[Hashable]], bool], *, counts: bool
    ) -> bool:
        """An event has no attempt left. Returns whether the trigger holds, so that the event is not to blame.

        `counts`: false for a redriven event, which failed before. `last` says how the attempt ended, for the log.
        `others_are_held` says whether events outside these lanes are held.
        """
        if counts:
            self.run.failed(lane)
        if self.since is None:
            if not self.run.everything_fails(others_are_held):
                return False
            self.since, self.reason = time.time(), "EverythingFails"
            log.error("everything fails: the trigger holds", extra={**self._where, "last": last})
        self._wait()
        return True

    def filter_failed(self, lane: Hashable, last: str) -> bool:
        """The filter fails on an event. Returns whether the trigger holds, so that the event stays in its queue."""
        if self.filter_works or self._hold_after is None:
            return False
        self.filter_errors += 1
        if self.since is None:
            if self.filter_errors < self._hold_after:
                return False
            self.since, self.reason = time.time(), "FilterFails"
            log.error("the filter fails on every event: the trigger holds", extra={**self._where, "last": last})
        if self.reason != "FilterFails":
            return False
        self._tried.add(lane)
        return True

    def filter_worked(self) -> None:
        """The filter could be evaluated: it is not to blame for its errors. That ends the hold on its account."""
        self.filter_works = True
        if self.since is not None and self.reason == "FilterFails":
            self.end()

    def succeeded(self) -> bool:
        """An event was delivered. Returns whether that ended a hold."""
        self.run.succeeded()
        return self.since is not None and self.reason == "EverythingFails" and self.end()

    def end(self) -> bool:
        """Events flow again, because one was delivered or a person said so. Returns True."""
        self.run.succeeded()
        self.filter_errors = 0
        self._tried.clear()
        self.since = None
        self._trial = False
        self.close()
        return True

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self) -> None:
        self._trial = False
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TRY_AGAIN_SECONDS, self._due)

    def _due(self) -> None:
        self._timer = None
        self._try_again()
