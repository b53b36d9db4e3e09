"""The next steps that `kubeirq describe` suggests."""

import time

import pytest

from kubeirq.output.formats import last_try
from kubeirq.output.trigger_lines import failing_lines, flow_lines, next_steps


@pytest.mark.parametrize(
    ("called", "step"),
    [
        ("pay", "kubeirq describe Function/pay; its events"),
        ("127.0.0.1:9", "find out why 127.0.0.1:9 does not answer; its events"),
    ],
)
def test_for_a_function_that_is_down_the_next_step_depends_on_how_it_is_called(called: str, step: str) -> None:
    down = {"type": "Delivering", "reason": "FunctionDown"}
    (found,) = next_steps({"name": "orders", "function": called, "conditions": [down], "deadLetters": 0})
    assert found.startswith(step)


def trigger(*conditions: tuple[str, str, str], letters: int = 0, message: str = "") -> dict[str, object]:
    return {
        "name": "orders",
        "function": "pay",
        "conditions": [
            {"type": kind, "status": status, "reason": reason, "message": message}
            for kind, status, reason in conditions
        ],
        "deadLetters": letters,
    }


def test_a_source_that_is_down_comes_before_old_dead_letters() -> None:
    down = trigger(("Ready", "False", "SourceFailed"), ("Connected", "False", "SourceFailed"), letters=3)
    assert next_steps(down) == ["kubeirq logs orders", "kubeirq dead-letters list orders"]


def test_a_function_that_does_not_exist_is_to_be_created() -> None:
    down = trigger(("Delivering", "False", "FunctionDown"), message="pay: there is no Function 'pay'")
    assert next_steps(down) == ["create the Function pay, or correct spec.function; its events wait, and none is lost"]


@pytest.mark.parametrize(
    "reason",
    ["NotConnected", "SourceFailed", "NotPrepared", "StreamMissing", "TopicMissing", "Unauthorized", "SecretMissing",
     "SecretForbidden", "Taken", "NoBrokers", "SomethingNew", "LaneFull", "MemoryFull", "Parked",
     "DeadLettersUnwritable", "Retrying"],
)  # fmt: skip
def test_every_condition_that_is_not_true_has_a_next_step(reason: str) -> None:
    (step,) = next_steps(trigger(("Ready", "False", reason), ("Connected", "False", reason)))
    assert step


def test_a_trigger_that_works_or_starts_or_stops_has_none() -> None:
    working = (("Ready", "True", "Ready"), ("Connected", "True", "Connected"), ("Delivering", "True", "Flowing"))
    assert next_steps(trigger(*working)) == []
    assert next_steps(trigger(("Ready", "False", "Stopping"))) == []
    assert next_steps(trigger(("Connected", "False", "Starting"))) == []


def test_a_caller_that_got_the_failure_is_not_told_as_dropped() -> None:
    flow = {"counters": {"received": 3, "dropped": 2, "withdrawn": 1}, "held": 0, "inFlight": 0, "lag": None,
            "deadLetters": 0, "lastAnswer": None, "lastError": ""}  # fmt: skip
    assert flow_lines(flow)[0] == "  received 3, dropped 2, withdrawn 1"
    assert flow_lines({**flow, "callersWait": True})[0] == "  received 3, answered with a failure 2, withdrawn 1"


def test_the_callers_of_an_http_trigger_do_not_wait() -> None:
    down = {**trigger(("Delivering", "False", "FunctionDown")), "kind": "HTTPTrigger"}
    (step,) = next_steps(down)
    assert "; callers get a 503, accepted events wait" in step


def test_a_trigger_whose_callers_get_failures_leads_to_the_log_of_its_function() -> None:
    """The trigger itself is Ready: only its counters and the log of the function tell of the failures."""
    ready = {"type": "Ready", "status": "True", "reason": "Ready", "message": ""}
    found = {
        "name": "stock", "function": "warehouse", "conditions": [ready], "deadLetters": 0, "callersWait": True,
        "counters": {"dropped": 3},
    }  # fmt: skip
    assert next_steps(found) == ["kubeirq logs Function/warehouse"]
    assert next_steps({**found, "counters": {"dropped": 0}}) == []


def test_the_last_try_of_a_flow_is_the_newer_one_of_its_answer_and_its_error() -> None:
    now = time.time()
    answer = {"status": 200, "latencySeconds": 0.012, "at": now - 60}
    error = {"lastError": "timed out: no answer within 3 s\nin stock.py", "lastErrorAt": now - 5}
    none = {"lastError": "", "lastErrorAt": None}
    error["conditions"] = none["conditions"] = []
    assert last_try({"lastAnswer": answer, **error}) == "timed out: no answer within 3 s, 5s ago"
    assert last_try({"lastAnswer": None, **error}) == "timed out: no answer within 3 s, 5s ago"
    assert last_try({"lastAnswer": {**answer, "at": now - 1}, **error}) == "200, 12.0 ms, 1s ago"
    assert last_try({"lastAnswer": None, **none}) == "-"
    away = {"type": "Ready", "status": "False", "reason": "NotConnected", "message": "kafka:9092: refused"}
    assert last_try({"lastAnswer": answer, **none, "conditions": [away]}) == "kafka:9092: refused"


def test_what_fails_though_the_trigger_is_ready_is_named() -> None:
    ready = {"type": "Ready", "status": "True", "reason": "Ready", "message": ""}
    answer = {"status": 200, "latencySeconds": 0.012, "at": 100.0}
    fine = {"conditions": [ready], "deadLetters": 0, "lastAnswer": answer, "lastError": "", "lastErrorAt": None}
    retrying = {"type": "Delivering", "status": "True", "reason": "Retrying", "message": "1 event waits; last: no"}
    assert failing_lines(fine) == []
    assert failing_lines({**fine, "lastError": "status 500", "lastErrorAt": 99.0}) == []
    assert failing_lines({**fine, "lastError": "no stock", "lastErrorAt": 101.0}) == ["last error: no stock"]
    assert failing_lines({**fine, "lastAnswer": {**answer, "status": 500}}) == ["last answer 500"]
    assert failing_lines({**fine, "deadLetters": 2}) == ["2 dead letters"]
    assert failing_lines({**fine, "conditions": [ready, retrying]}) == ["1 event waits; last: no"]


def test_an_answer_that_is_too_large_leads_to_the_handler_and_not_to_its_log() -> None:
    ready = {"type": "Ready", "status": "True", "reason": "Ready", "message": ""}
    found = {"name": "web", "function": "f", "conditions": [ready], "deadLetters": 0, "callersWait": True,
             "counters": {"dropped": 3}, "lastError": "the answer's body is over 8388608 bytes"}  # fmt: skip
    (step,) = next_steps(found)
    assert step.startswith("let the function return less")
