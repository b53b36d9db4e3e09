"""Holds a trigger while everything that it delivers fails, and lets one event at a time try."""

import asyncio
import logging
import time
from collections.abc import Callable, Hashable, Mapping

from trigger_sources.dispatch.retry import FailureRun

log = logging.getLogger(__name__)

TRY_AGAIN_SECONDS = 30.0
EVENTS_TRIED = 16  # different events are tried, so that one poison event alone cannot keep the trigger held


class FailureHold:
    """Flowing, or holding since a moment. While it holds, one event is on trial, or the next trial waits for a timer.

    A bad deploy must not empty a topic into the dead letters: after a run of final failures the function is to blame,
    not the events. A success ends the hold, and so does a person.
    """

    __slots__ = ("_timer", "_trial", "_try_again", "_where", "run", "since")

    def __init__(self, hold_after: int | None, try_again: Callable[[], None], where: Mapping[str, str]) -> None:
        self.since: float | None = None  # seconds since the epoch
        self.run = FailureRun(hold_after)
        self._try_again = try_again
        self._where = where
        self._trial = False
        self._timer: asyncio.TimerHandle | None = None

    def may_start(self, lane: Hashable) -> bool:
        """Whether an event of that lane may start; while the trigger holds, as the one on trial.

        An event of a lane that has not failed need not wait for the timer: it may show that not everything fails.
        """
        return self.since is None or (not self._trial and (self._timer is None or lane not in self.run.lanes))

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
            self.since = time.time()
            log.error("everything fails: the trigger holds", extra={**self._where, "last": last})
        self._wait()
        return True

    def succeeded(self) -> bool:
        """An event was delivered. Returns whether that ended a hold."""
        self.run.succeeded()
        return self.since is not None and self.end()

    def end(self) -> bool:
        """Events flow again, because one was delivered or a person said so. Returns True."""
        self.run.succeeded()
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
