"""Kafka records become events."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trigger_sources.events import Event, binary_headers
from trigger_sources.kafka.events import event_from_record, headers_from_event, rfc3339


@dataclass
class Record:
    value: bytes | None = b"{}"
    key: bytes | None = None
    headers: list[tuple[str, bytes | None]] = field(default_factory=list)
    topic: str = "orders"
    partition: int = 3
    offset: int = 7
    timestamp: int = 1_700_000_000_123


def event_of(record: Record) -> Event:
    return event_from_record(record, "cluster/orders/3/", "/kafka/cluster/orders")


OWN = [("ce_specversion", b"1.0"), ("ce_id", b"own"), ("ce_source", b"/own"), ("ce_type", b"own.type")]


def test_the_id_of_a_plain_record_is_its_position() -> None:
    event = event_of(Record(key=b"k1", headers=[("X-Tenant", b"acme"), ("traceparent", b"00-aa-bb-01")]))
    assert event == Event(
        id="cluster/orders/3/7",
        source="/kafka/cluster/orders",
        type="dev.kubeirq.kafka.record",
        data=b"{}",
        datacontenttype="application/json",
        subject="partition:3#7",
        time="2023-11-14T22:13:20.123Z",
        extensions={
            "kafkatopic": "orders",
            "kafkapartition": "3",
            "kafkaoffset": "7",
            "partitionkey": "k1",
            "kafkaheaderxtenant": "acme",
            "traceparent": "00-aa-bb-01",
        },
    )


def test_a_binary_key_is_given_in_hexadecimal() -> None:
    extensions = event_of(Record(key=b"\xff\x00")).extensions
    assert extensions["partitionkeyhex"] == "ff00"
    assert "partitionkey" not in extensions


@pytest.mark.parametrize(
    ("value", "content_type"),
    [
        (b'{"a": 1}\n', "application/json"),
        (b"[1]", "application/json"),
        (b'"text"', "application/json"),
        (b"true", "application/json"),
        (b"-1.5e3", "application/json"),
        (b"true story", "application/octet-stream"),
        (b"2026-11-23", "application/octet-stream"),
        (b"[info] started", "application/octet-stream"),
        (b"\x00\x01", "application/octet-stream"),
        (b"", None),
        (None, None),
    ],
)
def test_the_content_type_is_guessed_from_the_ends_of_the_value(value: bytes | None, content_type: str | None) -> None:
    event = event_of(Record(value=value))
    assert (event.data, event.datacontenttype) == (value, content_type)


def test_the_producers_content_type_is_kept() -> None:
    assert event_of(Record(headers=[("Content-Type", b"text/csv")])).datacontenttype == "text/csv"


def test_a_cloudevent_in_binary_mode_keeps_its_identity_and_gets_its_position() -> None:
    headers = [
        *OWN,
        ("ce_kafkaoffset", b"forged"),
        ("ce_tenant", b"acme"),
        ("content-type", b"text/plain"),
        ("h", b"1"),
    ]
    event = event_of(Record(value=b"x", key=b"k", headers=headers))
    assert (event.id, event.source, event.type, event.data) == ("own", "/own", "own.type", b"x")
    assert event.datacontenttype == "text/plain"
    assert event.extensions == {
        "kafkatopic": "orders",
        "kafkapartition": "3",
        "kafkaoffset": "7",
        "partitionkey": "k",
        "tenant": "acme",
        "kafkaheaderh": "1",
    }


def test_a_cloudevent_in_structured_mode_is_the_event_in_its_envelope() -> None:
    envelope = b'{"specversion":"1.0","id":"own","source":"/own","type":"own.type","data":{"a":1}}'
    headers: list[tuple[str, bytes | None]] = [("content-type", b"Application/CloudEvents+JSON; charset=utf-8")]
    event = event_of(Record(value=envelope, headers=headers))
    assert (event.id, event.source, event.data) == ("own", "/own", b'{"a":1}')


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (Record(headers=OWN[:2]), "source: a CloudEvent needs one"),
        (Record(headers=[("ce_specversion", b"0.3"), *OWN[1:]]), "specversion: '0.3' is not known; known: '1.0'"),
        (Record(headers=[("ce_specversion", None)]), "specversion: '' is not known; known: '1.0'"),
        (Record(value=None, headers=[("content-type", b"application/cloudevents+json")]), "not JSON"),
    ],
)
def test_an_invalid_cloudevent_becomes_a_plain_record_with_the_reason(record: Record, reason: str) -> None:
    event = event_of(record)
    assert event.id == "cluster/orders/3/7"
    assert event.data == record.value
    assert event.extensions["invalidcloudevent"].startswith(reason)


def test_times_that_no_producer_can_mean_are_left_out() -> None:
    assert rfc3339(-1) is None
    assert rfc3339(2**62) is None
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"


names = st.one_of(st.text(max_size=8), st.sampled_from(["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_x"]))
values = st.one_of(st.none(), st.binary(max_size=8), st.sampled_from([b"1.0", b"application/cloudevents+json"]))


@given(
    st.builds(
        Record,
        value=st.none() | st.binary(max_size=20),
        key=st.none() | st.binary(max_size=5),
        headers=st.lists(st.tuples(names | st.just("content-type"), values), max_size=6),
        timestamp=st.integers(-(2**63), 2**63 - 1),
    )
)
def test_no_record_stops_the_flow(record: Record) -> None:
    event = event_of(record)
    head = binary_headers(event)
    assert event.extensions["kafkaoffset"] == "7"
    assert head.count(b"\r\n") == len([line for line in head.split(b"\r\n") if line])


def test_a_published_event_comes_back_unchanged() -> None:
    event = Event("1", "/s", "t", b"x", "text/plain", subject="s", time="2026-01-01T00:00:00Z", extensions={"a": "b"})
    headers: list[tuple[str, bytes | None]] = [*headers_from_event(event)]
    found = event_of(Record(value=b"x", headers=headers))
    assert found.with_extensions(a="b").attributes().items() >= event.attributes().items()
