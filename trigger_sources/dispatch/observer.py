"""Puts into words for an observer what happens to an event."""

import time
from collections.abc import Callable

from trigger_sources.dispatch.held import Held, Identity, Seen


class Observer:
    """Tells `observe` of the events of one trigger and function.

    An `observe` whose attribute `sees_deliveries` is False does not hear of delivered events: there are many of them.
    """

    __slots__ = ("_identity", "_observe", "sees_deliveries")

    def __init__(self, identity: Identity, observe: Callable[[Seen], None]) -> None:
        self._identity = identity
        self._observe = observe
        self.sees_deliveries: bool = getattr(observe, "sees_deliveries", True)

    def tell(
        self, held: Held, what: str, status: int | None, latency: float | None, message: str = "",
        again_seconds: float | None = None,
    ) -> None:  # fmt: skip
        """Something happened to an event; `what` is a word of `Seen`, `latency` is in seconds."""
        identity = self._identity
        self._observe(
            Seen(
                time.time(), identity.kind, identity.trigger, identity.function,
                held.delivery.event.id, what, held.tries, status, latency, message, again_seconds, identity.namespace,
            )
        )  # fmt: skip

    def tell_outcome(self, held: Held) -> None:
        """The outcome of an event is decided."""
        outcome = held.outcome
        assert outcome is not None
        last = held.attempts[-1] if held.attempts else None
        status, latency = (last.status, last.latency_seconds) if last else (None, None)
        if outcome.kind == "dropped" and held.delivery.caller_waits:  # nothing is lost: the caller has the failure
            what, reason = "answered", "" if outcome.answer is not None else outcome.reason
        else:
            what, reason = outcome.kind, outcome.reason
        self.tell(held, what, status, latency, ": ".join(filter(None, (reason, held.message))))
