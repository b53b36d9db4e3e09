"""Waits until resources on a cluster are Ready, and finds out why one is not."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

from controllers.functions.status import FUNCTION_LABEL
from kubeirq.fabric_client import FabricUnreachable, Refused
from kubeirq.on_cluster.connection import Cluster, Object
from kubeirq.on_cluster.pod_logs import log_of, past_lines
from kubeirq.on_cluster.resources import FUNCTION, Kind, list_resources, ready_condition

_POLL_SECONDS = 1.0
_LAST_LINES = 15
_DONE_REASONS = ("Suspended", "Completed")  # not Ready, and will not become Ready, as the resource itself asks
_FINAL_REASONS = ("Invalid", "UnknownField", "UnknownValue", "NameTaken", "Refused")  # waiting does not help
# These pass seldom by themselves: after so long, waiting is given up
_HOPELESS_REASONS = (
    "CrashLoopBackOff", "DependenciesFailed", "FetchFailed", "RolloutStuck", "SecretMissing", "SourceMissing",
)  # fmt: skip
_HOPELESS_SECONDS = 15.0
_NO_CONTROLLER_SECONDS = 30.0
_UNSEEN = "no controller has processed it yet"
_NO_CONTROLLER = "check that a controller of its kind runs, and that it watches this namespace"
_UNSEEN_SECONDS = 3.0  # how long that is normal, and not worth a line

Write = Callable[[str], None]
Name = tuple[str, str, str]  # kind, namespace, name
State = tuple[bool, str, str]  # whether it is Ready, the reason, and both in words


async def wait_until_ready(
    cluster: Cluster,
    kinds: Sequence[Kind],
    objects: Sequence[Object],
    timeout_seconds: float,
    write: Write,
    began: float | None = None,
) -> Mapping[Name, str]:
    """Waits until all are done, one is hopeless or the time is up. Returns the reasons of those that are not Ready.

    Its lines have the seconds since `began`, when the command began.
    """
    started = time.monotonic()
    own_kinds = [kind for kind in kinds if any(is_of_kind(kind, one) for one in objects)]
    names = [name_of(one) for one in objects if any(is_of_kind(kind, one) for kind in own_kinds)]
    waiting, unready = dict.fromkeys(names, ""), dict[Name, str]()
    hopeless_since, hopeless = dict[Name, float](), False
    while True:
        states = await _states(cluster, own_kinds, sorted({namespace for _, namespace, _ in names}))
        for name in list(waiting):
            is_ready, reason, state = states.get(name, (False, "", "it was deleted while deploy waited"))
            if gives_up(hopeless_since, name, reason, state, time.monotonic() - started):
                unready[name] = state if state != _UNSEEN else f"{state}; {_NO_CONTROLLER}"
                del waiting[name]
                hopeless = True
                continue
            if is_ready or reason in _DONE_REASONS:
                del waiting[name]
            elif reason in _FINAL_REASONS:
                unready[name] = state
                del waiting[name]
                continue
            elif waiting[name] == state or (state == _UNSEEN and time.monotonic() - started < _UNSEEN_SECONDS):
                continue
            else:
                waiting[name] = state
            write(f"{name[0]}/{name[2]}: {state} ({time.monotonic() - (began or started):.0f} s)")
        if hopeless:
            return {**unready, **{name: f"{state or _UNSEEN} (not waited for)" for name, state in waiting.items()}}
        if not waiting or time.monotonic() - started > timeout_seconds:
            late = {name: f"{state or _UNSEEN} (after {timeout_seconds:g} s)" for name, state in waiting.items()}
            return {**unready, **late}
        await asyncio.sleep(_POLL_SECONDS)


def gives_up(since: dict[Name, float], name: Name, reason: str, state: str, seconds: float) -> bool:
    """Whether the resource has been in a hopeless state for so long that waiting cannot help. Pure but for `since`.

    `since` keeps when each resource got into such a state, in seconds of the wait, which has lasted for `seconds`.
    """
    if state == _UNSEEN:
        return seconds > _NO_CONTROLLER_SECONDS
    if reason not in _HOPELESS_REASONS:
        since.pop(name, None)
        return False
    return seconds - since.setdefault(name, seconds) > _HOPELESS_SECONDS


async def failing_pod_lines(cluster: Cluster, name: Name) -> list[str]:
    """The last log lines of the newest pod of a function that is not ready; none if there is none, or no permission."""
    kind, namespace, function = name
    if kind != FUNCTION:
        return []
    try:
        pods = await cluster.list("v1", "Pod", namespace, {FUNCTION_LABEL: function})
        failing = [pod for pod in pods if not _is_ready(pod)]
        if not failing:
            return []
        log = log_of(max(failing, key=lambda pod: str(pod["metadata"]["creationTimestamp"])))
        lines = await past_lines(cluster, log, _LAST_LINES)
    except (Refused, FabricUnreachable):
        return []
    return [f"{log.pod}, container {log.container}, printed:", *(f"  {line}" for line in lines)] if lines else []


def is_of_kind(kind: Kind, found: Object) -> bool:
    return (kind.name, kind.api_version) == (found["kind"], found["apiVersion"])


def name_of(found: Object) -> Name:
    return found["kind"], found["metadata"]["namespace"], found["metadata"]["name"]


async def _states(cluster: Cluster, kinds: Sequence[Kind], namespaces: Sequence[str]) -> Mapping[Name, State]:
    found: dict[Name, State] = {}
    for namespace in namespaces:
        for one in (await list_resources(cluster, kinds, namespace))[0]:
            condition = ready_condition(one)
            if condition is None:
                found[name_of(one)] = (False, "", _UNSEEN)
            else:
                reason = condition.get("reason", "")
                state = f"{reason}: {condition.get('message', '')}".removesuffix(": ")
                found[name_of(one)] = (condition["status"] == "True", reason, state)
    return found


def _is_ready(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
