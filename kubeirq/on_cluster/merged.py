"""What the replicas of a controller say of one trigger, as one. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

Flow = Mapping[str, Any]  # of one function, as one replica's admin API tells it


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
            }
        )
    return found


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
