"""Counters of the hot path as plain integers, and a reading of them at one moment."""

import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from trigger_sources.delivery import OutcomeKind

# Upper bounds in seconds; the last bucket is everything.
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Counters:
    """The counts of one trigger and function.

    `received = settled + returned + withdrawn + held` holds at every moment.
    """

    __slots__ = (
        "_buckets",
        "attempts",
        "deadLettered",
        "delivered",
        "dropped",
        "filter_errors",
        "filter_seconds",
        "filtered",
        "latency_seconds",
        "lost",
        "received",
        "redelivered",
        "refused",
        "reply_failures",
        "restarts",
        "retried",
        "returned",
        "since",
        "withdrawn",
    )

    def __init__(self) -> None:
        self.since = time.time()  # seconds since the epoch
        self.received = 0
        self.delivered = 0
        self.filtered = 0
        self.deadLettered = 0  # the outcome's own name
        self.dropped = 0
        self.returned = 0
        self.withdrawn = 0
        self.refused = 0  # requests that no event came of: they could not be taken, and their senders were told so
        self.redelivered = 0  # handed out again while held: the same event, not a new one
        self.attempts = 0
        self.retried = 0
        self.filter_errors = 0
        self.filter_seconds = 0.0  # of the event loop
        self.reply_failures = 0
        self.lost = 0  # by the source, before they could be taken
        self.restarts = 0  # of the source's generator
        self.latency_seconds = 0.0
        self._buckets = [0] * (len(BUCKETS) + 1)

    def attempt(self, latency_seconds: float) -> None:
        self.attempts += 1
        self.latency_seconds += latency_seconds
        self._buckets[bisect_left(BUCKETS, latency_seconds)] += 1

    def settled(self, kind: OutcomeKind) -> None:
        setattr(self, kind, getattr(self, kind) + 1)

    def histogram(self) -> list[tuple[str, int]]:
        """Cumulative counts by upper bound, as Prometheus has them."""
        return cumulative(BUCKETS, self._buckets)


def cumulative(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, int]]:
    """The counts of a histogram, cumulated by upper bound. The last count is for everything above the bounds."""
    return list(zip((*map(str, bounds), "+Inf"), accumulate(counts), strict=True))


@dataclass(frozen=True, slots=True)
class Reading:
    """One trigger and function at one moment."""

    labels: Mapping[str, str]
    counters: Counters
    held: int
    states: Mapping[str, int]
    connected: bool
    delivering: bool
    oldest_seconds: float
    dead_letters: int
    lag_events: int | None
    lag_seconds: float | None
    uncommitted: int | None = None
    reason: str = ""  # of the condition Connected
    held_bytes: int = 0
    waits_for_memory: bool = False
