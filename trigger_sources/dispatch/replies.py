"""Replies: the events that functions' answers are, their identities, and the publisher to a function or a URL."""

import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

import orjson

from trigger_sources.context import Context
from trigger_sources.delivery import Answer, Delivery
from trigger_sources.dispatch.gate import Gate
from trigger_sources.dispatch.reasons import failure_text, reason_of
from trigger_sources.dispatch.retry import verdict_on
from trigger_sources.encoding.content import encoding_of
from trigger_sources.encoding.header_text import text_without_surrogates
from trigger_sources.encoding.trace import trace_of
from trigger_sources.events import ENCODING, Event, InvalidEvent, event_from_http, http_message
from trigger_sources.publisher import Publisher, ReplyRefused
from trigger_sources.reply import Reply
from trigger_sources.transport.client import NoAnswer, Resolve, Unreachable

HOPS = "kubeirqhops"  # how many functions' replies led to this event
MOST_HOPS = 16


def reply_to(event: Event, answer: Answer, namespace: str, function: str) -> Event | None:
    """The event that the function's answer is; None when it returned nothing. Raises ReplyRefused.

    An answer that is a CloudEvent is passed on as the event it is. Any other gets the id `<event id>/<function>`,
    the same for every attempt, so that a reply published twice can be told.
    """
    if answer.status == 204 or not answer.body:
        return None
    hops = _hops(event) + 1
    if hops > MOST_HOPS:
        raise ReplyRefused(f"the event came through {MOST_HOPS} functions' replies: that is a loop")
    headers = dict(answer.headers)
    inherited = {HOPS: str(hops)}
    for name in ("traceparent", "tracestate", "partitionkey", "partitionkeyhex"):
        if name in event.extensions:
            inherited[name] = event.extensions[name]
    if trace := trace_of(answer.headers):  # the function has its own span
        inherited.pop("tracestate", None)
        inherited.update(trace)
    try:
        found = event_from_http(headers, answer.body)
    except InvalidEvent as error:
        raise ReplyRefused(str(error)) from error
    if found is not None:
        if "traceparent" in found.extensions:
            inherited.pop("tracestate", None)
        return found.with_extensions(**{**inherited, **found.extensions, HOPS: str(hops)})
    if encoding := encoding_of([value for name, value in answer.headers if name == "content-encoding"]):
        inherited[ENCODING] = text_without_surrogates(encoding)
    content_type = headers.get("content-type")
    return Event(
        id=f"{event.id}/{function}",
        source=f"/functions/{namespace}/{function}",
        type="dev.kubeirq.function.reply",
        data=answer.body,
        datacontenttype=None if content_type is None else text_without_surrogates(content_type),
        time=event.time,
        extensions=inherited,
    )


def identity_of(delivery: Delivery, uid: str, function: str) -> str:
    """The identity of the reply of this trigger's function to a delivery, the same when the position comes again.

    A delivery without a position is never recognized as a repeat, so each gets an identity of its own.
    """
    event = delivery.event
    if delivery.position is None:
        return secrets.token_hex(16)
    # Source and id, too: a store that was removed begins again at its first position
    parts = orjson.dumps((uid, function, delivery.position, event.source, event.id))
    return hashlib.sha256(parts).hexdigest()[:32]


async def open_publisher(
    reply: Reply,
    context: Context,
    addresses: Mapping[str, Sequence[str]],
    gate_of: Callable[[str], Gate],
    resolve: Resolve | None,
) -> Publisher:
    """The publisher for a trigger's `reply`. `addresses` are the trigger's own, by kind; `resolve` is for a URL."""
    if reply.target is not None:
        return await reply.target.open(context, addresses)
    if reply.function is not None:
        return PostPublisher(gate_of(reply.function), owned=False)
    assert reply.url is not None
    return PostPublisher(Gate(urlsplit(reply.url).netloc, reply.url, resolve=resolve), owned=True)


class PostPublisher:
    """Posts replies as CloudEvents to a function or a URL; a 2xx confirms."""

    def __init__(self, gate: Gate, *, owned: bool, timeout_seconds: float = 30) -> None:
        self._gate = gate
        self._owned = owned
        self._timeout_seconds = timeout_seconds

    async def publish(self, event: Event, key: bytes | None) -> None:
        endpoint = self._gate.endpoint
        headers, body = http_message(event)
        if not self._owned:
            headers += b"kubeirq-attempt: 1\r\n"  # a function tells the fabric why it fails, and nobody else
        try:
            answer = await endpoint.send(b"POST", endpoint.path, headers, body, timeout_seconds=self._timeout_seconds)
        except (Unreachable, NoAnswer) as error:
            raise OSError(f"reply to {self._gate.name}: {error}") from error
        verdict = verdict_on(answer.status)
        if verdict == "permanent":
            raise ReplyRefused(f"reply to {self._gate.name}: {failure_text(answer.status, reason_of(answer))}")
        if verdict != "delivered":
            raise OSError(f"reply to {self._gate.name}: {failure_text(answer.status, reason_of(answer))}")

    async def close(self) -> None:
        if self._owned:
            await self._gate.aclose()


def _hops(event: Event) -> int:
    text = event.extensions.get(HOPS, "0")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 4 else 0
