"""The fabric's resources on a cluster: which kinds there are, and how each resource is, from its status."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kubeirq.fabric_client import Named
from kubeirq.on_cluster.connection import Cluster, NoRight, NotThere, Object

FUNCTION = "Function"
_CATEGORY = "kubeirq"
_DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
_UNSEEN = ("Unknown", "Unseen", "no controller has looked at it: is one running, and does it watch this namespace?")


@dataclass(frozen=True)
class Kind:
    """One of the fabric's, a plugin's too, as the API server has it."""

    name: str
    api_version: str
    plural: str
    short_names: tuple[str, ...] = ()

    def path(self, namespace: str | None, name: str | None = None) -> str:
        inside = f"/namespaces/{namespace}" if namespace else ""
        return f"/apis/{self.api_version}{inside}/{self.plural}" + (f"/{name}" if name else "")


async def kinds_of(cluster: Cluster) -> list[Kind]:
    """Those that are installed, Function first. Raises NotThere when none is."""
    found = kinds_in(await cluster.get("/apis", accept=_DISCOVERY))
    if not any(kind.name == FUNCTION for kind in found):
        raise NotThere(
            f"context {cluster.context}: kubeirq is not installed there: no Function is known; "
            "`helm install kubeirq` with its chart, or apply what `kubeirq crds` prints"
        )
    return found


def kinds_in(discovery: Mapping[str, Any]) -> list[Kind]:
    """Of an aggregated discovery: whatever is in our category. Pure."""
    found = []
    for group in discovery.get("items", []):
        for version in group.get("versions", [])[:1]:  # the one that the server prefers
            api_version = f"{group['metadata']['name']}/{version['version']}"
            for part in version.get("resources", []):
                if _CATEGORY in part.get("categories", []):
                    short_names = tuple(part.get("shortNames", []))
                    found.append(Kind(part["responseKind"]["kind"], api_version, part["resource"], short_names))
    return sorted(found, key=lambda kind: (kind.name != FUNCTION, kind.name))


async def listed(cluster: Cluster, kinds: Sequence[Kind], namespace: str | None) -> tuple[list[Object], list[str]]:
    """All objects of these kinds, and what could not be listed. Raises NoRight when nothing could."""
    found: list[Object] = []
    problems: list[NoRight] = []
    for kind in kinds:
        try:
            answer = await cluster.get(kind.path(namespace))
        except NoRight as error:
            problems.append(error)
        else:
            found += [{"apiVersion": kind.api_version, "kind": kind.name, **item} for item in answer["items"]]
    if problems and len(problems) == len(kinds):
        raise problems[0]
    return found, [str(problem) for problem in problems]


def named(found: Object) -> dict[str, Any]:
    """How the resource is, in the shape that the admin API has for one machine, as far as its status tells. Pure."""
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
            "replicas": status.get("replicas", 0),
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


def worst_first(found: Named) -> tuple[bool, str, str, str]:
    return found["ready"], found["kind"], found["namespace"], found["name"]


def ready_condition(found: Object) -> Mapping[str, Any] | None:
    """The one of the resource as it is written now; None while nobody has looked at that yet."""
    generation = found["metadata"].get("generation", 0)
    status = found.get("status", {})
    for condition in status.get("conditions", []):
        if condition["type"] == "Ready":
            seen = condition.get("observedGeneration", status.get("observedGeneration", generation))
            return condition if seen >= generation else None
    return None


def _conditions(found: Object) -> list[dict[str, Any]]:
    """Ready first, with `since` in seconds since the epoch."""
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
    """What a trigger calls, in a word."""
    target = spec.get("target") or {}
    for name in (spec.get("function"), target.get("function"), spec.get("url"), target.get("url")):
        if name:
            return str(name)
    return ", ".join(status.get("functions", [])) or "no function"


def _seconds(timestamp: str | None) -> float:
    return datetime.fromisoformat(timestamp).timestamp() if timestamp else 0
