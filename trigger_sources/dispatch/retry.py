"""Pure: what an answer means, when to try again, and when to stop trying everything."""

from collections.abc import Hashable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

from trigger_sources.delivery import Answer
from trigger_sources.spec import DeliveryPolicy

Verdict = Literal["delivered", "retry", "permanent"]

# Besides every 5xx. 408 is the runtime's own time-out; 409 and 425 say "not now"; 429 says "too much".
_RETRIED = frozenset({408, 409, 425, 429})
_LONGEST_RETRY_AFTER_SECONDS = 3_600.0


def verdict_on(status: int) -> Verdict:
    """What the function's status says of the event. Redirects are not followed: 3xx is as permanent as 4xx."""
    if 200 <= status < 300:
        return "delivered"
    if status >= 500 or status in _RETRIED:
        return "retry"
    return "permanent"


def delay_after(
    attempts: int, policy: DeliveryPolicy, jitter: float, retry_after_seconds: float | None = None
) -> float:
    """Seconds to wait after so many attempts (≥ 1). `jitter` is uniform over 0 to 1: full jitter spreads a herd best.

    What the function asked for by Retry-After is kept, on top of a little jitter, up to an hour.
    """
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


def reason_to_give_up(policy: DeliveryPolicy, attempts: int, first_at: float, next_at: float) -> str | None:
    """Why no further attempt is made: a reason's name; None to go on. Times in seconds of one clock."""
    if policy.attempts is not None and attempts >= policy.attempts:
        return "AttemptsExhausted"
    if policy.max_age_seconds is not None and next_at - first_at > policy.max_age_seconds:
        return "TooOld"
    return None


class FailureRun:
    """Final failures in a row. A bad deploy must not empty a topic into the dead letters.

    `everything_fails` once there were `hold_after` of them without a success between, over three lanes or more: one
    poison key alone never holds a trigger.
    """

    __slots__ = ("_hold_after", "_lanes", "count")

    def __init__(self, hold_after: int | None) -> None:
        self._hold_after = hold_after
        self.count = 0
        self._lanes: set[Hashable] = set()

    def failed(self, lane: Hashable) -> None:
        self.count += 1
        if len(self._lanes) < 3:
            self._lanes.add(lane)

    def succeeded(self) -> None:
        if self.count:
            self.count = 0
            self._lanes.clear()

    @property
    def everything_fails(self) -> bool:
        return self._hold_after is not None and self.count >= self._hold_after and len(self._lanes) >= 3
