"""Decides what an answer means, when the next attempt is made, and when the function is to blame. Pure."""

from collections.abc import Callable, Hashable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

from trigger_sources.delivery import Answer
from trigger_sources.spec import DeliveryPolicy

Verdict = Literal["delivered", "retry", "permanent"]
Reason = Literal["PermanentAnswer", "AttemptsExhausted", "TooOld"]

# Besides every 5xx. 408 is the runtime's own time-out; 409 and 425 say "not now"; 429 says "too much".
_RETRIED = frozenset({408, 409, 425, 429})
_LONGEST_RETRY_AFTER_SECONDS = 3_600.0
_SHORTEST_WAIT_SECONDS = 0.001  # a timer may fire this much early
_ENOUGH_LANES = 3
_LANES_KEPT = 1_000


def verdict_on(status: int) -> Verdict:
    """The meaning of a status, for an event that a function answers and for a reply that a receiver answers.

    Redirects are not followed: 3xx is as permanent as 4xx.
    """
    if 200 <= status < 300:
        return "delivered"
    if status >= 500 or status in _RETRIED:
        return "retry"
    return "permanent"


def delay_after(
    attempts: int, policy: DeliveryPolicy, jitter: float, retry_after_seconds: float | None = None
) -> float:
    """Seconds to wait after so many attempts, at least one. `jitter` is uniform over 0 to 1: it spreads a herd best.

    A Retry-After of the function is kept, plus a little jitter, up to an hour.
    """
    assert attempts >= 1
    bound = min(policy.backoff_max_seconds, policy.backoff_seconds * 2.0 ** min(attempts - 1, 60))
    delay = bound * jitter
    if retry_after_seconds is not None:
        return min(retry_after_seconds, _LONGEST_RETRY_AFTER_SECONDS) + min(delay, 1.0)
    return delay


def retry_after_of(answer: Answer | None, now: float) -> float | None:
    """Seconds that the answer's Retry-After asks for (a number or an HTTP date); None without a sensible one."""
    value = answer.header("retry-after") if answer is not None else None
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit() and len(value) < 10:
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.fromtimestamp(now, UTC)).total_seconds())


def after_failure(
    policy: DeliveryPolicy,
    verdict: Verdict,
    attempts: int,
    first_at: float,
    now: float,
    jitter: float,
    retry_after_seconds: float | None,
) -> float | Reason:
    """The seconds to wait after a failed attempt, or the reason why no further one is made.

    `attempts` counts those made so far, this one included; the first one began at `first_at`. Times in seconds of one
    clock.
    """
    if verdict == "permanent":
        return "PermanentAnswer"
    if policy.attempts is not None and attempts >= policy.attempts:
        return "AttemptsExhausted"
    delay = within_age(policy, first_at, now, delay_after(attempts, policy, jitter, retry_after_seconds))
    return delay if delay is not None else "TooOld"


def within_age(policy: DeliveryPolicy, first_at: float, now: float, delay_seconds: float) -> float | None:
    """The delay, cut so that the last attempt is made when the event reaches its age limit. None past that limit.

    Times in seconds of one clock; the age counts from the first attempt.
    """
    if policy.max_age_seconds is None:
        return delay_seconds
    left = first_at + policy.max_age_seconds - now
    return min(delay_seconds, left) if left > _SHORTEST_WAIT_SECONDS else None


class FailureRun:
    """Final failures in a row, and the lanes that they were in. A success ends the run."""

    __slots__ = ("_hold_after", "count", "lanes")

    def __init__(self, hold_after: int | None) -> None:
        self._hold_after = hold_after
        self.count = 0
        self.lanes: set[Hashable] = set()

    def failed(self, lane: Hashable) -> None:
        self.count += 1
        if len(self.lanes) < _LANES_KEPT:
            self.lanes.add(lane)

    def succeeded(self) -> None:
        if self.count:
            self.count = 0
            self.lanes.clear()

    def everything_fails(self, others_are_held: Callable[[set[Hashable]], bool]) -> bool:
        """Whether the function is to blame and not the events: `hold_after` failures in a row, over three lanes.

        With fewer lanes the trigger has to have no others: `others_are_held` says whether it holds events outside the
        lanes that failed. So one poison key does not hold the keys beside it, and a trigger with one key is protected.
        """
        if self._hold_after is None or self.count < self._hold_after:
            return False
        return len(self.lanes) >= _ENOUGH_LANES or not others_are_held(self.lanes)
