"""The conditions of a flow in every combination of facts: no two of them contradict each other."""

from collections.abc import Iterator
from itertools import product

import pytest

from trigger_sources.dispatch.status import STARTING, Facts, connected_of, delivering_of, ready_of

SOURCES = [(False, STARTING, ""), (False, "StreamMissing", "no stream"), (True, "", ""), (True, "Completed", "no more")]
STATES: list[dict[str, int]] = [
    {}, {"running": 1}, {"queued": 2}, {"retrying": 1}, {"parked": 1}, {"parked": 1, "retrying": 2, "queued": 3},
]  # fmt: skip
PROBLEMS = [None, ("EverythingFails", "last: status 500"), ("MemoryFull", "all is used")]


def all_facts() -> Iterator[Facts]:
    for (connected, reason, message), states, problem, down, suspended, anew, beside in product(
        SOURCES, STATES, PROBLEMS, (False, True), ("", "spec.suspend is true"), ("", "begins anew"), (False, True)
    ):
        yield Facts(
            connected=connected,
            reason=reason,
            message=message,
            suspended_by=suspended,
            function_down=down,
            begins_anew=anew,
            problem=("FunctionDown", "f: refused") if down else problem,
            held=sum(states.values()),
            states=states,
            beside=beside,
        )


def test_events_are_delivered_only_where_some_are_held_or_can_arrive() -> None:
    for facts in all_facts():
        if delivering_of(facts)[0] == "True":
            assert facts.held or connected_of(facts)[0] == "True", facts


def test_a_trigger_is_ready_exactly_if_it_is_connected_and_delivers() -> None:
    for facts in all_facts():
        connected, delivering, ready = connected_of(facts), delivering_of(facts), ready_of(facts)
        both = {connected[0], delivering[0]}
        assert ready[0] == ("False" if "False" in both else "Unknown" if "Unknown" in both else "True"), facts
        assert ready[0] == "True" or ready in (connected, delivering), facts


def test_a_condition_that_is_not_true_says_why() -> None:
    for facts in all_facts():
        for status, reason, message in (connected_of(facts), delivering_of(facts)):
            assert status == "True" or reason not in ("Connected", "Flowing", "Idle"), facts
            assert status == "True" or message or reason == STARTING, facts


def test_a_suspended_trigger_says_it_in_both_conditions() -> None:
    facts = [found for found in all_facts() if found.suspended_by]
    assert {(connected_of(found), delivering_of(found)) for found in facts} == {
        (("False", "Suspended", "spec.suspend is true"),) * 2
    }


@pytest.mark.parametrize(
    ("facts", "delivering"),
    [
        (Facts(connected=True, reason=""), ("True", "Idle")),
        (Facts(), ("Unknown", "NothingArrives")),
        (Facts(reason="StreamMissing"), ("Unknown", "NothingArrives")),
        (Facts(reason="StreamMissing", held=1, states={"running": 1}), ("True", "Flowing")),
        (Facts(reason="StreamMissing", held=1, states={"retrying": 1}), ("True", "Retrying")),
        (Facts(reason="StreamMissing", held=1, states={"parked": 1}), ("False", "Parked")),
        (Facts(function_down=True, problem=("FunctionDown", "f: refused")), ("False", "FunctionDown")),
    ],
)
def test_delivering(facts: Facts, delivering: tuple[str, str]) -> None:
    assert delivering_of(facts)[:2] == delivering
