"""Computes the conditions of a trigger from its flows. Pure."""

from collections.abc import Mapping, Sequence

from controllers.cluster.conditions import Condition
from trigger_sources.dispatch.status import STARTING, FlowStatus

_FLOW_CONDITIONS = ("Connected", "Delivering")
_SEVERITY = {"False": 0, "Unknown": 1, "True": 2}  # the worst status first


def conditions_of_trigger(
    flows: Mapping[str, FlowStatus], body_limit: str = "", no_flow: tuple[str, str] = (STARTING, "")
) -> list[Condition]:
    """Accepted, Connected, Delivering and Ready of a trigger with a valid spec. `flows` has each flow by its function.

    `body_limit` is the problem of a trigger that takes larger bodies than its function. `no_flow`: the reason and
    the message for a trigger without flows.

    Of several flows, the worst one decides. The conditions contain nothing that changes with every event, so that an
    idle trigger causes no writes, and a busy one few.
    """
    found = [Condition("Accepted", "True", "Accepted")]
    if not flows:
        return [*found, Condition("Ready", "False", *no_flow)]
    parts = [_worst(name, flows) for name in _FLOW_CONDITIONS]
    problems = (part for part in parts if part.status != "True")
    problem = min(problems, key=lambda part: _SEVERITY[part.status], default=None)
    if problem is None and body_limit:
        problem = Condition("Ready", "False", "BodyLimit", f"spec.bodyLimitBytes: {body_limit}")
    ready = Condition("Ready", "True", "Ready") if problem is None else _as_ready(problem)
    return [*found, *parts, ready]


def rejected(reason: str, message: str) -> list[Condition]:
    """The conditions of a trigger that cannot run with its present spec."""
    return [Condition("Accepted", "False", reason, message), Condition("Ready", "False", reason, message)]


def held_back(conditions: Sequence[Condition], reason: str, message: str) -> list[Condition]:
    """The conditions of a trigger that goes on with its former spec, whose conditions these are."""
    accepted, ready = rejected(reason, message)
    return [accepted, *(found for found in conditions if found.type not in ("Accepted", "Ready")), ready]


def is_starting(flows: Mapping[str, FlowStatus]) -> bool:
    """Whether a flow has not connected yet, without a problem so far."""
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
    function, worst = min(found.items(), key=lambda item: (_SEVERITY[item[1].status], item[1].reason == name, item[0]))
    if worst.status == "True" and name == "Delivering":
        return _delivering(flows)
    names_function = len(flows) > 1 and worst.message and not worst.message.startswith(f"{function}: ")
    message = f"{function}: {worst.message}" if names_function else worst.message
    return Condition(name, worst.status, worst.reason, message)


def _delivering(flows: Mapping[str, FlowStatus]) -> Condition:
    """Delivering is True. Metrics and `kubeirq describe` show whether it is idle, or which events are tried again."""
    for function, flow in sorted(flows.items()):
        if flow.fails:
            return Condition("Delivering", "True", "Retrying", f"{function}: {flow.fails}")
    return Condition("Delivering", "True", "Flowing")


def _as_ready(problem: Condition) -> Condition:
    return Condition("Ready", problem.status, problem.reason, problem.message)
