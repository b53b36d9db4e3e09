"""The ledger finds every kind of breach, and names the events."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers.ledger import Books, clean, judge

SENT = {"a1": "a", "b1": "b", "a2": "a", "b2": "b"}
GOOD = Books(SENT, ["a1", "b1", "a2", "b2"])


def test_each_event_once_and_in_order_is_clean() -> None:
    assert str(judge(GOOD)) == clean(4)
    assert judge(GOOD).holds


@pytest.mark.parametrize(
    ("change", "breach"),
    [
        ({"delivered": ["a1", "b1", "b2"]}, "missing: a2"),
        ({"delivered": [*GOOD.delivered, "c1"]}, "never sent: c1"),
        ({"delivered": [*GOOD.delivered, "a1"]}, "more than 0 duplicates: a1"),
        ({"delivered": [*GOOD.delivered, "a1", "b1"], "repeatable": 1}, "more than 1 duplicates: a1, b1"),
        ({"dead_lettered": ["a1"]}, "more than 0 duplicates: a1"),
        ({"delivered": ["a2", "b1", "a1", "b2"]}, "out of order: a1"),
        ({"delivered": ["a1", "b1", "a2"], "destroyed": ["b2"], "reported_lost": {"metric": 2, "log": 1}},
         "metric reports 2 lost, not 1"),
        ({"reported_lost": {"condition": 1}}, "condition reports 1 lost, not 0"),
        ({"delivered": ["a1", "b1", "a2"], "reported_lost": {"metric": 1}}, "missing: b2"),
    ],
)  # fmt: skip
def test_a_breach_is_found_and_its_events_are_named(change: dict[str, object], breach: str) -> None:
    assert breach in judge(replace(GOOD, **change)).breaches  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"delivered": ["b1", "a1", "b2", "a2"]},  # two lanes have no common order
        {"delivered": [*GOOD.delivered, "a1"], "repeatable": 1},
        {"delivered": ["a1", "b1", "a2"], "filtered": ["b2"]},
        {"delivered": ["a1", "b1", "a2"], "dead_lettered": ["b2"]},
        {"delivered": ["a1", "b1", "a2"], "dropped": ["b2"]},
        {"delivered": ["a1", "b1", "a2"], "destroyed": ["b2", "a2"], "reported_lost": {"metric": 1, "log": 1}},
        {"delivered": ["a1", "b1", "a2"], "in_doubt": ["b2"]},
        {"delivered": ["a2", "b1", "a1", "b2"], "in_doubt": ["a2"]},
        {"delivered": ["a2", "b1", "b2", "a1"], "moved": ["a1"]},
        {"sent": dict.fromkeys(SENT), "delivered": ["a2", "a1", "b2", "b1"]},
    ],
)  # fmt: skip
def test_an_end_that_is_allowed_is_no_breach(change: dict[str, object]) -> None:
    assert judge(replace(GOOD, **change)).breaches == []  # type: ignore[arg-type]


def test_a_repetition_of_an_event_does_not_change_its_order() -> None:
    found = judge(Books(SENT, ["a1", "a2", "a1", "b1", "b2"], repeatable=1))
    assert found.breaches == []
    assert found.duplicates == ("a1",)


def test_a_long_list_of_events_is_cut() -> None:
    (line,) = judge(Books(dict.fromkeys(range(25)))).breaches
    assert line.endswith("19 and 5 more")


@given(st.lists(st.sampled_from(["delivered", "filtered", "dead_lettered", "dropped", "destroyed", "none"])))
def test_the_ends_of_all_events_add_up_to_those_that_were_sent(ends: list[str]) -> None:
    names = ("delivered", "filtered", "dead_lettered", "dropped", "destroyed")
    by_end = {name: [event for event, end in enumerate(ends) if end == name] for name in names}
    found = judge(Books(dict.fromkeys(range(len(ends)), "lane"), **by_end))  # type: ignore[arg-type]
    ended = found.delivered + found.filtered + found.dead_lettered + found.dropped + found.lost
    assert found.sent == ended + len(found.missing)
    assert len(found.missing) == ends.count("none")
