"""Filters in CEL: what they see, and that an error is not false."""

import pytest

from trigger_sources.delivery import Delivery
from trigger_sources.dispatch.filters import FilterError, compile_filter
from trigger_sources.events import Event


async def _nothing(outcome: object) -> None: ...


def delivery(data: bytes | None = b'{"total": 150}', contenttype: str | None = "application/json") -> Delivery:
    event = Event("1", "/shop", "order.placed", data, contenttype, extensions={"partitionkey": "k"})
    return Delivery(event, _nothing, key=b"customer-7", headers=[("region", b"eu")])


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("data.total > 100 && event.type == 'order.placed'", True),
        ("data.total > 200", False),
        ("event.partitionkey == 'k' && key == 'customer-7'", True),
        ("headers.region == 'eu'", True),
        ("has(data.note) && data.note != ''", False),
        ("event.type.startsWith('order.')", True),
    ],
)
def test_a_filter_sees_attributes_payload_key_and_headers(text: str, passes: bool) -> None:
    assert compile_filter(text)(delivery()) is passes


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("data.lines.exists(line, line.price > 100)", True),
        ("data.lines.all(line, line.price > 100)", False),
        ("data.lines.exists_one( line ,line.price > 100)", True),
        ("size(data.lines.filter(l, l.price > 1)) == 2 && data.lines.map(l, l.price)[0] == 5", True),
        ("data.lines.exists(l, data.lines.exists(m, l.price > m.price))", True),
    ],
)
def test_macros_name_what_they_go_through(text: str, passes: bool) -> None:
    assert compile_filter(text)(delivery(b'{"lines": [{"price": 5}, {"price": 105}]}')) is passes


def test_a_text_payload_is_text() -> None:
    assert compile_filter("data.contains('world')")(delivery(b"hello world", "text/plain"))


def test_a_filter_that_names_no_payload_does_not_parse_it() -> None:
    assert compile_filter("event.type == 'order.placed'")(delivery(b"{broken"))


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("data.missing > 1", b"{}"),
        ("data.total > 'x'", b'{"total": 1}'),
        ("data.total", b'{"total": 1}'),
        ("data.a", b"{b"),
    ],
)
def test_what_cannot_be_evaluated_is_an_error_and_not_false(text: str, data: bytes) -> None:
    with pytest.raises(FilterError):
        compile_filter(text)(delivery(data))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("data.total >", "no CEL expression: it ends too early, at character 13"),
        ("data.total >> 1", "no CEL expression: extraneous input '>', at character 13"),
        ("dta.total > 1", "no name 'dta' in a filter; known: event, data, key, headers"),
        ("data.lines.exists(line, lime.price > 1)", "no name 'lime' in a filter; known: event, data, key, headers"),
        ("lower(event.type) == 'x'", "no function 'lower' in a filter; known: all, "),
    ],
)
def test_a_broken_filter_says_what_is_wrong(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match="^" + problem.replace("(", r"\(")):
        compile_filter(text)
