"""Outcomes that the source does not know are remembered by position, a bounded number of them."""

import pytest

from trigger_sources.delivery import Answer, Attempt, Delivery, Outcome
from trigger_sources.dispatch import untold
from trigger_sources.dispatch.held import Held
from trigger_sources.dispatch.untold import Untold
from trigger_sources.events import Event


async def settle(outcome: Outcome) -> None: ...


def settled(position: str | None) -> Held:
    held = Held(Delivery(Event(id="1", source="/s", type="t", data=b"large"), settle, position), None, 0.0)
    held.attempts = (Attempt(1.0, 0.1, 500, "", b"why"),)
    held.outcome = Outcome("delivered", "", Answer(200, (), b"large, too"))
    return held


def test_an_outcome_is_remembered_without_the_event_and_the_answer() -> None:
    found, held = Untold(), settled("p/1")
    assert found.remember(held) is None
    assert found["p/1"] is held
    assert held.outcome == Outcome("delivered")
    assert (held.delivery.event.data, held.attempts, held.history) == (None, (), ())
    assert (held.delivery.position, held.delivery.settle) == ("p/1", settle)


def test_an_outcome_is_forgotten_once_and_a_second_time_is_no_fault() -> None:
    found, held = Untold(), settled("p/1")
    found.remember(held)
    found.forget(held)
    found.forget(held)
    assert not found


def test_an_event_without_a_position_is_not_remembered() -> None:
    found, held = Untold(), settled(None)
    assert found.remember(held) is held
    assert not found
    found.forget(held)


def test_the_oldest_outcome_gives_way_when_they_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untold, "MOST_REMEMBERED", 2)
    found, events = Untold(), [settled(f"p/{number}") for number in range(4)]
    gone = []
    for held in events:
        expired = found.remember(held)
        if expired is not None:
            gone.append(expired)
            found.forget(expired)
    assert gone == events[:2]
    assert list(found.values()) == events[2:]
