"""How a trigger is, told from its flows."""

from controllers.cluster.conditions import Condition
from controllers.triggers.conditions import conditions_of_trigger, is_starting, rejected
from trigger_sources.dispatch.counters import Counters
from trigger_sources.dispatch.flow import Condition as FlowCondition
from trigger_sources.dispatch.flow import ConditionStatus, FlowStatus


def flow(
    connected: tuple[ConditionStatus, str, str] = ("True", "Connected", ""),
    delivering: tuple[ConditionStatus, str, str] = ("True", "Idle", ""),
) -> FlowStatus:
    conditions = [FlowCondition("Ready", "True", "Ready", "", 0)]
    conditions += [FlowCondition("Connected", *connected, 0), FlowCondition("Delivering", *delivering, 0)]
    return FlowStatus(conditions, Counters(), 0, 0, None, 0, None, "")


def by_type(*flows: tuple[str, FlowStatus]) -> dict[str, Condition]:
    return {found.type: found for found in conditions_of_trigger(dict(flows))}


def test_all_is_well() -> None:
    found = by_type(("f", flow()))
    assert [condition.status for condition in found.values()] == ["True"] * 4
    assert list(found) == ["Accepted", "Connected", "Delivering", "Ready"]


def test_what_changes_with_every_event_is_not_told() -> None:
    idle, busy = flow(), flow(delivering=("True", "Retrying", "3 events wait for another attempt; last: status 503"))
    assert conditions_of_trigger({"f": idle}) == conditions_of_trigger({"f": busy})


def test_ready_says_what_is_wrong() -> None:
    found = by_type(("f", flow(delivering=("False", "FunctionDown", "f: no replica is ready"))))
    assert found["Ready"] == Condition("Ready", "False", "FunctionDown", "f: no replica is ready")
    assert found["Connected"].status == "True"


def test_of_several_functions_the_worst_speaks_and_is_named() -> None:
    bad = flow(connected=("False", "NotConnected", "the connection was lost"))
    found = by_type(("a", flow()), ("b", bad))
    assert found["Ready"] == Condition("Ready", "False", "NotConnected", "b: the connection was lost")


def test_a_selector_without_functions_says_what_to_do() -> None:
    found = by_type()
    assert found["Ready"].reason == "NoFunction"
    assert "label one" in found["Ready"].message


def test_a_rejected_trigger_is_neither_accepted_nor_ready() -> None:
    assert {(found.type, found.status) for found in rejected("Invalid", "spec.x: y")} == {
        ("Accepted", "False"),
        ("Ready", "False"),
    }


def test_a_flow_that_has_not_said_anything_is_waited_for() -> None:
    assert is_starting({"f": flow(connected=("False", "Starting", ""))})
    assert not is_starting({"f": flow()})
