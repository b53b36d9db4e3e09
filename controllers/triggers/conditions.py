"""How a trigger is, told from its flows. Pure."""

from collections.abc import Mapping

from controllers.cluster.conditions import Condition
from trigger_sources.dispatch.flow import FlowStatus

_FLOWS = ("Connected", "Delivering")
_ORDER = {"False": 0, "Unknown": 1, "True": 2}  # the worst first


def conditions_of_trigger(flows: Mapping[str, FlowStatus]) -> list[Condition]:
    """Accepted, Connected, Delivering and Ready of a trigger whose spec is right. `flows`: by function.

    Of several flows the worst one speaks. What changes with every event is left out: nothing is written at rest, and
    little under load.
    """
    found = [Condition("Accepted", "True", "Accepted")]
    if not flows:
        missing = Condition("Ready", "False", "NoFunction", "its selector matches no Function; label one, or change it")
        return [*found, missing]
    parts = [_worst(name, flows) for name in _FLOWS]
    problem = min((part for part in parts if part.status != "True"), key=lambda part: _ORDER[part.status], default=None)
    ready = Condition("Ready", "True", "Ready") if problem is None else _as_ready(problem)
    return [*found, *parts, ready]


def rejected(reason: str, message: str) -> list[Condition]:
    """Of a trigger that cannot run as it is written."""
    return [Condition("Accepted", "False", reason, message), Condition("Ready", "False", reason, message)]


def is_starting(flows: Mapping[str, FlowStatus]) -> bool:
    """Whether a flow has not said yet how it is, and nothing else is known to be wrong."""
    return any(
        condition.type == "Connected" and condition.reason == "Starting" and condition.status == "False"
        for flow in flows.values()
        for condition in flow.conditions
    )


def _worst(name: str, flows: Mapping[str, FlowStatus]) -> Condition:
    found = {
        function: condition
        for function, flow in flows.items()
        for condition in flow.conditions
        if condition.type == name
    }
    function, worst = min(found.items(), key=lambda item: (_ORDER[item[1].status], item[0]))
    if worst.status == "True" and name == "Delivering":
        return Condition(name, "True", "Flowing")  # or idle, or retrying: that is for metrics and `kubeirq describe`
    names_function = len(flows) > 1 and worst.status != "True" and not worst.message.startswith(f"{function}: ")
    message = f"{function}: {worst.message}" if names_function else worst.message
    return Condition(name, worst.status, worst.reason, message)


def _as_ready(problem: Condition) -> Condition:
    return Condition("Ready", problem.status, problem.reason, problem.message)
