"""Merges the states that the replicas of a controller report for one trigger. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Flow = Mapping[str, Any]  # the flow to one function, as one replica's admin API reports it

_WORST_FIRST = ("False", "Unknown", "True")  # the status values of a condition
_USUAL_REASONS = ("Ready", "Accepted", "Connected", "Flowing", "Idle")  # other ones of a True condition tell something


def flows_of(status: Mapping[str, Any], uid: str) -> list[Flow]:
    """The flows of the trigger that run in the replica with this status."""
    return [flow for flow in status["triggers"] if flow["uid"] == uid and flow["function"] is not None]


def merge_flows(flows: Sequence[Flow]) -> list[dict[str, Any]]:
    """One flow for each function.

    Counts of single replicas add up. For values that all replicas see, the largest or the newest one counts.
    """
    found = []
    for function in sorted({flow["function"] for flow in flows}):
        same = [flow for flow in flows if flow["function"] == function]
        answered = max(
            (flow for flow in same if flow["lastAnswer"]), key=lambda flow: flow["lastAnswer"]["at"], default=None
        )
        failures = [flow for flow in same if flow["lastError"]]
        failed = max(failures, key=lambda flow: flow.get("lastErrorAt") or 0, default=None)
        since = [flow["countersSince"] for flow in same if flow.get("countersSince")]
        found.append(
            {
                "function": function,
                "counters": {name: sum(flow["counters"].get(name, 0) for flow in same) for name in same[0]["counters"]},
                "countersSince": min(since, default=None),
                "callersWait": any(flow.get("callersWait", False) for flow in same),
                "filteredInARow": _merge_streaks(same),
                "inFlight": sum(flow["inFlight"] for flow in same),
                "held": sum(flow["held"] for flow in same),
                "lag": _merge_lags([flow["lag"] for flow in same if flow["lag"] is not None]),
                "deadLetters": max(flow["deadLetters"] for flow in same),
                "lastAnswer": answered["lastAnswer"] if answered else None,
                "lastError": failed["lastError"] if failed else "",
                "lastErrorAt": failed.get("lastErrorAt") if failed else None,
                "conditions": worst_conditions(flow.get("conditions", []) for flow in same),
            }
        )
    return found


def _merge_streaks(flows: Sequence[Flow]) -> dict[str, Any] | None:
    """The sum, if no replica lets an event through that it takes."""
    streaks = [flow.get("filteredInARow") for flow in flows if flow["counters"].get("received")]
    found = [streak for streak in streaks if streak]
    if not found or len(found) < len(streaks):
        return None
    return {"count": sum(one["count"] for one in found), "since": max(one["since"] for one in found)}


def worst_conditions(reports: Iterable[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The worst condition of each type: one replica may have a problem that another does not see."""
    worst: dict[str, dict[str, Any]] = {}
    for conditions in reports:
        for condition in conditions:
            known = worst.setdefault(condition["type"], dict(condition))
            if _severity(condition) < _severity(known):
                worst[condition["type"]] = dict(condition)
    return list(worst.values())


def _severity(condition: Mapping[str, Any]) -> tuple[int, bool]:
    """The worst one is the lowest. Of conditions that are True, one that tells something comes first."""
    return _WORST_FIRST.index(condition["status"]), condition["reason"] in _USUAL_REASONS


def _merge_lags(lags: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The sum, if each replica reports the lag of its own share; else the largest, because all report the whole."""
    if not lags:
        return None
    events = [lag["events"] for lag in lags if lag["events"] is not None]
    seconds = [lag["seconds"] for lag in lags if lag["seconds"] is not None]
    of_share = all(lag.get("ofShare") for lag in lags)
    return {
        "events": (sum(events) if of_share else max(events)) if events else None,
        "seconds": max(seconds, default=None),
    }
