"""Table rows and lines for the functions and triggers of a cluster. Pure but for the clock of ages."""

from collections.abc import Mapping, Sequence
from typing import Any

from kubeirq.fabric_client import ResourceView, Table
from kubeirq.on_cluster.resources import FUNCTION
from kubeirq.output.formats import age, clock, span
from kubeirq.output.spec_lines import spec_lines
from kubeirq.output.trigger_lines import condition_lines, flow_lines

_LONG_SECONDS = 60  # from the first to the last time of an Event
_TRIGGER_COLUMNS = ("TRIGGER", "CALLS", "READY", "SINCE", "MESSAGE")
_FUNCTION_COLUMNS = ("FUNCTION", "READY", "RUNTIME", "REPLICAS", "SINCE", "MESSAGE")


def tables(views: Sequence[ResourceView], with_namespace: bool) -> list[Table]:
    """A table of the triggers, then one of the functions."""
    first = ("NAMESPACE",) if with_namespace else ()
    called = {(view["namespace"], view["name"]): view for view in views if view["kind"] == FUNCTION}
    triggers = [
        _row(with_reason_of_function(view, called), _trigger_cells(view), with_namespace)
        for view in views
        if view["kind"] != FUNCTION
    ]
    functions = [_row(view, _function_cells(view), with_namespace) for view in views if view["kind"] == FUNCTION]
    return [((*first, *_TRIGGER_COLUMNS), triggers), ((*first, *_FUNCTION_COLUMNS), functions)]


def function_lines(view: ResourceView) -> list[str]:
    lines = [_title(view), *(condition_lines(view["conditions"]) or [f"  {view['message']}"])]
    replicas = f"{view['readyReplicas']} of {view['replicas']} ready"
    details = {"runtime": view["runtime"], "handler": view["handler"], "replicas": replicas, "url": view["url"]}
    return lines + [f"  {label:10} {value}" for label, value in details.items() if value]


def event_lines(events: Sequence[Mapping[str, Any]], known: str) -> list[str]:
    """A line for each Event. Its message is left out if it is `known`, the resource's own message."""
    found = []
    for event in events:
        times = f", {event['count']} times" if event["count"] > 1 else ""
        if times and event["first"] and event["at"] - event["first"] >= _LONG_SECONDS:
            times += f" since {clock(event['first'])}"
        message = f": {event['message']}" if event["message"] != known else ""
        found.append(f"  {span(event['at'])} ago{times}: {event['reason']}{message}")
    return found


def called_lines(view: ResourceView, events: Sequence[Mapping[str, Any]]) -> list[str]:
    """The state of a function, among the lines of the trigger that calls it."""
    state = f"{view['reason']}, for {span(view['since'])}" if view["since"] else str(view["reason"])
    head = f"  Function {view['name']}: {state}, {view['readyReplicas']} of {view['replicas']} replicas ready"
    more = [f"    {view['message']}"] if view["message"] else []
    return [head, *more, *(f"  {line}" for line in event_lines(events, view["message"]))]


def trigger_lines(view: ResourceView, spec: Mapping[str, Any], controller_lines: Sequence[str]) -> list[str]:
    """The trigger's own lines, with those from its controller at the end."""
    lines = [_title(view), f"  calls {view['function']}"]
    lines += spec_lines(view["kind"], spec, view["nextRuns"])
    if view["address"]:
        lines.append(f"  called at {view['address']}")
    lines += condition_lines(view["conditions"]) or [f"  {view['message']}"]
    return [*lines, *controller_lines]


def with_reason_of_function(view: ResourceView, functions: Mapping[tuple[str, str], ResourceView]) -> Mapping[str, Any]:
    """The trigger's view. If its function is down, the message has the function's own reason."""
    function = functions.get((view["namespace"], view["function"]))
    if view["reason"] != "FunctionDown" or function is None or function["ready"]:
        return view
    return {**view, "message": f"{function['name']}: {function['reason']}: {function['message']}".rstrip(": ")}


def controller_lines(flows: Sequence[Mapping[str, Any]], replicas: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lines about a trigger's flows, and one for each replica of its controller."""
    lines: list[str] = []
    for flow in flows:
        lines += [f"  to {flow['function']}"] if len(flows) > 1 else []
        lines += flow_lines(flow)
    return [*lines, *(f"  replica {replica['name']}: {_replica_state(replica)}" for replica in replicas)]


def _replica_state(replica: Mapping[str, Any]) -> str:
    if replica["problem"]:
        return f"no answer: {replica['problem']}"
    return f"held {replica['held']}" if replica["runs"] else "does not run it"


def _title(view: ResourceView) -> str:
    return f"{view['kind']} {view['namespace']}/{view['name']}"


def _row(view: ResourceView, cells: Sequence[Any], with_namespace: bool) -> Sequence[Any]:
    first = (view["namespace"],) if with_namespace else ()
    return *first, *cells, age(view["since"]), view["message"] or "; ".join(_notes(view)) or "-"


def _notes(view: ResourceView) -> list[str]:
    """The news of a resource that is Ready, from its conditions: lost events, or attempts that all fail."""
    told = [found for found in view["conditions"] if found["status"] == "True" and found["type"] != "Ready"]
    return [f"{found['reason']}: {found['message']}" for found in told if found["message"]]


def _trigger_cells(view: ResourceView) -> Sequence[Any]:
    return f"{view['kind']}/{view['name']}", view["function"], _ready(view)


def _function_cells(view: ResourceView) -> Sequence[Any]:
    return view["name"], _ready(view), view["runtime"], f"{view['readyReplicas']}/{view['replicas']}"


def _ready(view: ResourceView) -> str:
    return "True" if view["ready"] else str(view["reason"])
