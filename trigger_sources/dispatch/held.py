"""The fabric's record of a delivery that it holds, and how people see it."""

import asyncio
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

from trigger_sources.dead_letters import DeadLetter
from trigger_sources.delivery import Attempt, Delivery
from trigger_sources.transport.client import Connection

HeldState = Literal["queued", "running", "retrying", "parked", "settling"]

ANSWER_HEAD_BYTES = 1024
_ATTEMPTS_KEPT = 50  # of the first ones and as many of the last ones


@dataclass(frozen=True, slots=True)
class Identity:
    """Which trigger and function a dispatcher works for."""

    kind: str
    namespace: str
    trigger: str
    uid: str
    function: str


@dataclass(frozen=True, slots=True)
class Seen:
    """One thing that happened to an event, for who watches. `what` is an outcome's kind, or retry, held, resumed."""

    at: float  # seconds since the epoch
    kind: str
    trigger: str
    function: str
    event_id: str
    what: str
    attempt: int = 0
    status: int | None = None
    latency_seconds: float | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class LaneView:
    """One lane as a person sees it."""

    key: bytes | None
    partition: str | None
    events: int
    state: HeldState
    since: float  # seconds since the epoch: the first attempt of its owner, or when it was taken
    message: str


@dataclass(slots=True, eq=False)
class Held:
    """A delivery in the fabric's hands, from taken to settled."""

    delivery: Delivery
    lane: Hashable | None
    state: HeldState = "queued"
    tries: int = 0
    first_at: float = 0.0
    taken_at: float = 0.0
    attempts: Sequence[Attempt] = ()
    history: Sequence[Attempt] = ()  # of earlier rounds, when it was redriven
    redriven: int = 0
    checked: bool = False  # the filter let it pass
    suspect: bool = False
    timer: asyncio.TimerHandle | None = None
    admitted: bool = False  # the gate waits to be told how its call went
    call: Connection | None = None  # a call under way that no task waits for
    called_at: float = 0.0  # of the monotonic clock
    task: asyncio.Task[None] | None = None
    withdrawn: bool = False

    @property
    def runs(self) -> bool:
        """Whether something is done with it just now."""
        return self.call is not None or self.task is not None

    @property
    def last_message(self) -> str:
        """How the last attempt ended, for a person; empty without one."""
        if not self.attempts:
            return ""
        last = self.attempts[-1]
        return f"status {last.status}" if last.status is not None else last.error

    def attempted(self, attempt: Attempt) -> None:
        """Remembers an attempt; of very many the first and the last ones."""
        if len(self.attempts) == 2 * _ATTEMPTS_KEPT:
            self.attempts = (*self.attempts[:_ATTEMPTS_KEPT], *self.attempts[_ATTEMPTS_KEPT + 1 :])
        self.attempts = (*self.attempts, attempt)

    def dead_letter(self, identity: Identity, reason: str, message: str, now: float) -> DeadLetter:
        """What is kept of it when it is given up: everything."""
        delivery = self.delivery
        return DeadLetter(
            trigger_uid=identity.uid,
            namespace=identity.namespace,
            trigger=identity.trigger,
            function=identity.function,
            # Without a position nothing tells two of them apart but the moment
            position=delivery.position if delivery.position is not None else f"{delivery.event.id}@{time.time_ns()}",
            event=delivery.event,
            reason=reason,
            message=message,
            failed_at=now,
            key=delivery.key,
            partition=delivery.partition,
            headers=tuple(delivery.headers),
            attempts=(*self.history, *self.attempts)[-2 * _ATTEMPTS_KEPT :],
            redriven=self.redriven,
            request=delivery.request,
        )
