"""CloudEvents 1.0 over HTTP: binary, structured and batch mode, both ways. Pure."""

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import field, replace
from typing import Any
from urllib.parse import quote, unquote

import orjson

from trigger_sources.values import frozen

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
SPEC_VERSION = "1.0"
_NO_EXTENSIONS: Mapping[str, str] = {}
_CORE = frozenset({"id", "source", "type", "specversion", "datacontenttype", "dataschema", "subject", "time"})
# CloudEvents, HTTP binding 3.1.3.2: printable ASCII is not encoded, except for space, double quote and percent.
_SAFE = "".join(chr(c) for c in range(0x21, 0x7F) if chr(c) not in '"%')
_SAFE_BYTES = _SAFE.encode()


class InvalidEvent(ValueError):
    """A producer's fault: the message claims to be a CloudEvent and is not. The error text names the attribute."""


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
    lines = [f"ce-{_escaped(name)}: {_escaped(value)}\r\n" for name, value in attributes.items()]
    headers = {name: event.extensions.get(name) for name in ("traceparent", "tracestate")}
    for name, value in {"content-type": content_type, **headers}.items():
        if value is not None:
            lines.append(f"{name}: {_header_text(value)}\r\n")
    return "".join(lines).encode("latin-1")


def event_from_http(headers: Mapping[str, str], body: bytes) -> Event | None:
    """The event of a request or answer in binary or structured mode; None when it is no CloudEvent.

    `headers` have lower-case names. Raises InvalidEvent.
    """
    content_type = headers.get("content-type", "")
    media = content_type.partition(";")[0].strip().lower()
    if media == STRUCTURED:
        return event_from_json(body)
    if "ce-specversion" not in headers:
        return None
    attributes = {name[3:]: unquote(value) for name, value in headers.items() if name.startswith("ce-")}
    for name in ("traceparent", "tracestate"):
        if name in headers:
            attributes.setdefault(name, headers[name])
    if content_type:
        attributes["datacontenttype"] = content_type
    return event_from_attributes(attributes, body if body or "content-length" in headers else None)


def event_from_attributes(attributes: Mapping[str, str], data: bytes | None) -> Event:
    """The event with these attributes (CloudEvents names, `specversion` among them). Raises InvalidEvent."""
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
    return _event_from_object(_parsed(text))


def events_from_batch(text: bytes) -> list[Event]:
    """The events of a JSON batch, in order. Raises InvalidEvent naming the index of the first bad one."""
    found = _parsed(text)
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
        envelope.update(_data_member(event.data, event.datacontenttype))
    return orjson.dumps(envelope)


def json_from_events(events: Iterable[Event]) -> bytes:
    return b"[" + b",".join(json_from_event(event) for event in events) + b"]"


def is_json(datacontenttype: str | None) -> bool:
    """Whether data of this content type is JSON. Absent means JSON, as CloudEvents defines it."""
    if datacontenttype is None:
        return True
    media = datacontenttype.partition(";")[0].strip().lower()
    return media in ("application/json", "text/json") or media.endswith("+json")


def _data_member(data: bytes, datacontenttype: str | None) -> dict[str, Any]:
    if is_json(datacontenttype):
        try:
            orjson.loads(data)
        except orjson.JSONDecodeError:
            return {"data_base64": base64.b64encode(data).decode()}
        return {"data": orjson.Fragment(data)}
    if (datacontenttype or "").startswith("text/"):
        try:
            return {"data": data.decode()}
        except UnicodeDecodeError:
            pass
    return {"data_base64": base64.b64encode(data).decode()}


def _parsed(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidEvent(f"not JSON: {error}") from error


def _event_from_object(envelope: Any) -> Event:
    if not isinstance(envelope, dict):
        raise InvalidEvent("an event is a JSON object")
    attributes = {}
    for name, value in envelope.items():
        if name in ("data", "data_base64") or value is None:
            continue
        if isinstance(value, bool):
            attributes[name] = "true" if value else "false"
        elif isinstance(value, (str, int)):
            attributes[name] = str(value)
        else:
            raise InvalidEvent(f"{name}: an attribute is a text, a number or a boolean")
    return event_from_attributes(attributes, _data_of(envelope, attributes.get("datacontenttype")))


def _data_of(envelope: Mapping[str, Any], datacontenttype: str | None) -> bytes | None:
    if "data" in envelope and "data_base64" in envelope:
        raise InvalidEvent("data: an event has data or data_base64, not both")
    if "data_base64" in envelope:
        encoded = envelope["data_base64"]
        if not isinstance(encoded, str):
            raise InvalidEvent("data_base64: a text is needed")
        try:
            return base64.b64decode(encoded, validate=True)
        except binascii.Error as error:
            raise InvalidEvent(f"data_base64: {error}") from error
    if "data" not in envelope or envelope["data"] is None:
        return None
    data = envelope["data"]
    if isinstance(data, str) and not is_json(datacontenttype):
        return data.encode()
    return orjson.dumps(data)


def _escaped(text: str) -> str:
    return quote(text, safe=_SAFE) if text.encode().translate(None, _SAFE_BYTES) else text


def _header_text(value: str) -> str:
    """A value for a header that is not percent-encoded: it keeps only characters that cannot end the line."""
    if value.isascii() and value.isprintable():
        return value
    return "".join(c for c in value if c.isascii() and c.isprintable())
