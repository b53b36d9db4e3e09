"""Dead letters: events that could not be delivered, kept complete, in one format for every source."""

import base64
import logging
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import orjson

from trigger_sources.delivery import Attempt, HttpRequest
from trigger_sources.encoding.stored_headers import headers_from_stored, stored_headers
from trigger_sources.events import Event, event_from_attributes

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One event that the fabric gave up. Its identity is (trigger uid, function, position)."""

    trigger_uid: str
    namespace: str
    trigger: str
    function: str
    position: str
    event: Event
    reason: str  # a CamelCase word: PermanentAnswer, AttemptsExhausted, TooOld, FilterError, CrashLoop, …
    message: str  # for a person: the last status or error
    failed_at: float  # seconds since the epoch
    key: bytes | None = None
    partition: str | None = None
    headers: Sequence[tuple[str, bytes]] = ()
    attempts: Sequence[Attempt] = ()  # of every round, oldest first, at most the first and the last 50
    redriven: int = 0  # how often it was redriven and failed again
    request: HttpRequest | None = None

    @property
    def identity(self) -> str:
        return f"{self.function}/{self.position}"


class LetterTooLarge(Exception):
    """The place of the dead letters takes no letter of this size."""


class DeadLetters(Protocol):
    """The place of a trigger's dead letters. Every method may raise SourceError or the transport's OSError."""

    async def prepare(self) -> None:
        """Creates the storage if needed, and tests the rights to it, before there is a first dead letter."""

    async def write(self, letter: DeadLetter) -> None:
        """Returns once it is durable and confirmed. It replaces an older letter of the same identity."""

    def letters(self) -> AsyncIterator[DeadLetter]:
        """The letters that this trigger has now, each identity once, in the order in which they were written.

        Holds few letters in memory at a time. A letter that is written later is not among them, so that a caller who
        redrives what it reads comes to an end.
        """

    async def count(self) -> int:
        """The number of `letters`, without reading their data: there may be very many."""

    async def remove(self, letter: DeadLetter) -> None:
        """Returns once it is gone. A letter that is gone already is no error."""

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record among the dead letters that is no letter of a known version: it is left out, and stays where it is."""

    place: str  # for a person: where the record is
    problem: str

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}"


def log_unreadable(found: Unreadable) -> None:
    """Says in the log which dead letter cannot be read."""
    log.warning("dead letter not read", extra={"place": found.place, "problem": found.problem})


@runtime_checkable
class DeadLettersOfFunctions(DeadLetters, Protocol):
    """A `DeadLetters` that finds those of the trigger's other functions, too: former ones have no flow any more.

    Its `remove` needs no `prepare`: after an edit, the place may be a former one of the trigger.
    """

    async def functions(self) -> Collection[str]:
        """The functions of this trigger that have dead letters."""

    def of(self, function: str, unreadable: Callable[[Unreadable], None]) -> "DeadLettersOfFunctions":
        """The dead letters of that function. Its `letters` tells `unreadable` of each one that it leaves out."""

    async def place(self) -> str:
        """The identity of the place, by whichever address it is reached. Empty if it does not exist."""


SLIMMEST = 2


def slimmer(letter: DeadLetter, steps: int) -> DeadLetter:
    """The letter without parts that are not the event: 1 without the function's answers, 2 without its attempts too."""
    if steps == 0:
        return letter
    if steps == 1:
        return replace(letter, attempts=tuple(replace(attempt, answer_head=b"") for attempt in letter.attempts))
    return replace(letter, attempts=())


def metadata_from_letter(letter: DeadLetter) -> bytes:
    """Everything except the event's data, as JSON, for stores that keep the data's original bytes separately."""
    return orjson.dumps(
        {
            "version": 1,
            "triggerUid": letter.trigger_uid,
            "namespace": letter.namespace,
            "trigger": letter.trigger,
            "function": letter.function,
            "position": letter.position,
            "attributes": letter.event.attributes(),
            "tombstone": letter.event.data is None,
            "reason": letter.reason,
            "message": letter.message,
            "failedAt": letter.failed_at,
            "key": _text(letter.key),
            "partition": letter.partition,
            "headers": [[name, _text(value)] for name, value in letter.headers],
            "redriven": letter.redriven,
            "attempts": [
                {
                    "at": attempt.at,
                    "latencySeconds": attempt.latency_seconds,
                    "status": attempt.status,
                    "error": attempt.error,
                    "answerHead": _text(attempt.answer_head),
                }
                for attempt in letter.attempts
            ],
            "request": letter.request
            and {
                "method": letter.request.method,
                "target": letter.request.target,
                **stored_headers(letter.request.headers),
                "pathParameters": dict(letter.request.path_parameters),
            },
        }
    )


def letter_from_metadata(metadata: bytes, data: bytes | None) -> DeadLetter:
    """The inverse of `metadata_from_letter`. Raises ValueError if it is not a dead letter of a known version."""
    try:
        found: dict[str, Any] = orjson.loads(metadata)
        if found["version"] != 1:
            raise ValueError(f"dead letter version {found['version']!r} is not known; known: 1")
        request = found["request"]
        return DeadLetter(
            trigger_uid=found["triggerUid"],
            namespace=found["namespace"],
            trigger=found["trigger"],
            function=found["function"],
            position=found["position"],
            event=event_from_attributes(found["attributes"], None if found["tombstone"] else data or b""),
            reason=found["reason"],
            message=found["message"],
            failed_at=found["failedAt"],
            key=_bytes(found["key"]),
            partition=found["partition"],
            headers=tuple((name, _bytes(value) or b"") for name, value in found["headers"]),
            redriven=found["redriven"],
            attempts=tuple(
                Attempt(
                    at=attempt["at"],
                    latency_seconds=attempt["latencySeconds"],
                    status=attempt["status"],
                    error=attempt["error"],
                    answer_head=_bytes(attempt["answerHead"]) or b"",
                )
                for attempt in found["attempts"]
            ),
            request=request
            and HttpRequest(
                method=request["method"],
                target=request["target"],
                headers=headers_from_stored(request),
                path_parameters=request["pathParameters"],
            ),
        )
    except (AttributeError, KeyError, TypeError, orjson.JSONDecodeError) as error:
        raise ValueError(f"not a dead letter: {error!r}") from error


def _text(value: bytes | None) -> str | None:
    """Bytes in JSON: base64, so that no byte is lost."""
    return None if value is None else base64.b64encode(value).decode()


def _bytes(value: str | None) -> bytes | None:
    return None if value is None else base64.b64decode(value)
