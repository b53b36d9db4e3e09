"""Converts Kafka records to events, and events to record headers. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from trigger_sources.encoding.attributes import key_extension
from trigger_sources.encoding.broker_headers import header_extensions
from trigger_sources.encoding.content import CLOUDEVENTS, encoding_of, guessed_content_type, is_claim, media_of
from trigger_sources.encoding.header_text import header_text, text_without_surrogates
from trigger_sources.encoding.trace import TRACE_HEADERS, trace_of
from trigger_sources.events import (
    ENCODING,
    STRUCTURED,
    Event,
    InvalidEvent,
    event_from_json,
    json_from_event,
    valid_event,
    with_trace,
)

RECORD_TYPE = "dev.kubeirq.kafka.record"
Headers = Sequence[tuple[str, bytes]]
_YEAR_10000 = 253_402_300_800_000


def event_from_record(record: Any, id_prefix: str, source: str) -> Event:
    """The event of a record. `record` is aiokafka's ConsumerRecord; `id_prefix` is `<cluster>/<topic>/<partition>/`.

    A record in the form of a CloudEvent (binary or structured) becomes that event. An invalid CloudEvent becomes the
    event of a plain record, with the reason in the extension `invalidcloudevent`.
    """
    headers: Headers = record.headers
    partition, offset = str(record.partition), str(record.offset)
    extensions = {"kafkatopic": record.topic, "kafkapartition": partition, "kafkaoffset": offset}
    key: bytes | None = record.key
    if key is not None:
        name, text = key_extension(key)
        extensions[name] = text
    content_type = None
    if headers:
        named = [(name.lower(), value or b"") for name, value in headers]
        types = [value for name, value in named if name == "content-type"]
        content_type = text_without_surrogates(header_text(types[-1])) if types else None
        trace = trace_of((name, header_text(value)) for name, value in named if name in TRACE_HEADERS)
        others = [(name, value) for name, value in named if name != "content-type" and name not in TRACE_HEADERS]
        if is_claim(content_type) or any(name == "ce_specversion" for name, _ in named):
            try:
                event = _cloud_event(record, named, content_type)
            except InvalidEvent as error:
                extensions["invalidcloudevent"] = str(error)
                if is_claim(content_type):  # a receiver of that content type would take the data for the event
                    others += [("content-type", types[-1])]
                    content_type = None
            else:
                extensions.update(header_extensions("kafka", [pair for pair in others if pair[0][:3] != "ce_"]))
                return with_trace(replace(event, extensions=_joined(extensions, event.extensions)), trace)
        extensions.update(header_extensions("kafka", others))
        extensions.update(trace)
        if encoding := encoding_of([header_text(value) for name, value in named if name == "content-encoding"]):
            extensions[ENCODING] = text_without_surrogates(encoding)
    data: bytes | None = record.value
    if content_type is None:
        content_type = guessed_content_type(data)
    return Event(
        id_prefix + offset, source, RECORD_TYPE, data, content_type, None,
        f"partition:{partition}#{offset}", rfc3339(record.timestamp), extensions,
    )  # fmt: skip


def message_from_event(event: Event) -> tuple[list[tuple[str, bytes]], bytes | None]:
    """The record headers and the value of an event, in the Kafka binding's binary mode.

    An event whose data is a CloudEvent goes in structured mode, since a reader would take the data for the event.
    """
    if is_claim(event.datacontenttype):
        return [("content-type", STRUCTURED.encode())], json_from_event(event)
    return headers_from_event(event), event.data


def headers_from_event(event: Event) -> list[tuple[str, bytes]]:
    """The record headers of an event in the Kafka binding's binary mode."""
    headers = []
    for name, value in event.attributes().items():
        headers.append(("content-type" if name == "datacontenttype" else f"ce_{name}", value.encode()))
    return headers


@lru_cache(64)  # of many events, several have the same millisecond
def rfc3339(milliseconds: int) -> str | None:
    """The time as text; None if it is out of range, as -1, which is Kafka's value for no time."""
    if not 0 <= milliseconds < _YEAR_10000:
        return None
    return f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03}Z"


@lru_cache(16)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _joined(own: Mapping[str, str], producers: Mapping[str, str]) -> dict[str, str]:
    """The extensions of a CloudEvent. The record's position is Kafka's own, whatever the producer's attributes say."""
    keys = {"partitionkey", "partitionkeyhex"}
    kept = {name: value for name, value in own.items() if not (name in keys and keys & producers.keys())}
    return {**kept, **producers, **{name: value for name, value in kept.items() if name.startswith("kafka")}}


def _cloud_event(record: Any, named: Headers, content_type: str | None) -> Event:
    if is_claim(content_type):
        media = media_of(content_type)
        if media not in (STRUCTURED, CLOUDEVENTS):
            raise InvalidEvent(f"content-type: {media!r} is not known; known: {STRUCTURED}")
        return event_from_json(record.value or b"")
    attributes: dict[str, str] = {}
    for name, value in named:
        if name.startswith("ce_"):
            if name[3:] in attributes:
                raise InvalidEvent(f"{name[3:]}: given twice")
            try:
                attributes[name[3:]] = value.decode()
            except UnicodeDecodeError as error:
                raise InvalidEvent(f"an attribute is not UTF-8: {error}") from error
    if content_type is not None:
        attributes["datacontenttype"] = content_type
    if encoding := encoding_of([header_text(value) for name, value in named if name == "content-encoding"]):
        attributes.setdefault(ENCODING, text_without_surrogates(encoding))
    return valid_event(attributes, record.value)
