"""Converts NATS messages to events, and reads JetStream's metadata from reply subjects. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from trigger_sources.encoding.broker_headers import MeaningOfHeaders, header_extensions
from trigger_sources.encoding.content import guessed_content_type, is_claim
from trigger_sources.encoding.header_text import header_text, text_without_surrogates
from trigger_sources.events import (
    ENCODING,
    STRUCTURED,
    Event,
    InvalidEvent,
    attributes_of_headers,
    escaped,
    event_of_claim,
    json_from_event,
    valid_event,
    with_trace,
)
from trigger_sources.nats.headers import header_pairs

MESSAGE_TYPE = "dev.kubeirq.nats.message"
_MOST_VALUE_BYTES = 48_000  # of the headers: a stream takes 64 KiB with their names


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


def unread_after(reply: str) -> int:
    """The number of messages that the consumer had not handed out yet when it handed out this one."""
    tokens = reply.split(".")
    return int(tokens[8 if len(tokens) == 9 else 10])


def call_of(reply: str) -> int:
    """The consumer's own sequence: how many times it had handed out any message, with this one."""
    tokens = reply.split(".")
    return int(tokens[6 if len(tokens) == 9 else 8])


def event_from_message(
    subject: str, data: bytes, headers: Mapping[str, str] | None, identity: str, source: str, time: str | None
) -> Event:
    """The event of a message. A CloudEvent (binary or structured) stays as it is; others get the id `identity`."""
    if not subject.isascii():
        subject = text_without_surrogates(subject)
    extensions = {"natssubject": subject}
    content_type = None
    if headers:
        meaning = MeaningOfHeaders(header_pairs(headers))
        content_type, others = meaning.content_type, meaning.others
        if is_claim(content_type) or meaning.has("ce-specversion"):
            try:
                return with_trace(_cloud_event(meaning, data), meaning.trace).with_extensions(**extensions)
            except InvalidEvent as error:
                extensions["invalidcloudevent"] = str(error)
                if is_claim(content_type):  # a receiver of that content type would take the data for the event
                    others = [*others, ("content-type", (content_type or "").encode())]
                    content_type = None
        extensions.update(header_extensions("nats", others))
        extensions.update(meaning.trace)
        if meaning.encoding is not None:
            extensions[ENCODING] = meaning.encoding
    if content_type is None:
        content_type = guessed_content_type(data)
    return Event(identity, source, MESSAGE_TYPE, data, content_type, None, subject, time, extensions)


def message_from_event(event: Event) -> tuple[dict[str, str], bytes]:
    """The headers and the data of an event, in the NATS binding's binary mode.

    `Content-Type` is for readers that know no CloudEvents. It is left out where it would make the data the event.
    Attributes that are larger than a stream takes go in structured mode.
    """
    found = {f"ce-{name}": escaped(value) for name, value in event.attributes().items()}
    if event.datacontenttype is not None and not is_claim(event.datacontenttype):
        found["Content-Type"] = "".join(c for c in event.datacontenttype if c.isprintable())
    if sum(map(len, found.values())) > _MOST_VALUE_BYTES:
        return {"Content-Type": STRUCTURED}, json_from_event(event)
    return found, event.data or b""


def _cloud_event(meaning: MeaningOfHeaders, data: bytes) -> Event:
    content_type = meaning.content_type
    if is_claim(content_type):
        return event_of_claim(content_type, data)
    headers: dict[str, str] = {}
    for name, value in meaning.others:
        if name.startswith("ce-") and name in headers:
            raise InvalidEvent(f"{name[3:]}: given twice")
        headers[name] = header_text(value)
    attributes = attributes_of_headers(headers)
    if content_type is not None:
        attributes.setdefault("datacontenttype", content_type)
    if meaning.encoding is not None:
        attributes.setdefault(ENCODING, meaning.encoding)
    return valid_event(attributes, data)
