"""Table rows and lines for the functions and triggers of a cluster. Pure but for the clock of ages."""

from collections.abc import Mapping, Sequence
from typing import Any

from kubeirq.fabric_client import ResourceView, Table
from kubeirq.on_cluster.resources import FUNCTION
from kubeirq.output.formats import age, span
from kubeirq.output.function_steps import function_steps
from kubeirq.output.trigger_lines import condition_lines, flow_lines

_TRIGGER_COLUMNS = ("TRIGGER", "CALLS", "READY", "SINCE", "MESSAGE")
_FUNCTION_COLUMNS = ("FUNCTION", "READY", "RUNTIME", "REPLICAS", "SINCE", "MESSAGE")


def tables(views: Sequence[ResourceView], with_namespace: bool) -> list[Table]:
    """A table of the triggers, then one of the functions."""
    first = ("NAMESPACE",) if with_namespace else ()
    triggers = [_row(view, _trigger_cells(view), with_namespace) for view in views if view["kind"] != FUNCTION]
    functions = [_row(view, _function_cells(view), with_namespace) for view in views if view["kind"] == FUNCTION]
    return [((*first, *_TRIGGER_COLUMNS), triggers), ((*first, *_FUNCTION_COLUMNS), functions)]


def function_lines(view: ResourceView, events: Sequence[Mapping[str, Any]] = ()) -> list[str]:
    lines = [_title(view), *(condition_lines(view["conditions"]) or [f"  {view['message']}"])]
    replicas = f"{view['readyReplicas']} of {view['replicas']} ready"
    details = {"runtime": view["runtime"], "handler": view["handler"], "replicas": replicas, "url": view["url"]}
    lines += [f"  {label:10} {value}" for label, value in details.items() if value]
    for event in events:
        times = f", {event['count']} times" if event["count"] > 1 else ""
        lines.append(f"  {span(event['at'])} ago{times}: {event['reason']}: {event['message']}")
    return [*lines, *(f"  next: {step}" for step in function_steps(view, bool(events)))]


def trigger_lines(view: ResourceView, controller_lines: Sequence[str]) -> list[str]:
    """The trigger's own lines, with those from its controller at the end."""
    lines = [_title(view), f"  calls {view['function']}"]
    if view["address"]:
        lines.append(f"  called at {view['address']}")
    lines += condition_lines(view["conditions"]) or [f"  {view['message']}"]
    if view["nextRuns"]:
        lines.append(f"  next runs {', '.join(view['nextRuns'])}")
    return [*lines, *controller_lines]


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
