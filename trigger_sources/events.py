"""CloudEvents 1.0 over HTTP: binary, structured and batch mode, both ways. Pure."""

import base64
from collections.abc import Callable, Mapping
from dataclasses import field, replace
from typing import Any
from urllib.parse import quote

import orjson

from trigger_sources.encoding.attributes import InvalidEvent, attribute_from_json, check_attributes
from trigger_sources.encoding.content import (
    BYTES,
    CLOUDEVENTS,
    JSON,
    codec_of,
    encoding_of,
    is_claim,
    is_json,
    media_of,
    viewed,
)
from trigger_sources.encoding.envelope import RawData, parsed_batch, parsed_envelope
from trigger_sources.encoding.header_text import attribute_of, text_without_surrogates
from trigger_sources.values import frozen

__all__ = [
    "BATCH",
    "ENCODING",
    "Event",
    "InvalidEvent",
    "MOST_HEAD_BYTES",
    "STRUCTURED",
    "attributes_of_headers",
    "binary_headers",
    "escaped",
    "event_from_attributes",
    "event_from_http",
    "event_from_json",
    "events_from_batch",
    "http_message",
    "is_json",
    "json_from_event",
    "structured_message",
    "valid_event",
    "viewed_data",
    "with_trace",
]

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
SPEC_VERSION = "1.0"
ENCODING = "contentencoding"  # the extension for data that is compressed: a filter and the function get bytes
# A function's runtime takes a head of 64 KiB. The rest is room for the lines that the connection adds.
MOST_HEAD_BYTES = 64_000
_MOST_TRACE_BYTES = 512  # in the head of an event in structured mode, whose attributes have the whole
_NO_EXTENSIONS: Mapping[str, str] = {}
_CORE = frozenset({"id", "source", "type", "specversion", "datacontenttype", "dataschema", "subject", "time"})
# CloudEvents, HTTP binding 3.1.3.2: printable ASCII is not encoded, except for space, double quote and percent.
_SAFE = "".join(chr(c) for c in range(0x21, 0x7F) if chr(c) not in '"%')
_SAFE_BYTES = _SAFE.encode()


@frozen()
class Event:
    """One occurrence. `data` is the payload's bytes, untouched; None means that there is none (a tombstone).

    `time` is an RFC 3339 text. Extension names are lower-case letters and digits, their values text.
    """

    id: str
    source: str
    type: str
    data: bytes | None = None
    datacontenttype: str | None = None
    dataschema: str | None = None
    subject: str | None = None
    time: str | None = None
    extensions: Mapping[str, str] = field(default_factory=lambda: _NO_EXTENSIONS)

    def attributes(self) -> dict[str, str]:
        """Every attribute that is set, by its CloudEvents name, `specversion` included, data excluded."""
        found = {"specversion": SPEC_VERSION, "id": self.id, "source": self.source, "type": self.type}
        for name in ("datacontenttype", "dataschema", "subject", "time"):
            value = getattr(self, name)
            if value is not None:
                found[name] = value
        found.update(self.extensions)
        return found

    def with_extensions(self, **extensions: str) -> "Event":
        return replace(self, extensions={**self.extensions, **extensions})


def binary_headers(event: Event) -> bytes:
    """The header lines, each ending in CRLF, that carry the event's attributes in HTTP binary mode.

    Values are percent-encoded as the HTTP binding asks, so no attribute can add a header line of its own.
    """
    extensions = event.extensions
    lines = [f"ce-specversion: 1.0\r\nce-id: {event.id}\r\nce-source: {event.source}\r\nce-type: {event.type}\r\n"]
    if event.datacontenttype is not None:
        lines.append(f"content-type: {event.datacontenttype}\r\n")
    if event.subject is not None:
        lines.append(f"ce-subject: {event.subject}\r\n")
    if event.time is not None:
        lines.append(f"ce-time: {event.time}\r\n")
    if event.dataschema is not None:
        lines.append(f"ce-dataschema: {event.dataschema}\r\n")
    for name, value in extensions.items():
        lines.append(f"ce-{name}: {value}\r\n")
    # traceparent and tracestate are an extension and a header in their own right (Distributed Tracing)
    if "traceparent" in extensions:
        lines.append(f"traceparent: {extensions['traceparent']}\r\n")
    if "tracestate" in extensions:
        lines.append(f"tracestate: {extensions['tracestate']}\r\n")
    if ENCODING in extensions:
        lines.append(f"content-encoding: {extensions[ENCODING]}\r\n")
    headers = "".join(lines).encode()
    # One pass over all values is faster than one over each. Without the characters that need no encoding, only the
    # space and the line break of each header line may be left. The first element of `lines` has four header lines.
    if len(headers.translate(None, _SAFE_BYTES)) == (len(lines) + 3) * len(" \r\n"):
        return headers
    return _escaped_headers(event)


def _escaped_headers(event: Event) -> bytes:
    """The same for an event with characters that must be encoded."""
    attributes = event.attributes()
    content_type = attributes.pop("datacontenttype", None)
    lines = [f"ce-{escaped(name)}: {escaped(value)}\r\n" for name, value in attributes.items()]
    if content_type is not None:
        lines.append(f"content-type: {''.join(c for c in content_type if c.isprintable())}\r\n")
    for name, extension in (
        ("traceparent", "traceparent"),
        ("tracestate", "tracestate"),
        ("content-encoding", ENCODING),
    ):
        if extension in attributes:
            lines.append(f"{name}: {_printable(attributes[extension])}\r\n")
    return "".join(lines).encode()


def http_message(event: Event) -> tuple[bytes, bytes]:
    """The header lines and the body that carry the event over HTTP.

    The event goes in binary mode, or in structured mode where binary mode would change it: its attributes are larger
    than a head may be, or its data is itself a CloudEvent, which the receiver would take for the event.
    """
    headers = binary_headers(event)
    if len(headers) > MOST_HEAD_BYTES or is_claim(event.datacontenttype):
        return structured_message(event)
    return headers, event.data or b""


def structured_message(event: Event) -> tuple[bytes, bytes]:
    """The same in structured mode."""
    lines = [f"content-type: {STRUCTURED}\r\n"]
    for name in ("traceparent", "tracestate"):
        value = event.extensions.get(name, "")
        if value and len(value) <= _MOST_TRACE_BYTES:
            lines.append(f"{name}: {_printable(value)}\r\n")
    return "".join(lines).encode(), json_from_event(event)


def event_from_http(headers: Mapping[str, str], body: bytes) -> Event | None:
    """The event of a request or answer in binary or structured mode; None when it is no CloudEvent.

    `headers` have lower-case names. Raises InvalidEvent.
    """
    content_type = headers.get("content-type", "")
    if media_of(content_type) == STRUCTURED:
        return event_from_json(body)
    if "ce-specversion" not in headers:
        return None
    attributes = attributes_of_headers(headers)
    if "datacontenttype" in attributes:
        raise InvalidEvent("ce-datacontenttype: over HTTP, the Content-Type header says it")
    if content_type:
        attributes["datacontenttype"] = text_without_surrogates(content_type)
    if "content-encoding" in headers and (encoding := encoding_of([headers["content-encoding"]])):
        attributes.setdefault(ENCODING, text_without_surrogates(encoding))
    return valid_event(attributes, body if body or "content-length" in headers else None)


def attributes_of_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The attributes in the `ce-` headers of an HTTP or NATS message. Raises InvalidEvent."""
    attributes = {}
    for name, value in headers.items():
        if name.startswith("ce-"):
            try:
                attributes[name[3:]] = attribute_of(value)
            except ValueError as error:
                raise InvalidEvent(f"{name[3:]}: {error}") from None
    return attributes


def with_trace(event: Event, trace: Mapping[str, str]) -> Event:
    """The event with the trace context of the message that it came in, unless it has its own."""
    if not trace or "traceparent" in event.extensions:
        return event
    return event.with_extensions(**trace)


def viewed_data(event: Event) -> Any:
    """The data as a filter and a function see it. Raises ValueError if it is not the JSON that it says it is."""
    return viewed(event.data, event.datacontenttype, event.extensions.get(ENCODING), event.type)


def valid_event(attributes: Mapping[str, str], data: bytes | None) -> Event:
    """The event that a producer claims to have sent. Raises InvalidEvent."""
    event = event_from_attributes(attributes, data)
    check_attributes(attributes)
    return event


def event_from_attributes(attributes: Mapping[str, str], data: bytes | None) -> Event:
    """The event with these attributes (CloudEvents names, `specversion` among them), such as a stored one.

    The values are taken as they are; `valid_event` checks those of a producer. Raises InvalidEvent.
    """
    version = attributes.get("specversion")
    if version != SPEC_VERSION:
        raise InvalidEvent(f"specversion: {version!r} is not known; known: '1.0'")
    for name in ("id", "source", "type"):
        if not attributes.get(name):
            raise InvalidEvent(f"{name}: a CloudEvent needs one")
    extensions = {}
    for name, value in attributes.items():
        if name in _CORE:
            continue
        if not (name.isascii() and name.isalnum() and name == name.lower()):
            raise InvalidEvent(f"{name!r}: attribute names are lower-case letters and digits")
        extensions[name] = value
    return Event(
        id=attributes["id"],
        source=attributes["source"],
        type=attributes["type"],
        data=data,
        datacontenttype=attributes.get("datacontenttype"),
        dataschema=attributes.get("dataschema"),
        subject=attributes.get("subject"),
        time=attributes.get("time"),
        extensions=extensions,
    )


def event_from_json(text: bytes) -> Event:
    """The event of a JSON envelope (structured mode). Raises InvalidEvent."""
    return _event_from_object(_parsed(parsed_envelope, text))


def event_of_claim(content_type: str | None, data: bytes) -> Event:
    """The event of a broker's message whose content type claims that it is one. Raises InvalidEvent."""
    media = media_of(content_type)
    if media not in (STRUCTURED, CLOUDEVENTS):
        raise InvalidEvent(f"content-type: {media!r} is not known; known: {STRUCTURED}")
    return event_from_json(data)


def events_from_batch(text: bytes) -> list[Event]:
    """The events of a JSON batch, in order. Raises InvalidEvent naming the index of the first bad one."""
    found = _parsed(parsed_batch, text)
    if not isinstance(found, list):
        raise InvalidEvent("a batch is a JSON array of events")
    events = []
    for index, item in enumerate(found):
        try:
            events.append(_event_from_object(item))
        except InvalidEvent as error:
            raise InvalidEvent(f"[{index}].{error}") from error
    return events


def json_from_event(event: Event) -> bytes:
    """The JSON envelope of the event. JSON data goes in as it is, other text as a string, bytes as base64."""
    envelope: dict[str, Any] = event.attributes()
    if event.data is not None:
        encoded = ENCODING in event.extensions
        envelope.update(_data_member(event.data, BYTES if encoded else event.datacontenttype))
    return orjson.dumps(envelope)


def _data_member(data: bytes, datacontenttype: str | None) -> dict[str, Any]:
    if is_json(datacontenttype):
        try:
            orjson.loads(data)
        except orjson.JSONDecodeError:
            return {"data_base64": base64.b64encode(data).decode()}
        return {"data": orjson.Fragment(data)}
    if media_of(datacontenttype).startswith("text/") and codec_of(datacontenttype) == "utf-8":
        try:
            return {"data": data.decode()}
        except UnicodeDecodeError:
            pass
    return {"data_base64": base64.b64encode(data).decode()}


def _parsed(parse: Callable[[bytes], Any], text: bytes) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        raise InvalidEvent(f"not JSON: {error}") from error


def _event_from_object(envelope: Any) -> Event:
    if not isinstance(envelope, dict):
        raise InvalidEvent("an event is a JSON object")
    attributes = {
        name: attribute_from_json(name, value, is_core=name in _CORE)
        for name, value in envelope.items()
        if name not in ("data", "data_base64") and value is not None
    }
    if "data" in envelope and "data_base64" in envelope:
        raise InvalidEvent("data: an event has data or data_base64, not both")
    if "data" in envelope:
        attributes.setdefault("datacontenttype", JSON)  # said outright, since without it another format means bytes
        return valid_event(attributes, _data_of(envelope["data"], attributes["datacontenttype"]))
    return valid_event(attributes, _decoded(envelope["data_base64"]) if "data_base64" in envelope else None)


def _data_of(data: Any, datacontenttype: str) -> bytes | None:
    raw = data.text if isinstance(data, RawData) else None
    value = data.value if isinstance(data, RawData) else data
    if not is_json(datacontenttype):
        if value is None:
            return None
        if isinstance(value, str):
            return _encoded(value, datacontenttype)
    return orjson.dumps(value) if raw is None else raw


def _encoded(text: str, datacontenttype: str) -> bytes:
    codec = codec_of(datacontenttype) if media_of(datacontenttype).startswith("text/") else "utf-8"
    try:
        return text.encode(codec)
    except UnicodeEncodeError as error:
        raise InvalidEvent(f"data: text that the charset of datacontenttype does not have: {error}") from error


def _decoded(encoded: Any) -> bytes | None:
    if encoded is None:
        return None
    if not isinstance(encoded, str):
        raise InvalidEvent("data_base64: a text is needed")
    try:
        return base64.b64decode(encoded, validate=True)
    except ValueError as error:
        raise InvalidEvent(f"data_base64: {error}") from error


def escaped(text: str) -> str:
    """An attribute's value for a header: percent-encoded, as the bindings for HTTP and NATS ask."""
    return quote(text, safe=_SAFE) if text.encode().translate(None, _SAFE_BYTES) else text


def _printable(value: str) -> str:
    """A value for a header that is not percent-encoded: it keeps only characters that cannot end the line."""
    return value if value.isascii() and value.isprintable() else "".join(c for c in value if " " <= c <= "~")
