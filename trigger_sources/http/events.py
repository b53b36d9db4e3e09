"""The events of an HTTP request, and the request that is forwarded to the function. Pure."""

from collections.abc import Mapping, Sequence

import orjson

from trigger_sources.delivery import HttpRequest
from trigger_sources.encoding.attributes import key_extension
from trigger_sources.encoding.content import encoding_of, is_claim, media_of
from trigger_sources.encoding.header_text import text_without_surrogates
from trigger_sources.encoding.stored_headers import headers_from_stored, stored_headers
from trigger_sources.encoding.trace import trace_of
from trigger_sources.events import (
    BATCH,
    ENCODING,
    STRUCTURED,
    Event,
    InvalidEvent,
    attributes_of_headers,
    event_from_attributes,
    event_from_http,
    event_from_json,
    events_from_batch,
    with_trace,
)

REQUEST_TYPE = "dev.kubeirq.http.request"
UNREADABLE_TYPE = "dev.kubeirq.http.unreadable"  # of a kept record that is not an event

_HOP_BY_HOP = frozenset(
    {
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
        "transfer-encoding", "upgrade",
    }
)  # fmt: skip
_THIS_HOP = _HOP_BY_HOP | {"host", "content-length", "expect"}
_ONCE = frozenset({"content-type", "authorization"})


class UnknownFormat(InvalidEvent):
    """A CloudEvent in an unknown format."""


def events_of(
    headers: Sequence[tuple[str, str]], body: bytes, *, subject: str, source: str, id: str, time: str
) -> list[Event]:
    """The events of a request: CloudEvents in binary, structured or batch mode, or else one event for the request.

    That event gets `source`, `id`, `time` and `subject`. Raises InvalidEvent, UnknownFormat.
    """
    found: dict[str, str] = {}
    for name, value in headers:
        if name in found and (name in _ONCE or name.startswith("ce-")):
            raise InvalidEvent(f"{name}: given twice")
        found.setdefault(name, value)
    trace = trace_of(headers)
    content_type = found.get("content-type")
    encoding = encoding_of([value for name, value in headers if name == "content-encoding"])
    if is_claim(content_type):
        media = media_of(content_type)
        if media not in (STRUCTURED, BATCH):
            raise UnknownFormat(f"content-type: {media} is not known; known: {STRUCTURED}, {BATCH}")
        if encoding is not None:
            raise UnknownFormat(f"content-encoding: {encoding}: an event in JSON is read only without an encoding")
        events = events_from_batch(body) if media == BATCH else [event_from_json(body)]
        return [with_trace(event, trace) for event in events]
    if encoding is not None:
        found["content-encoding"] = encoding
    event = event_from_http(found, body)
    if event is not None:
        return [with_trace(event, trace)]
    extensions = dict(trace)
    if encoding is not None:
        extensions[ENCODING] = text_without_surrogates(encoding)
    if found.get("ce-partitionkey"):
        key = attributes_of_headers({"ce-partitionkey": found["ce-partitionkey"]})["partitionkey"]
        extensions.update([key_extension(key.encode())])
    return [
        Event(
            id=id,
            source=source,
            type=REQUEST_TYPE,
            data=body or None,
            datacontenttype=None if content_type is None else text_without_surrogates(content_type),
            subject=subject,
            time=time,
            extensions=extensions,
        )
    ]


def forwarded(
    method: str,
    target: str,
    headers: Sequence[tuple[str, str]],
    path_parameters: Mapping[str, str],
    *,
    remote: str | None,
    with_authorization: bool,
) -> HttpRequest:
    """The request to forward: without the headers of this hop, with those that tell where it came from.

    HEAD is forwarded as GET: the gateway leaves the body out of the answer.
    """
    kept = without_hop_by_hop(headers, _THIS_HOP if with_authorization else _THIS_HOP | {"authorization"})
    seen = {name for name, _ in kept}
    before = [value for name, value in kept if name == "x-forwarded-for"]
    kept = [header for header in kept if header[0] != "x-forwarded-for"]
    if remote is not None:
        kept.append(("x-forwarded-for", ", ".join([*before, remote])))
    host = next((value for name, value in headers if name == "host"), None)
    if host is not None and "x-forwarded-host" not in seen:
        kept.append(("x-forwarded-host", host))
    return HttpRequest("GET" if method == "HEAD" else method, target, tuple(kept), path_parameters)


def without_hop_by_hop(
    headers: Sequence[tuple[str, str]], unwanted: frozenset[str] = _HOP_BY_HOP
) -> list[tuple[str, str]]:
    """The headers without those of this connection: the known hop-by-hop headers, and those that Connection names."""
    named = {
        word.strip().lower() for name, value in headers if name == "connection" for word in value.split(",")
    } | unwanted
    return [(name, value) for name, value in headers if name not in named]


def record_from(event: Event, request: HttpRequest) -> bytes:
    """An inbox's record of an accepted event: a line of JSON, then the data unchanged."""
    head = {
        "version": 1,
        "attributes": event.attributes(),
        "tombstone": event.data is None,
        "method": request.method,
        "target": request.target,
        **stored_headers(request.headers),
        "pathParameters": dict(request.path_parameters),
    }
    return orjson.dumps(head) + b"\n" + (event.data or b"")


def from_record(record: bytes) -> tuple[Event, HttpRequest]:
    """The inverse of `record_from`. Raises ValueError if it is not such a record."""
    line, _, data = record.partition(b"\n")
    try:
        head = orjson.loads(line)
        if head["version"] != 1:
            raise ValueError(f"accepted event of version {head['version']!r}; known: 1")
        event = event_from_attributes(head["attributes"], None if head["tombstone"] else data)
        return event, HttpRequest(head["method"], head["target"], headers_from_stored(head), head["pathParameters"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not an accepted event: {error!r}") from error
