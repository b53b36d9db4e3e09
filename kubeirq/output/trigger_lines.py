"""The state of a trigger in lines for people. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from kubeirq.output.formats import age, last_answer
from trigger_sources.spec import problem_of_name


def condition_lines(conditions: Sequence[Mapping[str, Any]]) -> list[str]:
    """`since` is in seconds since the epoch."""
    lines = []
    for condition in conditions:
        text = f"  {condition['type']:10} {condition['status']:8} {condition['reason']}"
        text += f", for {age(condition['since'])}" if condition["since"] else ""
        lines.append(text + (f"\n      {condition['message']}" if condition["message"] else ""))
    return lines


def flow_lines(found: Mapping[str, Any]) -> list[str]:
    """The counters of a flow, its waiting events and its last answer."""
    lag = found["lag"]
    return [
        "  " + ", ".join(f"{name} {count}" for name, count in found["counters"].items()),
        f"  held {found['held']}, in flight {found['inFlight']}, lag {lag['events'] if lag else 'unknown'}, "
        f"dead letters {found['deadLetters']}",
        f"  last answer {last_answer(found['lastAnswer'])}"
        + (f"; last error: {found['lastError']}" if found["lastError"] else ""),
    ]


def next_steps(trigger: Mapping[str, Any]) -> list[str]:
    """The commands that help with this trigger now."""
    name = trigger["name"]
    found = []
    reason = next((c["reason"] for c in trigger["conditions"] if c["type"] == "Delivering"), "")
    if reason == "FunctionDown":
        called = trigger["function"]
        step = (
            f"kubeirq describe Function/{called}"
            if problem_of_name(called) is None
            else f"find out why {called} does not answer"
        )
        found.append(f"{step}; its events wait, and none is lost")
    if reason == "EverythingFails":
        found.append(
            f"fix the function, then run kubeirq resume {name}, or wait: the fabric tries one event every 30 s"
        )
    if reason == "FilterFails":
        found.append(f"edit spec.filter, or run kubeirq resume {name}: events that it fails on become dead letters")
    if reason == "Parked":
        found.append(f"kubeirq lanes list {name}")
    if reason == "Suspended":
        found.append(f"kubeirq resume {name}")
    if trigger["deadLetters"]:
        found.append(f"kubeirq dead-letters list {name}")
    return found
