"""The states of a fabric's functions and triggers, as the live view tells of them."""

from kubeirq.on_machine.fabric import Fabric
from kubeirq.output.state_changes import State

_NO_TROUBLE = frozenset({"Starting", "Stopping", "Suspended", "Completed"})


def states_of(fabric: Fabric) -> dict[str, State]:
    """By `function NAME` and `KIND/NAME`. A trigger whose function is down is not to blame: the function is named."""
    found: dict[str, State] = {}
    for (namespace, name), process in fabric.functions.items():
        problem = process.last_error.strip() if process.state in ("Down", "Failing") else ""
        found[f"function {_in(namespace)}{name}"] = State(problem, starts=process.state != "Ready")
    for running in fabric.flows.values():
        identity, (ready, *_) = running.flow.identity, running.flow.status().conditions
        blames_function = ready.reason == "FunctionDown" and (identity.namespace, identity.function) in fabric.functions
        quiet = ready.status == "True" or ready.reason in _NO_TROUBLE or blames_function
        problem = "" if quiet else ": ".join(filter(None, (ready.reason, ready.message.strip())))
        starts = ready.reason == "Starting" or blames_function
        name = f"{_in(identity.namespace)}{identity.kind}/{identity.trigger}"
        found[f"{name} → {identity.function}" if name in found else name] = State(problem, starts)
    return found


def _in(namespace: str) -> str:
    return "" if namespace == "default" else f"{namespace}/"
