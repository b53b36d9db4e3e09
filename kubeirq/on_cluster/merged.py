"""What the replicas of a controller say of one trigger, as one. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Flow = Mapping[str, Any]  # of one function, as one replica's admin API tells it

_BADNESS = ("False", "Unknown", "True")  # of a condition's status, the worst first


def flows_of(status: Mapping[str, Any], uid: str) -> list[Flow]:
    """Those that run in the replica that gave this status."""
    return [flow for flow in status["triggers"] if flow["uid"] == uid and flow["function"] is not None]


def merged(flows: Sequence[Flow]) -> list[dict[str, Any]]:
    """One for each function: what is counted adds up, of what is seen by all the largest and the newest counts."""
    found = []
    for function in sorted({flow["function"] for flow in flows}):
        same = [flow for flow in flows if flow["function"] == function]
        answered = max(
            (flow for flow in same if flow["lastAnswer"]), key=lambda flow: flow["lastAnswer"]["at"], default=None
        )
        errors = [flow["lastError"] for flow in ([answered] if answered else []) + same if flow["lastError"]]
        found.append(
            {
                "function": function,
                "counters": {name: sum(flow["counters"][name] for flow in same) for name in same[0]["counters"]},
                "inFlight": sum(flow["inFlight"] for flow in same),
                "held": sum(flow["held"] for flow in same),
                "lag": _lag([flow["lag"] for flow in same if flow["lag"] is not None]),
                "deadLetters": max(flow["deadLetters"] for flow in same),
                "lastAnswer": answered["lastAnswer"] if answered else None,
                "lastError": errors[0] if errors else "",
                "conditions": worst_of(flow.get("conditions", []) for flow in same),
            }
        )
    return found


def worst_of(told: Iterable[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Of each type of condition the worst that someone tells: a replica may be in trouble that another does not see."""
    worst: dict[str, dict[str, Any]] = {}
    for conditions in told:
        for condition in conditions:
            known = worst.setdefault(condition["type"], dict(condition))
            if _BADNESS.index(condition["status"]) < _BADNESS.index(known["status"]):
                worst[condition["type"]] = dict(condition)
    return list(worst.values())


def _lag(lags: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """A replica tells of its share, where the source is shared out, or of the whole source."""
    if not lags:
        return None
    events = [lag["events"] for lag in lags if lag["events"] is not None]
    seconds = [lag["seconds"] for lag in lags if lag["seconds"] is not None]
    of_share = all(lag.get("ofShare") for lag in lags)
    return {
        "events": (sum(events) if of_share else max(events)) if events else None,
        "seconds": max(seconds, default=None),
    }
