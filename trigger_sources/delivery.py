"""The values that travel between a source, the fabric and a function. Pure."""

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import field
from typing import Literal

from trigger_sources.events import Event
from trigger_sources.values import frozen

STOPPING = "Stopping"  # the reason of an outcome `returned` of a trigger that stops

OutcomeKind = Literal["delivered", "filtered", "deadLettered", "dropped", "returned"]


@frozen()
class Answer:
    """A function's complete answer. Header names are lower-case; a name may occur more than once.

    Values are text as `encoding.header_text` has it.
    """

    status: int
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """The first value of that (lower-case) header."""
        for found, value in self.headers:
            if found == name:
                return value
        return None


@frozen()
class Attempt:
    """One call of a function that failed. `error` says why; `status` is None when no answer came."""

    at: float  # seconds since the epoch
    latency_seconds: float
    status: int | None = None
    error: str = ""
    answer_head: bytes = b""  # at most 1 KiB of the answer's body


@frozen()
class Outcome:
    """The end of a delivery. Only `returned` is not final: the source gives the event back at once."""

    kind: OutcomeKind
    reason: str = ""
    answer: Answer | None = None  # the function's last answer
    after_seconds: float = 0  # for `returned`: the source waits so long before it hands the event out again
    message: str = ""  # for a person, where there is no answer: the last error

    @property
    def final(self) -> bool:
        return self.kind != "returned"


class AnswerRefused(Exception):
    """Raised by `Delivery.settle`: the event is settled, but the caller cannot have the function's answer.

    The event then ends as `dropped`. `reason` is a CamelCase word.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@frozen()
class HttpRequest:
    """The HTTP request that an event came as. The function gets the event as this request.

    `target` is the path with its query, as received. `headers` are without hop-by-hop headers, host and content-length;
    their values are text as `encoding.header_text` has it.
    """

    method: str
    target: str
    headers: Sequence[tuple[str, str]] = ()
    path_parameters: Mapping[str, str] = field(default_factory=dict)


@frozen(eq=False)
class Delivery:
    """An event that a source hands to the fabric, with the function that settles it.

    `settle(outcome)` is awaited once, after the event is settled; never for an event that is withdrawn. It acknowledges
    the event at the source, or gives it back if the outcome is `returned`. If it raises, the fabric keeps the outcome
    until the source hands the position out again; AnswerRefused changes the outcome instead.
    `settles_at_once`: `settle` is done when it returns, and returns SETTLED. The fabric then starts no task for it.
    `position` is the event's place at the source: unique per trigger, never reused. None: repeats are not recognized.
    `key` chooses the lane. An event without a key waits for no other.
    `extend()` extends the broker's deadline for the event. It is awaited every `extend_seconds` of the source while the
    event is held.
    `handed_out` counts how often the source has handed this position out, this time included, as far as it knows.
    `caller_waits`: a caller waits for the answer. The event is never held, kept for later or dead-lettered: the caller
    gets the outcome of the attempts that the policy allows, or at once that the function is down.
    `unreadable` says why the bytes that the source keeps are not an event. The bytes are the event's data, and no
    function is called: `onFailure` decides about the event, where `park` means a dead letter.
    """

    event: Event
    settle: Callable[[Outcome], Awaitable[None]]
    position: str | None = None
    key: bytes | None = None
    partition: str | None = None
    extend: Callable[[], Awaitable[None]] | None = None
    handed_out: int = 1
    headers: Sequence[tuple[str, bytes]] = ()  # as at the source, for filters and dead letters
    request: HttpRequest | None = None
    caller_waits: bool = False
    settles_at_once: bool = False
    unreadable: str = ""


class _Settled:
    """An awaitable that completes at once."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


SETTLED = _Settled()  # returned by a `settle` that is done when it returns
