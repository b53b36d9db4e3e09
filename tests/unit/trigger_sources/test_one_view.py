"""A filter and the function see the same event, from every source, in every mode, for any bytes."""

import base64
import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runtimes.python.kubeirq_runtime.event import BadRequest, event_from
from runtimes.python.kubeirq_runtime.request import Request
from trigger_sources.delivery import Answer, Delivery, HttpRequest, Outcome
from trigger_sources.dispatch.call import call_of
from trigger_sources.dispatch.replies import reply_to
from trigger_sources.encoding.header_text import bytes_of_header, header_text
from trigger_sources.events import Event, InvalidEvent, event_from_http, http_message, viewed_data
from trigger_sources.http.events import events_of
from trigger_sources.kafka.events import event_from_record, message_from_event
from trigger_sources.nats.events import event_from_message
from trigger_sources.nats.events import message_from_event as nats_message_from_event
from trigger_sources.nats.headers import LosslessClient


@dataclass
class Record:
    value: bytes | None
    headers: list[tuple[str, bytes | None]] = field(default_factory=list)
    key: bytes | None = None
    topic: str = "orders"
    partition: int = 3
    offset: int = 7
    timestamp: int = 1_700_000_000_123


def of_kafka(value: bytes | None, *headers: tuple[str, bytes | None], key: bytes | None = None) -> Event:
    return event_from_record(Record(value, list(headers), key), "cluster/orders/3/", "/kafka/cluster/orders")


def of_nats(value: bytes, *headers: tuple[str, bytes | None]) -> Event:
    raw = b"".join(b"%b: %b\r\n" % (name.encode(), text or b"") for name, text in headers)
    parsed = LosslessClient._parse_header_lines(raw) if headers else None
    return event_from_message("orders.1", value, parsed, "S/7", "/nats/S", "2026-01-01T00:00:00.000000Z")


def of_http(value: bytes, *headers: tuple[str, bytes | None]) -> Event:
    named = [(name, header_text((text or b"").strip())) for name, text in headers]
    (event,) = events_of(named, value, subject="/p", source="/http/d/t", id="new", time="2026-01-01T00:00:00Z")
    return event


async def _settle(outcome: Outcome) -> None: ...


def called(event: Event, request: HttpRequest | None = None) -> Any:
    """The event as a function of the Python runtime gets it."""
    delivery = Delivery(event, _settle, request=request)
    method, target, head, body = call_of(delivery, 1, b"/")
    headers: dict[str, str] = {}
    for line in head.split(b"\r\n")[:-1]:
        name, _, value = line.partition(b": ")
        assert name.decode() not in headers
        headers[name.decode()] = header_text(value)
    assert len(target) + sum(len(name) + len(value) + 4 for name, value in headers.items()) < 65_000
    return event_from(Request(method.decode(), target.decode(), headers, body))


def agree(event: Event) -> Any:
    """The function's event, once it is the one that a filter sees."""
    try:
        seen = viewed_data(event)
    except ValueError:
        with pytest.raises(BadRequest):
            called(event)
        return None
    found = called(event)
    assert repr(found["data"]) == repr(seen)  # NaN is not equal to itself
    attributes = {name: str(value) for name, value in found["cloudevent"]["attributes"].items()}
    assert attributes == event.attributes()
    return found


SOURCES = pytest.mark.parametrize("source", [of_kafka, of_nats, of_http])
CLAIM = ("content-type", b"application/cloudevents+json")
ENVELOPE = {"specversion": "1.0", "id": "i-1", "source": "/s", "type": "t.e"}


def envelope(**members: object) -> bytes:
    return json.dumps({**ENVELOPE, **members}).encode()


BROKEN = [
    envelope(specversion="0.3"),
    json.dumps({name: value for name, value in ENVELOPE.items() if name != "id"}).encode(),
    envelope(myExt="x"),
    envelope(ext={"a": 1}),
    envelope(data=1, data_base64="AA=="),
    envelope(data_base64="&"),
    envelope(kafkatopic="forged", time="yesterday"),
    envelope(time="2026-01-01T00:00:00"),
    envelope(time="2026-02-30T00:00:00Z"),
    envelope(subject=""),
    envelope(source="a b"),
    envelope(dataschema="x y"),
    envelope(dataschema="relative"),
    envelope(id=5),
    envelope(type=True),
    envelope(ext=2**31),
    envelope(ext=1.5),
    envelope(ext="a\0b"),
    b"{",
    b"[]",
    b"",
    b"\xff",
    b"[INFO] started [x]",
]


@SOURCES
@pytest.mark.parametrize("value", BROKEN)
@pytest.mark.parametrize(
    "claim", ["application/cloudevents+json", "Application/CloudEvents+JSON; charset=utf-8", "application/cloudevents"]
)
def test_a_structured_event_that_is_none_is_a_plain_one_for_everybody(source: Any, value: bytes, claim: str) -> None:
    if source is of_http:
        with pytest.raises(InvalidEvent):
            of_http(value, ("content-type", claim.encode()))
        return
    event = source(value, ("content-type", claim.encode()))
    found = agree(event)
    assert event.extensions["invalidcloudevent"]
    assert found["event-id"] in ("cluster/orders/3/7", "S/7")
    assert event.extensions.get("kafkatopic", "orders") == "orders"
    assert claim in event.attributes().values()  # under the name of a header


@pytest.mark.parametrize("source", [of_kafka, of_nats])
@pytest.mark.parametrize("media", [b"application/cloudevents+avro", b"application/cloudevents-batch+json"])
def test_a_format_that_is_not_known_is_a_plain_record(source: Any, media: bytes) -> None:
    event = source(envelope(), ("content-type", media))
    assert "is not known" in event.extensions["invalidcloudevent"]
    assert agree(event)["data"] == ENVELOPE


@SOURCES
def test_an_event_whose_data_is_an_event_stays_the_outer_one(source: Any) -> None:
    inner = {**ENVELOPE, "id": "inner", "data": 5}
    event = source(envelope(datacontenttype="application/cloudevents+json", data=inner), CLAIM)
    found = agree(event)
    assert (found["event-id"], found["data"]) == ("i-1", inner)
    assert json.loads(found["cloudevent"]["data"]) == inner
    headers, value = message_from_event(event)
    assert event_from_record(Record(value, [*headers]), "", "").id == "i-1"
    named, data = nats_message_from_event(event)
    assert of_nats(data, *((name, text.encode()) for name, text in named.items())).id == "i-1"


PLAIN = [
    b"test message", b"new order 12", b"2024-01-01T10:00:00Z INFO started", b"-----BEGIN CERT", b"[INFO] app [x]",
    b"[ERROR] 2024 failed [main]", b"{{ template }}", b"12 monkeys", b'"half', b"nil", b"12ee1", b"0x1", b"[1,]",
]  # fmt: skip


@pytest.mark.parametrize("source", [of_kafka, of_nats])
@pytest.mark.parametrize("value", PLAIN)
def test_data_that_only_looks_like_json_is_delivered_as_bytes(source: Any, value: bytes) -> None:
    event = source(value)
    assert event.datacontenttype == "application/octet-stream"
    assert agree(event)["data"] == value


@pytest.mark.parametrize("source", [of_kafka, of_nats])
@pytest.mark.parametrize("headers", [[], [("content-type", b"application/json")], [("big", b"x" * 70_000)]])
def test_data_that_is_taken_for_json_and_is_none_is_bytes(source: Any, headers: list[tuple[str, bytes]]) -> None:
    for value in (b'{"a" 1}', b'{ "x", y }', b'["a" b]', b"{}}"):
        assert agree(source(value, *headers))["data"] == value


@pytest.mark.parametrize("source", [of_kafka, of_nats])
@given(value=st.binary(max_size=40) | st.sampled_from(PLAIN) | st.text('[]{}":,0123eE+-. truefalsn').map(str.encode))
@example(value=b'{"a": NaN}')
@example(value=b"[" * 5000 + b"]" * 5000)
def test_no_guess_of_a_content_type_refuses_data(source: Any, value: bytes) -> None:
    assert called(source(value))["data"] == (
        viewed_data(source(value)) if b"NaN" not in value else {"a": pytest.approx(float("nan"), nan_ok=True)}
    )


GZIP = b"\x1f\x8b\x08\x00"


@SOURCES
@pytest.mark.parametrize("claimed", [[], [(f"ce{{}}{name}", value.encode()) for name, value in ENVELOPE.items()]])
def test_compressed_data_is_bytes_whatever_its_content_type(source: Any, claimed: list[tuple[str, bytes]]) -> None:
    mark = "_" if source is of_kafka else "-"
    headers = [(name.format(mark), value) for name, value in claimed]
    event = source(GZIP, ("content-type", b"application/json"), ("content-encoding", b"gzip"), *headers)
    found = agree(event)
    assert found["data"] == GZIP
    assert found["extensions"]["request"].headers["content-encoding"] == "gzip"
    event = source(b"{}", ("content-type", b"application/json"), ("content-encoding", b"identity"), *headers)
    assert agree(event)["data"] == {}


@SOURCES
def test_a_structured_event_without_a_content_type_is_json_and_says_so(source: Any) -> None:
    event = source(envelope(data={"n": 1}), CLAIM)
    assert event.datacontenttype == "application/json"
    assert agree(event)["data"] == {"n": 1}
    assert agree(source(envelope(data=None), CLAIM))["cloudevent"]["data"] == b"null"
    assert agree(source(envelope(), CLAIM))["data"] is None
    assert agree(source(envelope(data_base64="eyJuIjoxfQ=="), CLAIM))["data"] == b'{"n":1}'
    assert agree(source(envelope(datacontenttype="foo/json", data=[1]), CLAIM))["data"] == [1]
    assert agree(source(envelope(datacontenttype="text/plain", data="x"), CLAIM))["data"] == "x"


@SOURCES
@pytest.mark.parametrize(
    ("charset", "value", "text"),
    [
        ("iso-8859-1", b"\xe9\x80", "é\x80"),
        ('"ISO-8859-15"', b"\xa4", "€"),
        ("windows-1252; x=y", b"\x80", "€"),
        ("utf-16", b"\xfe\xff\x20\xac", "€"),
        ("UTF-16LE", b"\xac\x20", "€"),
        ("Shift_JIS", b"\x83\x89", "ラ"),
        ("utf-8", "é".encode(), "é"),
        ("unicode_escape", b"\\u00e9", "\\u00e9"),
        ("nonsense", "é".encode(), "é"),
    ],
)
def test_text_is_read_in_its_charset_and_keeps_its_bytes(source: Any, charset: str, value: bytes, text: str) -> None:
    content_type = f"text/plain; charset={charset}"
    for more in ([], [("big", b"x" * 70_000)] if source is not of_http else []):  # large: in structured mode
        event = source(value, ("content-type", content_type.encode()), *more)
        found = agree(event)
        assert found["data"] == text
        assert found["cloudevent"]["data"] == value
    event = source(envelope(datacontenttype=content_type, data=text), CLAIM)
    assert agree(event)["data"] == text


@SOURCES
def test_text_that_its_charset_does_not_have_is_no_event(source: Any) -> None:
    value = envelope(datacontenttype="text/plain; charset=iso-8859-1", data="€")
    if source is of_http:
        with pytest.raises(InvalidEvent, match="data: text that the charset"):
            of_http(value, CLAIM)
    else:
        assert source(value, CLAIM).extensions["invalidcloudevent"].startswith("data: text that the charset")


@SOURCES
@pytest.mark.parametrize("number", ["123456789012345678901234567890", "-9223372036854775809", "0.12345678901234567890"])
def test_a_number_in_a_structured_event_keeps_its_digits(source: Any, number: str) -> None:
    text = envelope(x="y").decode()[:-1] + f', "data" : {{"wei": [{number}]}} }}'
    event = source(text.encode(), CLAIM)
    assert event.data == f'{{"wei": [{number}]}}'.encode()
    assert agree_on_integers(event) == {"wei": [json.loads(number)]}


@SOURCES
@pytest.mark.parametrize("levels", [200, 253, 254, 260, 500, 800])
@pytest.mark.parametrize("inside", [b"", b"1", b"12345678901234567890"])
def test_deep_data_of_a_structured_event_arrives(source: Any, levels: int, inside: bytes) -> None:
    data = b"[" * levels + inside + b"]" * levels
    event = source(envelope()[:-1] + b', "data": ' + data + b"}", CLAIM)
    assert event.data == data
    assert called(event)["event-id"] == "i-1"


@SOURCES
@pytest.mark.parametrize("levels", [980, 1_000, 1_020, 1_030, 100_000])
def test_deeper_data_is_an_event_or_none_and_never_stops_the_source(source: Any, levels: int) -> None:
    for inside in (b"", b"12345678901234567890"):
        value = envelope()[:-1] + b', "data": ' + b"[" * levels + inside + b"]" * levels + b"}"
        try:
            event = source(value, CLAIM)
        except InvalidEvent:
            assert source is of_http
            continue
        assert (event.data is not None and event.id == "i-1") or "invalidcloudevent" in event.extensions


@SOURCES
@pytest.mark.parametrize("data", [b"1e400", b"-1e400", b'"cut \\ud83d"', b'{"\\udc00": [1]}', b"NaN", b"1.0", b"-0.0"])
def test_json_that_not_every_parser_takes_keeps_its_text(source: Any, data: bytes) -> None:
    for begin in (b"", b"\xef\xbb\xbf"):
        event = source(begin + envelope()[:-1] + b', "data": ' + data + b"}", CLAIM)
        assert event.data == data
        assert agree(event)["event-id"] == "i-1"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**25), 10**25) | st.floats() | st.text(max_size=3) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)
members = st.sampled_from(
    [
        "id",
        "source",
        "type",
        "specversion",
        "subject",
        "time",
        "datacontenttype",
        "dataschema",
        "data",
        "data_base64",
        "x",
    ]
)


@given(st.dictionaries(members, json_values | st.sampled_from(["text/plain", "text/x; charset=utf-16", "AA=="])))
def test_any_json_object_is_an_event_or_none(found: dict[str, Any]) -> None:
    value = json.dumps({**ENVELOPE, **found}).encode()
    for source in (of_kafka, of_nats):
        assert called(source(value, CLAIM))["event-id"]
    batch = [(("content-type", "application/cloudevents-batch+json"))]
    for read in (
        lambda: of_http(value, CLAIM),
        lambda: events_of(batch, b"[%b]" % value, subject="", source="", id="", time=""),
    ):
        with suppress(InvalidEvent):
            read()


def agree_on_integers(event: Event) -> Any:
    return called(event)["data"]


@SOURCES
@pytest.mark.parametrize("size", [63_000, 70_000, 300_000])
def test_attributes_that_are_too_large_for_a_head_arrive_nevertheless(source: Any, size: int) -> None:
    found = agree(source(envelope(big="x" * size, data={"n": 1}), CLAIM))
    assert found["data"] == {"n": 1}
    assert len(found["cloudevent"]["attributes"]["big"]) == size


@pytest.mark.parametrize("data", [b"\0\1\xff", b"", b'{"a": 1}', b"text", b"null"])
@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/xml", "x/y"])
def test_large_attributes_change_nothing_in_the_data(data: bytes, content_type: str) -> None:
    for headers in ([], [("big", b"x" * 100_000)]):
        event = of_kafka(data, ("content-type", content_type.encode()), *headers)
        found = agree(event)
        if found is not None and content_type != "application/json":
            assert found["cloudevent"]["data"] == data


names = st.text("abxyz-_A", min_size=1, max_size=4)
values = st.binary(max_size=12).map(lambda value: value.replace(b"\r", b"").replace(b"\n", b"").strip())
charsets = st.sampled_from(
    [
        *("utf-8", "UTF8", "us-ascii", "iso-8859-1", "ISO_8859-15", "latin1", "windows-1252", "utf-16", "utf-16le"),
        *("UTF-32", "shift_jis", "euc-jp", "iso-2022-jp", "gb18030", "big5", "koi8-r", "iso-8859-12", "hex", "x"),
    ]
)
texts = st.builds(
    "{};{}charset={}{}{}".format,
    st.sampled_from(["text/plain", "Text/HTML"]),
    st.sampled_from(["", " "]),
    st.sampled_from(["", '"']),
    charsets,
    st.sampled_from(["", '"', "; x=y", "x"]),
).map(str.encode)
modes = texts | st.sampled_from(
    [b"application/json", b"text/plain", b"x/y", b"application/cloudevents+json", b"\xe9", b""]
)
bodies = st.binary(max_size=30) | st.sampled_from([b"{}", envelope(), envelope(data="x"), b"[1]", b'"a"'])


@SOURCES
@given(
    value=bodies,
    headers=st.lists(st.tuples(names, values), max_size=4),
    content_type=st.none() | modes,
    encoding=st.none() | st.sampled_from([b"gzip", b"identity", b""]),
)
def test_a_filter_and_a_function_see_the_same(
    source: Any, value: bytes, headers: list[tuple[str, bytes]], content_type: bytes | None, encoding: bytes | None
) -> None:
    headers = [(name.lower(), text) for name, text in headers]
    if content_type is not None:
        headers.append(("content-type", content_type))
    if encoding is not None:
        headers.append(("content-encoding", encoding))
    try:
        event = source(value, *headers)
    except InvalidEvent:
        assert source is of_http
        return
    agree(event)


@given(
    key=st.none() | st.binary(max_size=5),
    headers=st.lists(
        st.tuples(st.text("abB-_", min_size=1, max_size=2), st.none() | st.binary(max_size=8)), max_size=4
    ),
)
@example(
    key=b"a\nb",
    headers=[("a", b"x\ty\r\n"), ("b", "\x85\x7f".encode()), ("content-type", b"a\nb"), ("traceparent", b"\n")],
)
def test_every_plain_record_is_a_cloud_event_that_can_be_passed_on(
    key: bytes | None, headers: list[tuple[str, bytes | None]]
) -> None:
    event = of_kafka(b"x", *headers, key=key)
    agree(event)
    head, body = http_message(event)
    lines = [line.partition(b": ") for line in head.split(b"\r\n")[:-1]]
    answer = Answer(200, [(name.decode(), header_text(value)) for name, _, value in lines], body)
    passed_on = reply_to(event, answer, "default", "f")
    assert passed_on is not None
    assert passed_on.id == event.id
    named, data = message_from_event(passed_on)
    assert of_kafka(data, *named).id == event.id


@given(st.binary())
def test_the_text_of_a_header_keeps_every_byte(value: bytes) -> None:
    assert bytes_of_header(header_text(value)) == value


@given(
    data=st.binary(max_size=20),
    subject=st.text(st.characters(exclude_categories=("Cs", "Cc", "Cn")), min_size=1),
    text=st.text(st.characters(exclude_categories=("Cs", "Cc", "Cn"))),
    content_type=st.sampled_from([None, "application/json", "text/plain", "application/cloudevents+json"]),
)
def test_an_event_survives_each_binding_in_both_directions(
    data: bytes, subject: str, text: str, content_type: str | None
) -> None:
    event = Event("1", "/s", "t", data, content_type, subject=subject, extensions={"x": text})
    headers, value = message_from_event(event)
    assert of_kafka(value, *headers).attributes().items() >= event.attributes().items()
    named, body = nats_message_from_event(event)
    assert of_nats(body, *((name, line.encode()) for name, line in named.items())).attributes().items() >= (
        event.attributes().items()
    )
    head, body = http_message(event)
    lines = [line.partition(b": ") for line in head.split(b"\r\n")[:-1]]
    found = event_from_http({name.decode(): header_text(value) for name, _, value in lines}, body)
    assert found is not None
    assert found.attributes() == event.attributes()
    assert (found.data or b"") == data


@pytest.mark.parametrize(
    ("sent", "attribute"),
    [
        (b'"a b"', "a b"), (rb'"a \"b\""', 'a "b"'), (b'"a%20b"', "a b"), (b"a%20b", "a b"), (b"%c3%a9", "é"),
        ("é".encode(), "é"), (b"Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"), (b'"', '"'), (b"100%", "100%"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("source", [of_nats, of_http])
def test_values_are_unquoted_and_percent_decoded_once(source: Any, sent: bytes, attribute: str) -> None:
    own = [(f"ce-{name}", value.encode()) for name, value in ENVELOPE.items()]
    event = source(b"", *own, ("ce-subject", sent))
    assert event.subject == attribute
    assert agree(event)["cloudevent"]["attributes"]["subject"] == attribute


@pytest.mark.parametrize("sent", [b"%C0%A0", b"x%80", b"%ED%A0%80", b"%E2%82", b"\xe9"])
def test_a_value_that_is_not_utf_8_is_no_attribute(sent: bytes) -> None:
    own = [(f"ce-{name}", value.encode()) for name, value in ENVELOPE.items()]
    with pytest.raises(InvalidEvent, match="subject: the value is not UTF-8"):
        of_http(b"", *own, ("ce-subject", sent))
    assert "subject" in of_nats(b"", *own, ("ce-subject", sent)).extensions["invalidcloudevent"]


@SOURCES
def test_an_attribute_is_given_once(source: Any) -> None:
    mark = "ce_" if source is of_kafka else "ce-"
    own = [(f"{mark}{name}", value.encode()) for name, value in ENVELOPE.items()]
    if source is of_http:
        with pytest.raises(InvalidEvent, match="given twice"):
            source(b"", *own, ("ce-id", b"2"))
        with pytest.raises(InvalidEvent, match="ce-datacontenttype"):
            source(b"", *own, ("ce-datacontenttype", b"text/plain"))
    else:
        assert "given twice" in source(b"", *own, (f"{mark}id", b"2")).extensions["invalidcloudevent"]


def test_a_nats_event_names_its_content_type_in_an_attribute() -> None:
    own = [(f"ce-{name}", value.encode()) for name, value in ENVELOPE.items()]
    assert of_nats(b"x", *own, ("ce-datacontenttype", b"text/plain")).datacontenttype == "text/plain"
    assert of_nats(b"x", *own, ("content-type", b"text/plain")).datacontenttype == "text/plain"
    headers, _ = nats_message_from_event(Event("1", "/s", "t", b"x", "text/plain", subject='Euro € 😀 "q" 100%'))
    assert headers["ce-datacontenttype"] == "text/plain"
    assert headers["ce-subject"] == "Euro%20%E2%82%AC%20%F0%9F%98%80%20%22q%22%20100%25"


def test_a_kafka_event_keeps_its_own_partition_key() -> None:
    own = [(f"ce_{name}", value.encode()) for name, value in ENVELOPE.items()]
    assert of_kafka(b"", *own, ("ce_partitionkey", b"pk"), key=b"rk").extensions["partitionkey"] == "pk"
    assert of_kafka(b"", *own, key=b"rk").extensions["partitionkey"] == "rk"
    assert of_kafka(b"", key=b"a\0b").extensions["partitionkeyhex"] == "610062"


TRACE = [("traceparent", b"00-a-b-01"), ("tracestate", b"a=1"), ("tracestate", b"b=2")]


@SOURCES
def test_the_trace_of_a_message_is_its_events(source: Any) -> None:
    mark = "ce_" if source is of_kafka else "ce-"
    own = [(f"{mark}{name}", value.encode()) for name, value in ENVELOPE.items()]
    for value, headers in ((b"x", []), (b"x", own), (envelope(), [CLAIM])):
        found = called(source(value, *headers, *TRACE))["extensions"]["request"].headers
        assert (found["traceparent"], found["tracestate"]) == ("00-a-b-01", "a=1,b=2")
        twice = source(value, *headers, *TRACE, ("traceparent", b"00-c-d-01"))
        assert not {"traceparent", "tracestate"} & twice.extensions.keys()
    kept = source(envelope(traceparent="00-own-b-01"), CLAIM, *TRACE)
    assert (kept.extensions["traceparent"], kept.extensions.get("tracestate")) == ("00-own-b-01", None)


def test_the_trace_of_a_batch_is_that_of_each_event() -> None:
    headers = [("content-type", "application/cloudevents-batch+json"), ("traceparent", "00-a-b-01")]
    body = b"[" + envelope() + b"," + envelope(traceparent="00-own-b-01") + b"]"
    events = events_of(headers, body, subject="/p", source="/s", id="new", time="2026-01-01T00:00:00Z")
    assert [event.extensions["traceparent"] for event in events] == ["00-a-b-01", "00-own-b-01"]


def test_binary_and_repeated_headers_survive() -> None:
    found = of_kafka(b"x", ("Trace-Bin", b"\xff\0"), ("a", b"1")).extensions
    assert (found["kafkaheadertracebinhex"], found["kafkaheadera"]) == ("ff00", "1")
    assert "kafkaheadersjson" not in found
    found = of_kafka(b"x", ("a", b"1"), ("a", b"2"), ("A-", b"\xff")).extensions
    assert found["kafkaheadera"] == "2"
    assert json.loads(found["kafkaheadersjson"]) == [
        {"name": "a", "value": "1"}, {"name": "a", "value": "2"}, {"name": "a-", "hex": "ff"},
    ]  # fmt: skip
    found = of_nats(b"x", ("X-Bin", b"\xff"), ("r", b"1"), ("r", b"2")).extensions
    assert found["natsheaderxbinhex"] == "ff"
    assert [one.get("value") for one in json.loads(found["natsheadersjson"])] == [None, "1", "2"]
    assert "kafkaheadersjson" in of_kafka(b"x", ("ключ", b"1")).extensions


def test_an_answer_may_have_a_span_of_its_own() -> None:
    from trigger_sources.delivery import Answer

    event = Event("1", "/s", "t", extensions={"traceparent": "00-a-b-01", "tracestate": "a=1"})
    reply = reply_to(event, Answer(200, (("traceparent", "00-a-c-01"),), b"x"), "default", "f")
    assert reply is not None
    assert reply.extensions == {"kubeirqhops": "1", "traceparent": "00-a-c-01"}


def test_base64_in_an_envelope_is_the_bytes_of_the_data() -> None:
    coded = base64.b64encode(b"<x/>").decode()
    assert agree(of_http(envelope(datacontenttype="application/xml", data_base64=coded), CLAIM))["data"] == b"<x/>"
