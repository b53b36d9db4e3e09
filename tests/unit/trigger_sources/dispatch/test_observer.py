"""An observer hears of an event in words: the outcome, the last attempt, and the reason."""

import pytest

from trigger_sources.delivery import SETTLED, Answer, Attempt, Delivery, Outcome
from trigger_sources.dispatch.held import Held, Identity, Seen
from trigger_sources.dispatch.observer import Observer
from trigger_sources.events import Event

IDENTITY = Identity("LineTrigger", "default", "line", "uid", "f")


def told(outcome: Outcome, *, message: str = "", tried: bool = True, caller_waits: bool = False) -> Seen:
    seen: list[Seen] = []
    event = Event("1", "/s", "t")
    held = Held(Delivery(event, lambda outcome: SETTLED, "1", caller_waits=caller_waits), None, 0.0)
    held.outcome, held.message = outcome, message
    if tried:
        held.tries = 2
        held.attempted(Attempt(1.0, 0.25, None, "timeout"))
        held.attempted(Attempt(2.0, 0.5, 500, "KeyError"))
    Observer(IDENTITY, seen.append).tell_outcome(held)
    (found,) = seen
    return found


def test_an_outcome_comes_with_its_last_attempt() -> None:
    found = told(Outcome("deadLettered", "AttemptsExhausted"), message="status 500: KeyError")
    assert (found.kind, found.trigger, found.function, found.event_id) == ("LineTrigger", "line", "f", "1")
    assert (found.what, found.attempt, found.status, found.latency_seconds) == ("deadLettered", 2, 500, 0.5)
    assert found.message == "AttemptsExhausted: status 500: KeyError"


def test_an_event_that_was_never_called_has_no_attempt() -> None:
    found = told(Outcome("filtered", "Filtered"), tried=False)
    assert (found.what, found.attempt, found.status, found.latency_seconds) == ("filtered", 0, None, None)
    assert found.message == "Filtered"


@pytest.mark.parametrize(
    ("answer", "message"), [(Answer(500), "status 500"), (None, "Timeout: status 500")], ids=["its answer", "none"]
)
def test_a_caller_that_waits_has_the_failure_as_its_answer(answer: Answer | None, message: str) -> None:
    found = told(Outcome("dropped", "Timeout", answer), message="status 500", caller_waits=True)
    assert (found.what, found.message) == ("answered", message)
