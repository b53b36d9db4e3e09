"""Screening: the filter, its errors, and events that cannot be read."""

from collections.abc import Mapping
from typing import Any

import pytest
from life.stage import LineTrigger

from trigger_sources.delivery import SETTLED, Delivery
from trigger_sources.dispatch.counters import Counters
from trigger_sources.dispatch.held import Held
from trigger_sources.dispatch.hold import FailureHold
from trigger_sources.dispatch.screening import FILTERED, Screening, Uncalled
from trigger_sources.events import Event

WORKS, STOPS, FAILS = b'{"total": 2}', b'{"total": 0}', b"{}"
ERROR = Uncalled("deadLettered", "FilterError")


class Bench:
    def __init__(self, hold_after: int | None = None, *, on_failure: str = "deadLetter", **spec: Any) -> None:
        delivery = {"onFailure": on_failure, "holdAfter": hold_after}
        trigger = LineTrigger.model_validate({"function": "f", "delivery": delivery, **spec})
        self.counters = Counters()
        self.hold = FailureHold(hold_after, lambda: None, {})
        self.told: list[str] = []
        self.screening = Screening(trigger, self.hold, self.counters, self.told.append)

    def look_at(self, data: bytes, *, redriven: int = 0, **delivery: Any) -> Uncalled | None:
        event = Event("1", "/s", "t", data, "application/json")
        held = Held(Delivery(event, lambda outcome: SETTLED, "1", **delivery), None, 0.0)
        held.redriven = redriven
        return self.screening.look_at(held)


def ends(found: Uncalled | None) -> tuple[str, str] | None:
    return None if found is None else (found.kind, found.reason)


def test_without_a_filter_only_an_event_that_cannot_be_read_is_screened() -> None:
    it = Bench()
    assert not it.screening.is_needed
    assert it.look_at(WORKS) is None
    assert it.look_at(WORKS, unreadable="no event") == Uncalled("deadLettered", "Unreadable", "no event")


@pytest.mark.parametrize(
    ("on_failure", "event", "kind"),
    [
        ("deadLetter", {}, "deadLettered"),
        ("park", {}, "deadLettered"),
        ("drop", {}, "dropped"),
        ("drop", {"redriven": 1}, "deadLettered"),
        ("deadLetter", {"caller_waits": True}, "dropped"),
    ],
)
def test_the_end_of_an_unreadable_event(on_failure: str, event: Mapping[str, Any], kind: str) -> None:
    found = Bench(on_failure=on_failure).look_at(b"", unreadable="no event", **event)
    assert ends(found) == (kind, "Unreadable")


def test_a_filter_stops_events_or_lets_them_pass() -> None:
    it = Bench(filter="data.total > 1")
    assert it.screening.is_needed
    assert it.look_at(WORKS) is None
    assert it.look_at(STOPS) is FILTERED
    assert it.counters.filter_errors == 0


@pytest.mark.parametrize(
    ("on_error", "event", "end"),
    [
        ("deliver", {}, None),
        ("drop", {}, ("dropped", "FilterError")),
        ("drop", {"redriven": 1}, ("deadLettered", "FilterError")),
        ("deadLetter", {}, ("deadLettered", "FilterError")),
        ("deadLetter", {"caller_waits": True}, ("dropped", "FilterError")),
    ],
)
def test_the_end_of_an_event_on_which_the_filter_fails(
    on_error: str, event: Mapping[str, Any], end: tuple[str, str] | None
) -> None:
    it = Bench(filter="data.total > 1", filterError=on_error)
    assert ends(it.look_at(FAILS, **event)) == end
    assert it.counters.filter_errors == 1


def test_events_stay_when_the_filter_fails_on_each_of_the_first_ones() -> None:
    it = Bench(3, filter="data.total > 1")
    assert [ends(it.look_at(FAILS)) for _ in range(4)] == [
        ("deadLettered", "FilterError"), ("deadLettered", "FilterError"), ("stays", "FilterError"),
        ("stays", "FilterError"),
    ]  # fmt: skip
    found = it.look_at(FAILS, redriven=1)
    assert found is not None
    assert found.kind == "deadLettered", "it stays the dead letter that it is"
    assert found.message.startswith("spec.filter: ")
    assert it.look_at(WORKS) is None
    assert it.hold.since is None, "the filter works"
    assert ends(it.look_at(FAILS)) == ("deadLettered", "FilterError")
