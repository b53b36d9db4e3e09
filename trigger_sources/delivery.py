"""The values that travel between a source, the fabric and a function. Pure."""

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import field
from typing import Literal

from trigger_sources.events import Event
from trigger_sources.values import frozen

OutcomeKind = Literal["delivered", "filtered", "deadLettered", "dropped", "returned"]


@frozen()
class Answer:
    """What a function answered, whole. Header names are lower-case; a name may occur more than once."""

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
    """One call of a function. `status` is None when no answer came; then `error` says why."""

    at: float  # seconds since the epoch
    latency_seconds: float
    status: int | None = None
    error: str = ""
    answer_head: bytes = b""  # at most 1 KiB of the answer's body


@frozen()
class Outcome:
    """How a delivery ended. Only `returned` is not final: the source gives the event back at once."""

    kind: OutcomeKind
    reason: str = ""
    answer: Answer | None = None  # the function's last one
    after_seconds: float = 0  # returned: not to be handed out again sooner

    @property
    def final(self) -> bool:
        return self.kind != "returned"


@frozen()
class HttpRequest:
    """How an event that came as an HTTP request is put to the function: as the request that it was.

    `target` is the path with its query, as received. `headers` lack hop-by-hop ones, host and content-length.
    """

    method: str
    target: str
    headers: Sequence[tuple[str, str]] = ()
    path_parameters: Mapping[str, str] = field(default_factory=dict)


@frozen(eq=False)
class Delivery:
    """An event in the fabric's hands, with the way to settle it.

    `settle(outcome)` is awaited exactly once, after the event is settled, and acknowledges it at the source (or
    gives it back: `returned`). If it raises, the outcome is kept for when the position is handed out again.
    `settles_at_once`: it has done so when it returns, and returns SETTLED. It is called without a task then.
    `position` is the place at the source: unique per trigger, never reused. None: nothing can be deduplicated.
    `key` chooses the lane; None is ordered with nothing.
    `extend()`, awaited every `extend_seconds` of the source while the event is held, keeps a broker's deadline
    from passing.
    `handed_out` is how often the source has handed this position out, this time included, where it knows.
    `caller_waits`: someone is waiting for the answer, so nothing is held, kept for later or dead-lettered: the outcome
    of the attempts that the policy allows, or that the function is down, is theirs at once.
    `unreadable`: why what the source keeps there is no event. Its bytes are the event's data, and it is called for
    nobody: it is what `onFailure` makes of it, a dead letter where that says `park`.
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
    """Awaited, it is over at once."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


SETTLED = _Settled()  # what a `settle` returns that leaves nothing to wait for
