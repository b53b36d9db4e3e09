"""The state of a trigger in lines for people. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from kubeirq.output.formats import ago, counted, last_answer, span
from trigger_sources.spec import problem_of_name


def condition_lines(conditions: Sequence[Mapping[str, Any]]) -> list[str]:
    """`since` is in seconds since the epoch. A message that several conditions have is shown once."""
    lines = []
    shown = set()
    for condition in conditions:
        text = f"  {condition['type']:10} {condition['status']:8} {condition['reason']}"
        text += f", for {span(condition['since'])}" if condition["since"] else ""
        message = condition["message"] if condition["message"] not in shown else ""
        shown.add(message)
        lines.append(text + (f"\n      {message}" if message else ""))
    return lines


def flow_lines(found: Mapping[str, Any]) -> list[str]:
    """The counters of a flow, its waiting events and its last answer."""
    lag = found["lag"]
    # A caller that got the function's failure as its answer has lost nothing
    words = {"dropped": "answered with a failure"} if found.get("callersWait") else {}
    since = f", counted for {span(found['countersSince'])}" if found.get("countersSince") else ""
    return [
        "  " + ", ".join(f"{words.get(name, name)} {count}" for name, count in found["counters"].items()) + since,
        f"  held {found['held']}, in flight {found['inFlight']}, lag {lag['events'] if lag else 'unknown'}, "
        f"dead letters {found['deadLetters']}",
        f"  last answer {last_answer(found['lastAnswer'])}"
        + (f"; last error{_ago(found.get('lastErrorAt'))}: {found['lastError']}" if found["lastError"] else ""),
    ]


def _ago(at: float | None) -> str:
    return f" at {ago(at)}" if at else ""


def failing_lines(flow: Mapping[str, Any]) -> list[str]:
    """What a person should look at though the flow is Ready: dead letters, events that fail, a failed last call."""
    lines = [counted(flow["deadLetters"], "dead letter")] if flow["deadLetters"] else []
    retrying = next((found for found in flow["conditions"] if found["reason"] == "Retrying"), None)
    if retrying is not None:
        lines.append(retrying["message"])
    answer = flow["lastAnswer"]
    is_newer = answer is None or (flow.get("lastErrorAt") or 0) >= answer["at"]
    if retrying is None and flow["lastError"] and is_newer:
        lines.append(f"last error: {flow['lastError']}")
    elif retrying is None and answer is not None and answer["status"] >= 400:
        lines.append(f"last answer {answer['status']}")
    return lines


def next_steps(trigger: Mapping[str, Any]) -> list[str]:
    """The commands and changes that help with this trigger now: the source first, then the function, then the rest."""
    own = [found for found in trigger["conditions"] if found["type"] != "Ready"] or trigger["conditions"]
    steps = [step for found in own if (step := _step(trigger, found))]
    if "answer's body is over" in (trigger.get("lastError") or ""):
        steps.append(_RETURN_LESS)
    elif trigger.get("callersWait") and trigger.get("counters", {}).get("dropped") and trigger["function"]:
        steps.append(f"kubeirq logs Function/{trigger['function']}")  # only its log has each failure that a caller got
    if trigger["deadLetters"]:
        steps.append(f"kubeirq dead-letters list {_name_of(trigger)}")
    return list(dict.fromkeys(steps))


_NEXT_OF_REASON = {
    "EverythingFails": "fix the function, then run kubeirq resume {name}, or wait: one event is tried every 30 s",
    "FilterFails": "correct spec.filter and apply it; then kubeirq dead-letters redrive {name} --all",
    "Parked": "kubeirq lanes list {name}; mend the function, then kubeirq lanes release {name} LANE",
    "LaneFull": "kubeirq lanes list {name}",
    "MemoryFull": "kubeirq lanes list {name}; the metric kubeirq_held_bytes shows who else holds events",
    "Retrying": "kubeirq lanes list {name}",
    "RepliesUnpublished": "mend the target of spec.reply, which the message names; the replies wait, and none is lost",
    "Suspended": "kubeirq resume {name}",
    "NotConnected": "check the address that the message names, and whether it can be reached from here",
    "Unauthorized": "check the login and the Secret in spec.security, and the rights of that user at the broker",
    "TopicMissing": "create the topic, or correct spec.topics",
    "StreamMissing": "create the stream, or set spec.createStream: true",
    "StoreFull": "free some space; of a stream, raise the limit that the message names",
    "BacklogFull": "look whether the function is up and fast enough, or raise spec.maxBacklog",
    "NoBrokers": "set spec.brokers",
    "NoServers": "set spec.servers",
    "SecretMissing": "create the Secret with that key; the trigger then goes on by itself",
    "SecretForbidden": "an admin of the namespace types the command of the message; docs/tenants.md",
    "SecretUnusable": "correct the Secret; the trigger then goes on by itself",
    "Taken": "change the route, the durable or the group of one of the two triggers",
    "NoFunction": "create a Function with these labels, or change spec.functionSelector",
    "Invalid": "correct the spec as the message says",
    "UnknownValue": "upgrade kubeirq, or take the value back",
}
_RETURN_LESS = "let the function return less, or store its result and return where it is; its log has nothing on this"
_WITHOUT_A_STEP = frozenset({"Starting", "Stopping", "Completed", "Unseen"})


def _name_of(trigger: Mapping[str, Any]) -> str:
    """A name that means this trigger only, also where the function has the same one."""
    same = trigger.get("kind") and trigger["name"] == trigger.get("function")
    return f"{trigger['kind']}/{trigger['name']}" if same else str(trigger["name"])


def _step(trigger: Mapping[str, Any], condition: Mapping[str, Any]) -> str | None:
    """The step for a condition; None for one that needs nothing."""
    reason, name = condition["reason"], _name_of(trigger)
    if reason == "FunctionDown":
        waits = "callers get a 503, accepted events wait" if trigger.get("kind") == "HTTPTrigger" else "its events wait"
        return f"{_step_for_function(trigger['function'], condition.get('message', ''))}; {waits}, and none is lost"
    if reason == "Suspended" and "its file" in condition.get("message", ""):
        return "set spec.suspend to false in its file"
    if (step := _NEXT_OF_REASON.get(reason)) is not None:
        return step.format(name=name)
    if condition.get("status") == "True" or reason in _WITHOUT_A_STEP:
        return None
    return f"kubeirq logs {name}"


def _step_for_function(called: str, message: str) -> str:
    if problem_of_name(called) is not None:
        step = f"find out why {called} does not answer"
    elif "there is no Function" in message:
        step = f"create the Function {called}, or correct spec.function"
    else:
        step = f"kubeirq describe Function/{called}"
    return step
