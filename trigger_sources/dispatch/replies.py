"""What a function returned, published: to a topic, a subject, another function or a URL."""

from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

from trigger_sources.context import Context
from trigger_sources.delivery import Answer
from trigger_sources.dispatch.gate import Gate
from trigger_sources.dispatch.retry import verdict_on
from trigger_sources.events import Event, binary_headers, event_from_http
from trigger_sources.publisher import Publisher, ReplyRefused
from trigger_sources.reply import Reply
from trigger_sources.transport.client import NoAnswer, Resolve, Unreachable

__all__ = ["Publisher", "ReplyRefused", "open_publisher", "reply_to"]

HOPS = "kubeirqhops"  # how many functions' replies led to this event
MOST_HOPS = 16


def reply_to(event: Event, answer: Answer, namespace: str, function: str) -> Event | None:
    """The event that the function's answer is; None when it returned nothing. Raises InvalidEvent, ReplyRefused.

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
    for name in ("traceparent", "tracestate", "partitionkey"):
        if name in event.extensions:
            inherited[name] = event.extensions[name]
    found = event_from_http(headers, answer.body)
    if found is not None:
        return found.with_extensions(**{**inherited, **found.extensions, HOPS: str(hops)})
    return Event(
        id=f"{event.id}/{function}",
        source=f"/functions/{namespace}/{function}",
        type="dev.kubeirq.function.reply",
        data=answer.body,
        datacontenttype=headers.get("content-type"),
        time=event.time,
        extensions=inherited,
    )


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
        headers = binary_headers(event)
        try:
            answer = await endpoint.send(
                b"POST", endpoint.path, headers, event.data or b"", timeout_seconds=self._timeout_seconds
            )
        except (Unreachable, NoAnswer) as error:
            raise OSError(f"reply to {self._gate.name}: {error}") from error
        verdict = verdict_on(answer.status)
        if verdict == "permanent":
            raise ReplyRefused(f"reply to {self._gate.name}: status {answer.status}")
        if verdict == "retry":
            raise OSError(f"reply to {self._gate.name}: status {answer.status}")

    async def close(self) -> None:
        if self._owned:
            await self._gate.aclose()


def _hops(event: Event) -> int:
    text = event.extensions.get(HOPS, "0")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 4 else 0
