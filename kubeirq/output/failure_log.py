"""Logs failures of events: a new failure at once, and its repeats in a line at the end of each period."""

import asyncio
import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from trigger_sources.dispatch.held import Seen

FAILURES_LOGGER = "kubeirq.failures"

_PERIOD_SECONDS = 30.0
_MOST_KINDS = 10  # of failures, for each trigger and function, that have lines of their own
_WORDS = {
    "retry": "attempt failed", "held": "function down", "parked": "lane parked", "deadLettered": "dead-lettered",
    "dropped": "dropped", "answered": "answered with a failure",
}  # fmt: skip
_LOST = ("deadLettered", "dropped")

log = logging.getLogger(FAILURES_LOGGER)


@dataclass
class _Failure:
    last: Seen
    repeats: int = 0  # not logged yet


class FailureLog:
    """Call it with each `Seen`, in the event loop. `close` logs what is left."""

    sees_deliveries = False

    def __init__(self, write: Callable[[int, dict[str, Any]], None] | None = None) -> None:
        self._write = write or _write
        self._known: dict[Hashable, _Failure] = {}  # the failures of this period
        self._kinds: dict[Hashable, int] = {}  # how many of them each trigger and function has
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self, seen: Seen) -> None:
        if seen.what not in _WORDS:
            return
        flow = seen.namespace, seen.trigger, seen.function
        key: Hashable = (*flow, seen.what, seen.message)
        known = self._known.get(key)
        if known is None and self._kinds.get(flow, 0) >= _MOST_KINDS:
            known = self._known.setdefault((*flow, seen.what), _Failure(seen))  # all the others of this kind
        if known is not None:
            known.last = seen
            known.repeats += 1
            return
        self._known[key] = _Failure(seen)
        self._kinds[flow] = self._kinds.get(flow, 0) + 1
        self._say(seen, 0)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_PERIOD_SECONDS, self.end_period)

    def end_period(self) -> None:
        """Logs the repeats, and forgets the failures that have none."""
        before, self._known, self._kinds = self._known, {}, {}
        for key, failure in before.items():
            if failure.repeats:
                self._say(failure.last, failure.repeats)
                self._known[key] = _Failure(failure.last)
                seen = failure.last
                flow = seen.namespace, seen.trigger, seen.function
                self._kinds[flow] = self._kinds.get(flow, 0) + 1
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(_PERIOD_SECONDS, self.end_period) if self._known else None

    def close(self) -> None:
        self.end_period()
        if self._timer is not None:
            self._timer.cancel()

    def _say(self, seen: Seen, repeats: int) -> None:
        level = logging.ERROR if seen.what in _LOST else logging.WARNING
        found: dict[str, Any] = {
            "trigger": f"{seen.namespace}/{seen.trigger}",
            "function": seen.function,
            "event": seen.event_id,
            "outcome": _word_of(seen),
            "attempt": seen.attempt or None,
            "problem": seen.message,
            "repeats": repeats or None,
        }
        self._write(level, {name: value for name, value in found.items() if value is not None})


def _word_of(seen: Seen) -> str:
    if seen.what == "answered" and seen.message.startswith("FunctionDown"):
        return "refused"  # it was not called
    return _WORDS[seen.what]


def _write(level: int, found: dict[str, Any]) -> None:
    log.log(level, "event failed", extra=found)
