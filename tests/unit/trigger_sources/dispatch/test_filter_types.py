"""A comparison that can never be true, because the values have different types, is said with the values."""

import json
from typing import Any

import orjson
import pytest

from trigger_sources.delivery import Delivery
from trigger_sources.dispatch.filter_types import LOOKS, TypeWatch
from trigger_sources.dispatch.filters import compile_filter, type_problem
from trigger_sources.events import Event


async def _nothing(outcome: object) -> None: ...


def delivery(data: Any) -> Delivery:
    return Delivery(Event("1", "/shop", "order", json.dumps(data).encode(), "application/json"), _nothing)


@pytest.mark.parametrize(
    ("text", "data", "note"),
    [
        ('data.total == "5"', {"total": 5}, 'data.total == "5" compared a number with text: 5 with "5", in this event;'
         " that is never true: convert one, for example by string() or double()"),
        ("5 == data.total", {"total": "5"}, 'data.total == 5 compared text with a number: "5" with 5, in this event;'
         " that is never true: convert one, for example by string() or double()"),
        ('data.total != "5"', {"total": 5}, 'data.total != "5" compared a number with text: 5 with "5", in this event;'
         " that is always true: convert one, for example by string() or double()"),
        ('data.paid == "true"', {"paid": True}, 'data.paid == "true" compared a truth value with text: true with "true"'
         ", in this event; that is never true: convert one, for example by string() or double()"),
        ("data.lines[0].n in [-1, 2.5]", {"lines": [{"n": "2"}]}, "data.lines[0].n in [-1, 2.5] compared text with a"
         ' number: "2" with -1, 2.5, in this event; that is never true: convert one, for example by string() or'
         " double()"),
        ('data["a-b"] == data.c', {"a-b": 1, "c": "1"}, 'data["a-b"] == data.c compared a number with text: 1 with "1"'
         ", in this event; that is never true: convert one, for example by string() or double()"),
    ],
)  # fmt: skip
def test_a_comparison_of_different_types_is_said(text: str, data: Any, note: str) -> None:
    assert type_problem(text, data) == note


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("data.total == 5", {"total": 5.0}),
        ('data.kind == "a"', {"kind": "b"}),
        ('has(data.kind) && data.kind == "a"', {}),
        ('data.kind == "a"', {"kind": None}),
        ('data.total == "5" || data.total == 5', {"total": 5}),
        ('type(data.total) == string && data.total == "5"', {"total": 5}),
        ('string(data.total) == "5"', {"total": 5}),
        ('data.total in ["5", 5]', {"total": 5}),
        ("data == null", {"total": 5}),
        ("data.lines.exists(line, line.n == 3)", {"lines": [{"n": "3"}]}),
    ],
)
def test_a_comparison_that_may_be_true_is_left_alone(text: str, data: Any) -> None:
    assert type_problem(text, data) == ""


def test_a_filter_that_never_fits_is_told_at_once_and_after_all_looks() -> None:
    watch = TypeWatch((told := []).append)
    passes = compile_filter('data.total == "5"', watch)
    for _ in range(LOOKS + 5):
        assert not passes(delivery({"total": 7}))
    assert len(told) == 2
    assert 'compared a number with text: 7 with "5", in 20 of 20 events' in told[1]
    assert passes(delivery({"total": "5"}))
    assert watch.note == ""


def test_a_filter_that_fits_is_looked_at_for_the_first_events_only() -> None:
    watch = TypeWatch((told := []).append)
    passes = compile_filter('data.total == "5"', watch)
    for _ in range(LOOKS):
        assert passes(delivery({"total": "5"}))
    passes(delivery({"total": 5}))
    assert not told and watch.note == ""


def test_values_are_short() -> None:
    assert len(type_problem("data.text == 5", {"text": "x" * 10_000})) < 200


@pytest.mark.parametrize(
    ("value", "shown"), [("\ud83d", '"?"'), ('a"b\\', r'"a\"b\\"'), ("a\nb", r'"a\nb"'), ("ü", '"ü"')]
)
def test_any_text_of_an_event_can_be_shown_in_a_status(value: str, shown: str) -> None:
    note = type_problem("data.a == 5", {"a": value})
    assert f"text with a number: {shown} with 5" in note
    orjson.dumps(note)
