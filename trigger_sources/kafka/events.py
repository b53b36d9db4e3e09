"""Converts Kafka records to events, and events to record headers. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from trigger_sources.encoding.attributes import key_extension
from trigger_sources.encoding.broker_headers import MeaningOfHeaders, header_extensions
from trigger_sources.encoding.content import guessed_content_type, is_claim
from trigger_sources.events import (
    ENCODING,
    STRUCTURED,
    Event,
    InvalidEvent,
    event_of_claim,
    json_from_event,
    valid_event,
    with_trace,
)

RECORD_TYPE = "dev.kubeirq.kafka.record"
_YEAR_10000 = 253_402_300_800_000


def event_from_record(record: Any, id_prefix: str, source: str) -> Event:
    """The event of a record. `record` is aiokafka's ConsumerRecord; `id_prefix` is `<cluster>/<topic>/<partition>/`.

    A record in the form of a CloudEvent (binary or structured) becomes that event. An invalid CloudEvent becomes the
    event of a plain record, with the reason in the extension `invalidcloudevent`.
    """
    headers: Sequence[tuple[str, bytes | None]] = record.headers
    partition, offset = str(record.partition), str(record.offset)
    extensions = {"kafkatopic": record.topic, "kafkapartition": partition, "kafkaoffset": offset}
    key: bytes | None = record.key
    if key is not None:
        try:
            text = key.decode()
        except UnicodeDecodeError:
            text = "\0"
        if text.isprintable():
            extensions["partitionkey"] = text
        else:
            extensions.update([key_extension(key)])
    content_type = None
    if headers:
        meaning = MeaningOfHeaders(headers)
        content_type, others = meaning.content_type, meaning.others
        if is_claim(content_type) or meaning.has("ce_specversion"):
            try:
                event = _cloud_event(record, meaning)
            except InvalidEvent as error:
                extensions["invalidcloudevent"] = str(error)
                if is_claim(content_type):  # a receiver of that content type would take the data for the event
                    others = [*others, ("content-type", (content_type or "").encode())]
                    content_type = None
            else:
                extensions.update(header_extensions("kafka", [pair for pair in others if pair[0][:3] != "ce_"]))
                return with_trace(replace(event, extensions=_joined(extensions, event.extensions)), meaning.trace)
        extensions.update(header_extensions("kafka", others))
        extensions.update(meaning.trace)
        if meaning.encoding is not None:
            extensions[ENCODING] = meaning.encoding
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


def _cloud_event(record: Any, meaning: MeaningOfHeaders) -> Event:
    content_type = meaning.content_type
    if is_claim(content_type):
        return event_of_claim(content_type, record.value or b"")
    attributes: dict[str, str] = {}
    for name, value in meaning.others:
        if name.startswith("ce_"):
            if name[3:] in attributes:
                raise InvalidEvent(f"{name[3:]}: given twice")
            try:
                attributes[name[3:]] = value.decode()
            except UnicodeDecodeError as error:
                raise InvalidEvent(f"an attribute is not UTF-8: {error}") from error
    if content_type is not None:
        attributes["datacontenttype"] = content_type
    if meaning.encoding is not None:
        attributes.setdefault(ENCODING, meaning.encoding)
    return valid_event(attributes, record.value)
