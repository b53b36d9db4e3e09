"""An event's attributes as HTTP headers: every value survives the round trip, and none can add a header."""

from hypothesis import given
from hypothesis import strategies as st

from trigger_sources.events import Event, binary_headers, event_from_http

ANYTHING = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
ALLOWED = st.text(st.characters(exclude_categories=("Cs", "Cc", "Cn")), max_size=20)
NAMED = ALLOWED.filter(bool)
URIS = st.text(
    st.characters(min_codepoint=0x26, exclude_characters='"<>\\^`{|}', exclude_categories=("Cs", "Cc", "Cn"))
)
TIMES = st.datetimes().map(lambda time: f"{time.isoformat(timespec='microseconds')}Z")
PRINTABLE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=20)
EVENTS = st.builds(
    Event,
    id=NAMED,
    source=URIS.map(lambda text: f"/{text}"),
    type=NAMED,
    data=st.just(b""),
    datacontenttype=st.none() | PRINTABLE | st.just("text/plain; charset=utf-8"),
    dataschema=st.none() | URIS.map(lambda text: f"urn:{text}0"),
    subject=st.none() | NAMED,
    time=st.none() | TIMES,
    extensions=st.dictionaries(st.from_regex(r"x[a-z0-9]{1,8}", fullmatch=True), ALLOWED, max_size=3),
)


def lines_of(event: Event) -> list[tuple[str, str]]:
    text = binary_headers(event).decode("ascii")
    assert text.endswith("\r\n")
    return [(name, value) for name, _, value in (line.partition(": ") for line in text[:-2].split("\r\n"))]


@given(EVENTS)
def test_every_attribute_comes_back_unchanged_and_none_adds_a_line(event: Event) -> None:
    lines = lines_of(event)
    assert len(lines) == len(event.attributes())
    assert event_from_http(dict([*lines, ("content-length", "0")]), b"") == event


@given(ANYTHING)
def test_trace_context_is_one_separate_header(value: str) -> None:
    lines = lines_of(Event("1", "/s", "t", extensions={"traceparent": value, "tracestate": "a=b"}))
    assert [name for name, _ in lines[4:]] == ["ce-traceparent", "ce-tracestate", "traceparent", "tracestate"]
    assert all(c.isprintable() for _, text in lines for c in text)


def test_only_characters_that_need_it_are_escaped() -> None:
    event = Event("a/b:1~", "/s", 'say "50 %"', subject="ö\r\nhost: x", extensions={"key": "x y"})
    assert lines_of(event) == [
        ("ce-specversion", "1.0"), ("ce-id", "a/b:1~"), ("ce-source", "/s"), ("ce-type", "say%20%2250%20%25%22"),
        ("ce-subject", "%C3%B6%0D%0Ahost:%20x"), ("ce-key", "x%20y"),
    ]  # fmt: skip
