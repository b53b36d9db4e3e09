"""How a trigger is, told from its flows."""

from typing import Any

import pytest

from controllers.cluster.conditions import Condition
from controllers.functions.body_limit import body_limit_of, body_limit_problem
from controllers.triggers.conditions import conditions_of_trigger, is_starting, rejected
from trigger_sources.dispatch.counters import Counters
from trigger_sources.dispatch.flows import without_flow
from trigger_sources.dispatch.status import Condition as FlowCondition
from trigger_sources.dispatch.status import ConditionStatus, FlowStatus
from trigger_sources.registry import source_of
from trigger_sources.source import TriggerSource


def flow(
    connected: tuple[ConditionStatus, str, str] = ("True", "Connected", ""),
    delivering: tuple[ConditionStatus, str, str] = ("True", "Idle", ""),
    fails: str = "",
) -> FlowStatus:
    conditions = [FlowCondition("Ready", "True", "Ready", "", 0)]
    conditions += [FlowCondition("Connected", *connected, 0), FlowCondition("Delivering", *delivering, 0)]
    return FlowStatus(conditions, Counters(), 0, 0, None, 0, None, "", None, fails=fails)


def spec(target: dict[str, Any]) -> TriggerSource:
    return source_of("CronTrigger").model_validate({"schedule": "@hourly", "target": target})


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


def test_larger_bodies_than_the_function_takes_are_not_ready() -> None:
    problem = body_limit_problem(9_000_000, "f", body_limit_of({"source": {"inline": "x"}}))
    ready = conditions_of_trigger({"f": flow()}, problem)[-1]
    assert (ready.status, ready.reason) == ("False", "BodyLimit")
    assert ready.message.startswith("spec.bodyLimitBytes: the Function 'f' takes bodies of at most 8388608 bytes")
    down = conditions_of_trigger({"f": flow(delivering=("False", "FunctionDown", "f: down"))}, problem)[-1]
    assert down.reason == "FunctionDown"


@pytest.mark.parametrize(
    ("spec", "limit"),
    [
        ({}, 8_388_608),
        ({"env": [{"name": "FUNC_BODY_LIMIT", "value": "9"}]}, 9),
        ({"env": [{"name": "FUNC_BODY_LIMIT", "valueFrom": {}}]}, None),
        ({"env": [{"name": "FUNC_BODY_LIMIT", "value": "9Mi"}]}, None),
        ({"envFrom": [{"configMapRef": {"name": "x"}}]}, None),
        ({"image": "x"}, None),
        ({"source": {"image": "x"}}, None),
    ],
)
def test_the_limit_of_a_function_is_known_where_its_spec_tells(spec: dict[str, Any], limit: int | None) -> None:
    assert body_limit_of(spec) == limit
    assert bool(body_limit_problem(8_388_608, "f", limit)) is (limit == 9)


def test_of_several_functions_the_worst_speaks_and_is_named() -> None:
    bad = flow(connected=("False", "NotConnected", "the connection was lost"))
    found = by_type(("a", flow()), ("b", bad))
    assert found["Ready"] == Condition("Ready", "False", "NotConnected", "b: the connection was lost")


def test_a_trigger_of_which_every_attempt_fails_is_told() -> None:
    fails = "every attempt has failed since 2026-01-01T00:00:00Z, and nothing was delivered; last: status 500"
    found = by_type(("a", flow()), ("b", flow(fails=fails)))
    assert found["Delivering"] == Condition("Delivering", "True", "Retrying", f"b: {fails}")
    assert found["Ready"].status == "True"


def test_of_several_functions_the_one_whose_source_tells_something_speaks() -> None:
    lost = flow(connected=("True", "RecordsDeleted", "9 records were deleted"))
    found = by_type(("a", flow()), ("b", lost))
    assert found["Connected"] == Condition("Connected", "True", "RecordsDeleted", "b: 9 records were deleted")


def test_a_selector_without_functions_says_what_to_do() -> None:
    reason, message = without_flow(spec({"selector": {"matchLabels": {"a": "b"}}}))
    assert (reason, "label one" in message) == ("NoFunction", True)
    assert conditions_of_trigger({}, "", (reason, message))[-1] == Condition("Ready", "False", reason, message)


def test_a_trigger_that_names_its_function_has_not_started_while_it_has_no_flow() -> None:
    reason, message = without_flow(spec({"function": "f"}))
    assert reason == "Starting"
    assert "selector" not in message


def test_a_rejected_trigger_is_neither_accepted_nor_ready() -> None:
    assert {(found.type, found.status) for found in rejected("Invalid", "spec.x: y")} == {
        ("Accepted", "False"),
        ("Ready", "False"),
    }


def test_a_flow_that_has_not_said_anything_is_waited_for() -> None:
    assert is_starting({"f": flow(connected=("False", "Starting", ""))})
    assert not is_starting({"f": flow()})
