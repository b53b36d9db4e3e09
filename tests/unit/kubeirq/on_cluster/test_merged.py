"""What replicas say of a trigger, as one."""

from typing import Any

from kubeirq.on_cluster.merged import flows_of, merged, worst_of


def flow(function: str = "f", **fields: Any) -> dict[str, Any]:
    return {
        "uid": "u", "function": function, "counters": {"received": 3, "delivered": 2}, "inFlight": 1, "held": 2,
        "lag": None, "deadLetters": 0, "lastAnswer": None, "lastError": "", **fields,
    }  # fmt: skip


def lag(events: int, *, of_share: bool) -> dict[str, Any]:
    return {"events": events, "seconds": float(events), "ofShare": of_share}


def answer(at: float, status: int = 200) -> dict[str, Any]:
    return {"status": status, "at": at, "latencySeconds": 0.1}


def test_counts_add_up_and_the_newest_answer_is_the_last() -> None:
    (found,) = merged(
        [
            flow(lastAnswer=answer(5), lastError="old", deadLetters=4),
            flow(lastAnswer=answer(9, 503), lastError="503"),
            flow(),
        ]
    )
    assert found["counters"] == {"received": 9, "delivered": 6}
    assert (found["inFlight"], found["held"], found["deadLetters"]) == (3, 6, 4)
    assert (found["lastAnswer"]["status"], found["lastError"], found["lag"]) == (503, "503", None)


def test_lags_of_shares_add_up_and_those_of_the_whole_source_do_not() -> None:
    (shares,) = merged([flow(lag=lag(5, of_share=True)), flow(lag=lag(7, of_share=True)), flow()])
    assert shares["lag"] == {"events": 12, "seconds": 7.0}
    (whole,) = merged([flow(lag=lag(5, of_share=False)), flow(lag=lag(7, of_share=False))])
    assert whole["lag"] == {"events": 7, "seconds": 7.0}


def test_each_function_is_told_of_by_itself_and_what_does_not_run_here_is_left_out() -> None:
    status = {"triggers": [flow("a"), flow("b"), {**flow(), "uid": "other"}, {**flow(), "function": None}]}
    assert [found["function"] for found in merged(flows_of(status, "u"))] == ["a", "b"]
    assert merged([]) == []


def test_what_one_replica_alone_is_in_trouble_with_is_told() -> None:
    well = [
        {"type": "Ready", "status": "True", "reason": "Ready"},
        {"type": "Delivering", "status": "True", "reason": "Idle"},
    ]
    parked = [
        {"type": "Ready", "status": "False", "reason": "Parked"},
        {"type": "Delivering", "status": "False", "reason": "Parked"},
    ]
    (found,) = merged([flow(conditions=well), flow(conditions=parked), flow(conditions=well)])
    assert found["conditions"] == parked
    accepted = {"type": "Accepted", "status": "True", "reason": "Accepted"}
    assert worst_of([[*well, accepted], parked]) == [*parked, accepted]
