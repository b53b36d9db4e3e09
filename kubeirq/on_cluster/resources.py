"""The fabric's resources on a cluster: the installed kinds, and the state of each resource from its status."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kubeirq.fabric_client import ResourceView
from kubeirq.on_cluster.connection import AccessDenied, Cluster, NotFound, Object

FUNCTION = "Function"
_MOST_EVENTS = 3
_CATEGORY = "kubeirq"
_DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
_UNSEEN = (
    "Unknown",
    "Unseen",
    "no controller has processed it; check that one is running and that it watches this namespace",
)


@dataclass(frozen=True)
class Kind:
    """A kind of the fabric or of a plugin, as the API server has it."""

    name: str
    api_version: str
    plural: str
    short_names: tuple[str, ...] = ()

    def path(self, namespace: str | None, name: str | None = None) -> str:
        inside = f"/namespaces/{namespace}" if namespace else ""
        return f"/apis/{self.api_version}{inside}/{self.plural}" + (f"/{name}" if name else "")


async def installed_kinds(cluster: Cluster) -> list[Kind]:
    """The kinds on the cluster, Function first. Raises NotFound if Function is not installed."""
    found = kinds_in(await cluster.get("/apis", accept=_DISCOVERY))
    if not any(kind.name == FUNCTION for kind in found):
        raise NotFound(
            f"context {cluster.context}: kubeirq is not installed on this cluster (it has no kind Function); "
            "install the chart with `helm install kubeirq`, or apply the output of `kubeirq crds`"
        )
    return found


def kinds_in(discovery: Mapping[str, Any]) -> list[Kind]:
    """The kinds in the category `kubeirq` of an aggregated discovery. Pure."""
    found = []
    for group in discovery.get("items", []):
        for version in group.get("versions", [])[:1]:  # the server lists its preferred version first
            api_version = f"{group['metadata']['name']}/{version['version']}"
            for part in version.get("resources", []):
                if _CATEGORY in part.get("categories", []):
                    short_names = tuple(part.get("shortNames", []))
                    found.append(Kind(part["responseKind"]["kind"], api_version, part["resource"], short_names))
    return sorted(found, key=lambda kind: (kind.name != FUNCTION, kind.name))


async def list_resources(
    cluster: Cluster, kinds: Sequence[Kind], namespace: str | None
) -> tuple[list[Object], list[str]]:
    """All objects of these kinds, and the problems with kinds that could not be listed.

    Raises AccessDenied if no kind could be listed.
    """
    found: list[Object] = []
    problems: list[AccessDenied] = []
    for kind in kinds:
        try:
            answer = await cluster.get(kind.path(namespace))
        except AccessDenied as error:
            problems.append(error)
        else:
            found += [{"apiVersion": kind.api_version, "kind": kind.name, **item} for item in answer["items"]]
    if problems and len(problems) == len(kinds):
        raise problems[0]
    return found, [str(problem) for problem in problems]


def view_of(found: Object) -> dict[str, Any]:
    """The state of the resource from its status, with the same fields as the admin API on one machine. Pure."""
    metadata, spec, status = found["metadata"], found.get("spec", {}), found.get("status", {})
    conditions = _conditions(found)
    ready = next((one for one in conditions if one["type"] == "Ready"), None)
    word, reason, message = (ready["status"], ready["reason"], ready["message"]) if ready is not None else _UNSEEN
    common = {
        "kind": found["kind"],
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "uid": metadata["uid"],
        "ready": word == "True",
        "reason": reason,
        "message": message,
        "since": ready["since"] if ready is not None else _seconds(metadata["creationTimestamp"]),
        "conditions": conditions,
    }
    if found["kind"] == FUNCTION:
        own = {
            "runtime": spec.get("runtime"),
            "handler": spec.get("handler") or f"{metadata['name'].replace('-', '_')}.handler",
            "url": status.get("url"),
            # A quota may keep the Deployment from making even the first one
            "replicas": max(status.get("replicas", 0), (spec.get("scale") or {}).get("min", 0)),
            "readyReplicas": status.get("readyReplicas", 0),
        }
    else:
        own = {
            "function": _target(spec, status),
            "suspended": bool(spec.get("suspend")),
            "address": status.get("address"),
            "nextRuns": status.get("nextRuns", []),
        }
    return {**common, **own}


def warnings_in(events: Sequence[Object], uid: str) -> list[dict[str, Any]]:
    """The last three Events about the object with this uid, the newest first. Pure."""
    found = [
        {
            "at": _seconds(event.get("lastTimestamp") or event["metadata"].get("creationTimestamp")),
            "first": _seconds(event.get("firstTimestamp")),
            "count": event.get("count") or 1,
            "reason": event.get("reason", ""),
            "message": event.get("message", ""),
        }
        for event in events
        if event["involvedObject"].get("uid") == uid
    ]
    return sorted(found, key=lambda event: -event["at"])[:_MOST_EVENTS]


def worst_first(found: ResourceView) -> tuple[int, str, str, str]:
    return _rank(found), found["kind"], found["namespace"], found["name"]


def _rank(found: ResourceView) -> int:
    """Not Ready; then Ready with a condition that tells of losses or failures; then suspended, as asked; then well."""
    if not found["ready"]:
        return 2 if found["reason"] == "Suspended" else 0
    return 1 if any(one["status"] == "True" and one["message"] for one in found["conditions"]) else 3


def ready_condition(found: Object) -> Mapping[str, Any] | None:
    """The condition Ready of the current generation; None while no controller has processed that generation."""
    generation = found["metadata"].get("generation", 0)
    status = found.get("status", {})
    for condition in status.get("conditions", []):
        if condition["type"] == "Ready":
            seen = condition.get("observedGeneration", status.get("observedGeneration", generation))
            return condition if seen >= generation else None
    return None


def _conditions(found: Object) -> list[dict[str, Any]]:
    """The conditions, Ready first, with `since` in seconds since the epoch."""
    conditions = [
        {
            "type": one["type"],
            "status": one["status"],
            "reason": one.get("reason", ""),
            "message": one.get("message", ""),
            "since": _seconds(one.get("lastTransitionTime")),
        }
        for one in found.get("status", {}).get("conditions", [])
    ]
    return sorted(conditions, key=lambda one: one["type"] != "Ready")


def _target(spec: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    """The function or URL that the trigger calls."""
    target = spec.get("target") or {}
    for name in (spec.get("function"), target.get("function"), spec.get("url"), target.get("url")):
        if name:
            return str(name)
    return ", ".join(status.get("functions", [])) or "no function"


def _seconds(timestamp: str | None) -> float:
    return datetime.fromisoformat(timestamp).timestamp() if timestamp else 0
