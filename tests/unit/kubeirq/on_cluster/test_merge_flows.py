"""The states that replicas report for one trigger are merged."""

from typing import Any

from kubeirq.on_cluster.merge_flows import flows_of, merge_flows, worst_conditions


def flow(function: str = "f", **fields: Any) -> dict[str, Any]:
    return {
        "uid": "u", "function": function, "counters": {"received": 3, "delivered": 2}, "inFlight": 1, "held": 2,
        "lag": None, "deadLetters": 0, "lastAnswer": None, "lastError": "", **fields,
    }  # fmt: skip


def lag(events: int, *, of_share: bool) -> dict[str, Any]:
    return {"events": events, "seconds": float(events), "ofShare": of_share}


def answer(at: float, status: int = 200) -> dict[str, Any]:
    return {"status": status, "at": at, "latencySeconds": 0.1}


def test_counts_add_up_and_the_newest_answer_is_the_last_one() -> None:
    (found,) = merge_flows(
        [
            flow(lastAnswer=answer(5), lastError="old", lastErrorAt=5.0, deadLetters=4),
            flow(lastAnswer=answer(9, 503), lastError="503", lastErrorAt=9.0),
            flow(),
        ]
    )
    assert found["counters"] == {"received": 9, "delivered": 6}
    assert (found["inFlight"], found["held"], found["deadLetters"]) == (3, 6, 4)
    assert (found["lastAnswer"]["status"], found["lastError"], found["lag"]) == (503, "503", None)


def test_lags_of_shares_add_up_and_lags_of_the_whole_source_do_not() -> None:
    (shares,) = merge_flows([flow(lag=lag(5, of_share=True)), flow(lag=lag(7, of_share=True)), flow()])
    assert shares["lag"] == {"events": 12, "seconds": 7.0}
    (whole,) = merge_flows([flow(lag=lag(5, of_share=False)), flow(lag=lag(7, of_share=False))])
    assert whole["lag"] == {"events": 7, "seconds": 7.0}


def test_each_function_has_its_own_flow_and_other_triggers_are_left_out() -> None:
    status = {"triggers": [flow("a"), flow("b"), {**flow(), "uid": "other"}, {**flow(), "function": None}]}
    assert [found["function"] for found in merge_flows(flows_of(status, "u"))] == ["a", "b"]
    assert merge_flows([]) == []


def test_a_problem_that_only_one_replica_has_shows_in_the_merged_conditions() -> None:
    well = [
        {"type": "Ready", "status": "True", "reason": "Ready"},
        {"type": "Delivering", "status": "True", "reason": "Idle"},
    ]
    parked = [
        {"type": "Ready", "status": "False", "reason": "Parked"},
        {"type": "Delivering", "status": "False", "reason": "Parked"},
    ]
    (found,) = merge_flows([flow(conditions=well), flow(conditions=parked), flow(conditions=well)])
    assert found["conditions"] == parked
    accepted = {"type": "Accepted", "status": "True", "reason": "Accepted"}
    assert worst_conditions([[*well, accepted], parked]) == [*parked, accepted]


def test_the_last_error_is_the_latest_one_of_any_replica() -> None:
    (found,) = merge_flows(
        [
            flow(lastAnswer=answer(9), lastError="old", lastErrorAt=3.0),
            flow(lastError="new", lastErrorAt=7.0),
            flow(),
        ]
    )
    assert (found["lastError"], found["lastErrorAt"]) == ("new", 7.0)


def test_events_that_a_filter_keeps_out_add_up_unless_a_replica_lets_some_through() -> None:
    streak = {"count": 5, "since": 3.0}
    (found,) = merge_flows([flow(filteredInARow=streak), flow(filteredInARow={"count": 2, "since": 4.0})])
    assert found["filteredInARow"] == {"count": 7, "since": 4.0}
    (found,) = merge_flows([flow(filteredInARow=streak), flow()])
    assert found["filteredInARow"] is None, "one replica delivers"
    (found,) = merge_flows([flow(filteredInARow=streak), flow(counters={"received": 0, "delivered": 0})])
    assert found["filteredInARow"] == streak, "the other one takes nothing"


def test_attempts_that_all_fail_in_one_replica_show_beside_the_usual_conditions() -> None:
    idle = {"type": "Delivering", "status": "True", "reason": "Idle"}
    flowing = {"type": "Delivering", "status": "True", "reason": "Flowing"}
    retrying = {"type": "Delivering", "status": "True", "reason": "Retrying"}
    for usual in (idle, flowing):
        assert worst_conditions([[usual], [retrying], [usual]]) == [retrying]
    lost = {"type": "Connected", "status": "True", "reason": "RecordsDeleted"}
    assert worst_conditions([[{"type": "Connected", "status": "True", "reason": "Connected"}], [lost]]) == [lost]
