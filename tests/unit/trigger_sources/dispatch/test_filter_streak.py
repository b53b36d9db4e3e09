"""A filter tells how many events it has kept out without a break, and what it saw in the last one."""

from typing import Any

import orjson
import pytest

from trigger_sources.delivery import Delivery
from trigger_sources.dispatch.filter_streak import MOST_BYTES, FilterStreak
from trigger_sources.dispatch.filters import compile_filter
from trigger_sources.events import Event


async def _nothing(outcome: object) -> None: ...


def delivery(data: Any, key: bytes | None = None) -> Delivery:
    event = Event(id="1", source="/s", type="t", data=orjson.dumps(data), datacontenttype="application/json")
    return Delivery(event, _nothing, key=key)


def test_a_streak_counts_until_an_event_passes() -> None:
    streak = FilterStreak()
    passes = compile_filter("data.currency == 'EUR' && double(data.total) >= 20.0", None, streak)
    assert (streak.count, streak.last()) == (0, [])
    for total in (30, 31):
        assert not passes(delivery({"currency": "eur", "total": total}))
    assert (streak.count, streak.last()) == (2, ['data.currency = "eur"', "data.total = 31"])
    assert streak.since > 0
    assert passes(delivery({"currency": "EUR", "total": 31}))
    assert (streak.count, streak.last()) == (0, [])


@pytest.mark.parametrize(
    ("text", "data", "shown"),
    [
        ("data.a.b == 1", {"a": {"b": 2}}, ["data.a.b = 2"]),
        ("data.a == 'x'", {"a": None}, ["data.a = null"]),
        ("data.a.startsWith('x')", {"a": "y" * 999}, [f'data.a = "{"y" * 39}…"']),
        ("data.items.exists(one, one.sku == 'x')", {"items": [{"sku": "y"}]}, ["data.items = (list of 1)"]),
        ("has(data.c) && data.c == 1", {}, ["data = (dict of 0)", "data.c = (not there)"]),
        ("key == 'a'", {}, ['key = "k"']),
        ("has(data.a) && data.b == 1", {"b": 2}, ["data = (dict of 1)", "data.b = 2"]),
    ],
)
def test_the_values_of_the_paths_are_shown_and_bounded(text: str, data: Any, shown: list[str]) -> None:
    streak = FilterStreak()
    assert not compile_filter(text, None, streak)(delivery(data, b"k"))
    assert streak.last() == shown


def test_the_values_of_a_large_event_are_not_kept() -> None:
    streak = FilterStreak()
    assert not compile_filter("data.a == 1", None, streak)(delivery({"a": 2, "b": "x" * MOST_BYTES}))
    assert (streak.count, streak.last()) == (1, [])
