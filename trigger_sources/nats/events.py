"""Converts NATS messages to events, and reads JetStream's metadata from reply subjects. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trigger_sources.events import STRUCTURED, Event, InvalidEvent, event_from_attributes, event_from_json

MESSAGE_TYPE = "dev.kubeirq.nats.message"
_JSON_STARTS = frozenset(b'{["0123456789-tfn')


@dataclass(frozen=True, slots=True)
class Delivered:
    """The metadata in a subject `$JS.ACK.…`: the message's place in its stream, and how often it was handed out."""

    stream: str
    sequence: int
    handed_out: int
    timestamp_ns: int

    @property
    def place(self) -> tuple[int, int]:
        """Sequence and time: no other message has the same, not even in a stream that was deleted and created again."""
        return self.sequence, self.timestamp_ns


def delivered_from(reply: str) -> Delivered:
    """Reads both forms: 9 tokens, and 11 or 12 with domain and account. Raises ValueError for any other subject."""
    tokens = reply.split(".")
    if len(tokens) == 9:
        stream, handed_out, sequence, timestamp = tokens[2], tokens[4], tokens[5], tokens[7]
    elif len(tokens) >= 11:
        stream, handed_out, sequence, timestamp = tokens[4], tokens[6], tokens[7], tokens[9]
    else:
        raise ValueError(f"{reply!r} is not an acknowledgement subject")
    return Delivered(stream, int(sequence), int(handed_out), int(timestamp))


def event_from_message(
    subject: str, data: bytes, headers: Mapping[str, str] | None, identity: str, source: str, time: str | None
) -> Event:
    """The event of a message. A CloudEvent (binary or structured) stays as it is; others get the id `identity`."""
    extensions = {"natssubject": subject}
    content_type = None
    if headers:
        named = {name.lower(): value for name, value in headers.items()}
        content_type = named.get("content-type")
        if "ce-specversion" in named or (content_type or "").startswith(STRUCTURED):
            try:
                return _cloud_event(named, content_type, data).with_extensions(**extensions)
            except InvalidEvent as error:
                extensions["invalidcloudevent"] = str(error)
        for name, value in named.items():
            if name in ("traceparent", "tracestate"):
                extensions[name] = value
            elif name != "content-type":
                extensions["natsheader" + "".join(c for c in name if c.isascii() and c.isalnum())] = value
    if content_type is None and data:
        content_type = "application/json" if data[0] in _JSON_STARTS else "application/octet-stream"
    return Event(identity, source, MESSAGE_TYPE, data, content_type, None, subject, time, extensions)


def headers_from_event(event: Event) -> dict[str, str]:
    """The headers of an event in the NATS binding's binary mode."""
    found = {f"ce-{name}": value for name, value in event.attributes().items() if name != "datacontenttype"}
    if event.datacontenttype is not None:
        found["Content-Type"] = event.datacontenttype
    return {name: value.replace("\r", " ").replace("\n", " ") for name, value in found.items()}


def header_pairs(headers: Mapping[str, str] | None) -> Sequence[tuple[str, bytes]]:
    return [(name, value.encode()) for name, value in headers.items()] if headers else ()


def _cloud_event(named: Mapping[str, str], content_type: str | None, data: bytes) -> Event:
    if (content_type or "").startswith(STRUCTURED):
        return event_from_json(data)
    attributes = {name[3:]: value for name, value in named.items() if name.startswith("ce-")}
    if content_type is not None:
        attributes["datacontenttype"] = content_type
    return event_from_attributes(attributes, data)
