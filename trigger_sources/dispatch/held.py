"""The dispatcher's record of an event that it holds, and how people see it."""

import asyncio
import base64
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from trigger_sources.dead_letters import DeadLetter
from trigger_sources.delivery import Attempt, Delivery, Outcome
from trigger_sources.dispatch.life import Label, State
from trigger_sources.dispatch.reasons import failure_text
from trigger_sources.transport.client import Connection
from trigger_sources.values import frozen

ANSWER_HEAD_BYTES = 1024
_ATTEMPTS_KEPT = 50  # of the first ones and as many of the last ones
_LANE_PREFIXES = ("event:", "partition:", "base64:")


@dataclass(frozen=True, slots=True)
class Identity:
    """The trigger and the function that a dispatcher works for."""

    kind: str
    namespace: str
    trigger: str
    uid: str
    function: str


@frozen()
class Seen:
    """One thing that happened to an event, for an observer.

    `what` is an outcome's kind, or retry, held, parked, or answered: a waiting caller got the failure as its answer.
    """

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
    again_seconds: float | None = None  # until the next attempt
    namespace: str = "default"


@dataclass(frozen=True, slots=True)
class LaneView:
    """One lane as a person sees it."""

    name: str  # as `lane_name` has it
    key: bytes | None
    partition: str | None
    events: int
    state: Label
    since: float  # seconds since the epoch: the first attempt of its first event, or when that one was taken
    message: str


def lane_name(lane: Hashable | None, delivery: Delivery) -> str:
    """The text that stands for a lane at the command line: it is listed, and pasted to name the lane. Pure.

    A lane is a key, a partition or one event. The key is shown as it is where no other lane could look the same and a
    terminal keeps every character, else in base64.
    """
    if lane is None:
        return f"event:{delivery.position if delivery.position is not None else delivery.event.id}"
    if not isinstance(lane, tuple) or delivery.key is None:
        return f"partition:{delivery.partition}"
    try:
        text = delivery.key.decode()
    except ValueError:
        text = ""
    is_plain = text.isprintable() and text == " ".join(text.split()) and not text.startswith((*_LANE_PREFIXES, "-"))
    return text if text and is_plain else f"base64:{base64.b64encode(delivery.key).decode()}"


class Held:
    """A delivery in the fabric's hands. Only the table of `life.py` says which state follows which."""

    __slots__ = (
        "admitted", "attempts", "called_at", "checked", "delay_seconds", "delivery", "first", "first_at", "history",
        "lane",
        "latency_seconds", "message", "outcome", "redriven", "size", "state", "suspect", "taken_at", "timer", "tries",
        "work",
    )  # fmt: skip

    def __init__(self, delivery: Delivery, lane: Hashable | None, taken_at: float) -> None:
        self.delivery = delivery
        self.lane = lane
        self.taken_at = taken_at  # seconds since the epoch
        self.suspect = False  # it may be what ends the process
        self.size = len(delivery.event.data or b"")
        self.state: State = State.NEW
        self.first = True  # of its lane
        self.admitted = False  # the gate waits to hear how its call ends
        self.checked = False  # the filter let it pass
        self.tries = 0  # attempts made: for the policy's limit, the backoff and the header kubeirq-attempt
        self.first_at = 0.0  # the beginning of its first failed attempt, in seconds of the monotonic clock
        self.called_at = 0.0  # in seconds of the monotonic clock
        self.latency_seconds = 0.0  # of the call whose answer is published
        self.attempts: Sequence[Attempt] = ()
        self.work: Connection | asyncio.Task[None] | None = None  # the one thing that is done with it just now
        self.timer: asyncio.TimerHandle | None = None
        self.delay_seconds = 0.0  # until the next attempt
        self.outcome: Outcome | None = None  # once it is decided
        self.message = ""  # of the outcome, for a person
        self.history: Sequence[Attempt] = ()  # of earlier rounds, when it was redriven
        self.redriven = 0

    @property
    def lane_or_itself(self) -> Hashable:
        """The lane; an event that is ordered with nothing is a lane of its own."""
        return self.lane if self.lane is not None else self

    @property
    def lane_name(self) -> str:
        return lane_name(self.lane, self.delivery)

    @property
    def runs(self) -> bool:
        """Whether something is done with it just now."""
        return self.work is not None

    @property
    def is_stuck(self) -> bool:
        """Whether it waits for another attempt, or for a person."""
        return self.state is State.RETRYING or self.state is State.PARKED

    @property
    def last_message(self) -> str:
        """How the last attempt ended, for a person; empty without one."""
        if not self.attempts:
            return ""
        last = self.attempts[-1]
        return failure_text(last.status, last.error)

    def attempted(self, attempt: Attempt) -> None:
        """Remembers an attempt; of very many the first and the last ones."""
        if len(self.attempts) == 2 * _ATTEMPTS_KEPT:
            self.attempts = (*self.attempts[:_ATTEMPTS_KEPT], *self.attempts[_ATTEMPTS_KEPT + 1 :])
        self.attempts = (*self.attempts, attempt)

    def dead_letter(self, identity: Identity, now: float) -> DeadLetter:
        """Everything that is known of it, with its outcome's reason."""
        delivery, outcome = self.delivery, self.outcome
        assert outcome is not None
        return DeadLetter(
            trigger_uid=identity.uid,
            namespace=identity.namespace,
            trigger=identity.trigger,
            function=identity.function,
            # Without a position only the moment tells two of them apart
            position=delivery.position if delivery.position is not None else f"{delivery.event.id}@{time.time_ns()}",
            event=delivery.event,
            reason=outcome.reason,
            message=self.message,
            failed_at=now,
            key=delivery.key,
            partition=delivery.partition,
            headers=tuple(delivery.headers),
            attempts=(*self.history, *self.attempts)[-2 * _ATTEMPTS_KEPT :],
            redriven=self.redriven,
            request=delivery.request,
        )
