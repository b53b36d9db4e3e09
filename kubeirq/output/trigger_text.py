"""How a trigger is, in lines for people. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from kubeirq.output.texts import age, last_answer
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
    """What went through a flow, and what waits in it."""
    lag = found["lag"]
    return [
        "  " + ", ".join(f"{name} {count}" for name, count in found["counters"].items()),
        f"  held {found['held']}, in flight {found['inFlight']}, lag {lag['events'] if lag else 'unknown'}, "
        f"dead letters {found['deadLetters']}",
        f"  last answer {last_answer(found['lastAnswer'])}"
        + (f"; last error: {found['lastError']}" if found["lastError"] else ""),
    ]


def advice_for(trigger: Mapping[str, Any]) -> list[str]:
    """What to type next."""
    name = trigger["name"]
    found = []
    reason = next((c["reason"] for c in trigger["conditions"] if c["type"] == "Delivering"), "")
    if reason == "FunctionDown":
        called = trigger["function"]
        look = f"kubeirq describe Function/{called}" if problem_of_name(called) is None else f"see why {called} is away"
        found.append(f"{look}; its events wait, and none is lost")
    if reason == "EverythingFails":
        found.append(f"mend the function; then kubeirq resume {name}, or wait: one event is tried every 30 s")
    if reason == "Parked":
        found.append(f"kubeirq lanes list {name}")
    if reason == "Suspended":
        found.append(f"kubeirq resume {name}")
    if trigger["deadLetters"]:
        found.append(f"kubeirq dead-letters list {name}")
    return found
