"""Converts NATS messages to events, and reads JetStream's metadata from reply subjects. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trigger_sources.encoding.broker_headers import header_extensions
from trigger_sources.encoding.content import CLOUDEVENTS, encoding_of, guessed_content_type, is_claim, media_of
from trigger_sources.encoding.header_text import header_text, text_without_surrogates
from trigger_sources.encoding.trace import TRACE_HEADERS, trace_of
from trigger_sources.events import (
    ENCODING,
    STRUCTURED,
    Event,
    InvalidEvent,
    attributes_of_headers,
    escaped,
    event_from_json,
    valid_event,
    with_trace,
)
from trigger_sources.nats.headers import header_pairs

MESSAGE_TYPE = "dev.kubeirq.nats.message"


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
        named = [(name.lower(), value) for name, value in header_pairs(headers)]
        types = [value for name, value in named if name == "content-type"]
        content_type = text_without_surrogates(header_text(types[-1])) if types else None
        trace = trace_of((name, header_text(value)) for name, value in named if name in TRACE_HEADERS)
        others = [(name, value) for name, value in named if name != "content-type" and name not in TRACE_HEADERS]
        if is_claim(content_type) or any(name == "ce-specversion" for name, _ in named):
            try:
                return with_trace(_cloud_event(named, content_type, data), trace).with_extensions(**extensions)
            except InvalidEvent as error:
                extensions["invalidcloudevent"] = str(error)
                if is_claim(content_type):  # a receiver of that content type would take the data for the event
                    others += [("content-type", types[-1])]
                    content_type = None
        extensions.update(header_extensions("nats", others))
        extensions.update(trace)
        if encoding := encoding_of([header_text(value) for name, value in named if name == "content-encoding"]):
            extensions[ENCODING] = text_without_surrogates(encoding)
    if content_type is None:
        content_type = guessed_content_type(data)
    return Event(identity, source, MESSAGE_TYPE, data, content_type, None, subject, time, extensions)


def message_from_event(event: Event) -> tuple[dict[str, str], bytes]:
    """The headers and the data of an event, in the NATS binding's binary mode.

    `Content-Type` is for readers that know no CloudEvents. It is left out where it would make the data the event.
    """
    found = {f"ce-{name}": escaped(value) for name, value in event.attributes().items()}
    if event.datacontenttype is not None and not is_claim(event.datacontenttype):
        found["Content-Type"] = "".join(c for c in event.datacontenttype if c.isprintable())
    return found, event.data or b""


def _cloud_event(named: Sequence[tuple[str, bytes]], content_type: str | None, data: bytes) -> Event:
    if is_claim(content_type):
        media = media_of(content_type)
        if media not in (STRUCTURED, CLOUDEVENTS):
            raise InvalidEvent(f"content-type: {media!r} is not known; known: {STRUCTURED}")
        return event_from_json(data)
    headers: dict[str, str] = {}
    for name, value in named:
        if name.startswith("ce-") and name in headers:
            raise InvalidEvent(f"{name[3:]}: given twice")
        headers[name] = header_text(value)
    attributes = attributes_of_headers(headers)
    if content_type is not None:
        attributes.setdefault("datacontenttype", content_type)
    if encoding := encoding_of([header_text(value) for name, value in named if name == "content-encoding"]):
        attributes.setdefault(ENCODING, text_without_surrogates(encoding))
    return valid_event(attributes, data)
