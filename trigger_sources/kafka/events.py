"""Converts Kafka records to events, and events to record headers. Pure."""

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from trigger_sources.events import STRUCTURED, Event, InvalidEvent, event_from_attributes, event_from_json

RECORD_TYPE = "dev.kubeirq.kafka.record"
Headers = Sequence[tuple[str, bytes]]
_YEAR_10000 = 253_402_300_800_000
_JSON_STARTS = frozenset(b'{["')
_JSON_ENDS = frozenset(b'}]" \t\r\n')
_JSON_SCALAR = re.compile(rb"(true|false|null|-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?)\s*")
_LONGEST_SCALAR_BYTES = 64


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
        try:
            extensions["partitionkey"] = key.decode()
        except UnicodeDecodeError:
            extensions["partitionkeyhex"] = key.hex()
    content_type = None
    if headers:
        named = {name.lower(): value or b"" for name, value in headers}
        if "content-type" in named:
            content_type = named["content-type"].decode("latin-1")
        if "ce_specversion" in named or _is_structured(content_type):
            try:
                event = _cloud_event(record, named, content_type)
            except InvalidEvent as error:
                extensions["invalidcloudevent"] = str(error)
            else:
                _add_headers(extensions, {name: value for name, value in named.items() if not name.startswith("ce_")})
                return replace(event, extensions={**extensions, **event.extensions, **_own(extensions)})
        _add_headers(extensions, named)
    data: bytes | None = record.value
    if content_type is None and data:
        content_type = "application/json" if _looks_like_json(data) else "application/octet-stream"
    return Event(
        id_prefix + offset, source, RECORD_TYPE, data, content_type, None,
        f"partition:{partition}#{offset}", rfc3339(record.timestamp), extensions,
    )  # fmt: skip


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


def _looks_like_json(data: bytes) -> bool:
    """A guess by the first and the last byte, without the cost of parsing the data."""
    if data[0] in _JSON_STARTS:
        return data[-1] in _JSON_ENDS
    return len(data) <= _LONGEST_SCALAR_BYTES and _JSON_SCALAR.fullmatch(data) is not None


def _is_structured(content_type: str | None) -> bool:
    return content_type is not None and content_type.lower().startswith(STRUCTURED)


def _own(extensions: dict[str, str]) -> dict[str, str]:
    """The extensions that Kafka itself sets, whatever the producer's attributes say."""
    return {name: value for name, value in extensions.items() if name.startswith(("kafka", "partitionkey"))}


def _cloud_event(record: Any, named: dict[str, bytes], content_type: str | None) -> Event:
    if _is_structured(content_type):
        return event_from_json(record.value or b"")
    try:
        attributes = {name[3:]: value.decode() for name, value in named.items() if name.startswith("ce_")}
    except UnicodeDecodeError as error:
        raise InvalidEvent(f"an attribute is not UTF-8: {error}") from error
    if content_type is not None:
        attributes["datacontenttype"] = content_type
    return event_from_attributes(attributes, record.value)


def _add_headers(extensions: dict[str, str], named: dict[str, bytes]) -> None:
    """Adds headers as `kafkaheader<name>`, with letters and digits only, and trace context under its own name."""
    for name, value in named.items():
        text = value.decode(errors="replace")
        if name in ("traceparent", "tracestate"):
            extensions[name] = text
        elif name != "content-type":
            extensions["kafkaheader" + "".join(c for c in name if c.isascii() and c.isalnum())] = text
