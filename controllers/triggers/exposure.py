"""An HTTP trigger that is exposed: the Ingress or HTTPRoute that it is on a cluster, and how that is. Pure.

wanted = objects_of(trigger["metadata"], spec)       # made by OwnedObjects(api, KINDS, label=TRIGGER_LABEL)
status, conditions = status_of(spec, live, refused)  # of what came of it
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from controllers.cluster.api import Refused
from controllers.cluster.conditions import Condition
from controllers.cluster.owned_objects import NameTaken
from controllers.functions.status import PORT
from trigger_sources.http.expose import REST, HTTPRouteExposure, IngressExposure, ParentRef
from trigger_sources.http.source import HTTPTrigger

Object = dict[str, Any]

TRIGGER_LABEL = "kubeirq.dev/trigger"
KINDS = (("networking.k8s.io/v1", "Ingress"), ("gateway.networking.k8s.io/v1", "HTTPRoute"))
_CLASS_ANNOTATION = "kubernetes.io/ingress.class"  # how a class was named before there was a field for it
_JUDGED = ("Accepted", "ResolvedRefs")  # by every controller of the Gateway API, of each parent


def objects_of(metadata: Mapping[str, Any], spec: HTTPTrigger) -> list[Object]:
    """What leads requests to the function's Service: one object, or none of a trigger that is not exposed.

    `metadata` is the trigger's own (namespace, name, uid, labels). The same values give the same objects.
    """
    if spec.expose is None:
        return []
    name = metadata["name"]
    head: Object = {
        "name": name,
        "namespace": metadata["namespace"],
        "labels": {
            **(metadata.get("labels") or {}),
            "app.kubernetes.io/managed-by": "kubeirq",
            TRIGGER_LABEL: name,
        },
        "ownerReferences": [
            {
                "apiVersion": "kubeirq.dev/v1",
                "kind": "HTTPTrigger",
                "name": name,
                "uid": metadata["uid"],
                "controller": True,
            }
        ],
    }
    path, is_prefix = _path_of(name, spec)
    if spec.expose.ingress is not None:
        return [_ingress(head, spec, spec.expose.ingress, path, is_prefix)]
    assert spec.expose.http_route is not None
    return [_http_route(head, spec, spec.expose.http_route, path, is_prefix)]


def status_of(
    metadata: Mapping[str, Any],
    spec: HTTPTrigger,
    live: Mapping[str, Any] | None,
    refused: Refused | None = None,
    function_down: str = "",
) -> tuple[dict[str, Any], list[Condition]]:
    """The status' fields, and the conditions Accepted, Exposed (requests are led to the function) and Ready.

    `metadata` is the trigger's, `live` its Ingress or HTTPRoute as last heard, `refused` what the API server said
    instead of making it, `function_down` why nobody would answer there. The address is None while it is not known.
    """
    assert spec.expose is not None
    name, address = metadata["name"], None
    if refused is not None:
        exposed = _refusal(spec, refused)
    elif spec.expose.ingress is not None:
        exposed, address = _ingress_state(name, spec, spec.expose.ingress, live or {})
    else:
        assert spec.expose.http_route is not None
        exposed, address = _route_state(metadata, spec, spec.expose.http_route, live or {})
    if exposed.status != "True":
        ready = Condition("Ready", exposed.status, exposed.reason, exposed.message)
    elif function_down:
        ready = Condition("Ready", "False", "FunctionDown", function_down)
    else:
        ready = Condition("Ready", "True", "Ready")
    return {"address": address}, [Condition("Accepted", "True", "Accepted"), exposed, ready]


# --- the objects; what a server fills in without being asked is left to it


def _ingress(head: Object, spec: HTTPTrigger, way: IngressExposure, path: str, is_prefix: bool) -> Object:
    place: Object = {
        "path": path,
        "pathType": way.path_type or ("Prefix" if is_prefix else "Exact"),
        "backend": {"service": {"name": _function_of(spec), "port": {"number": PORT}}},
    }
    host = {} if spec.host is None else {"host": spec.host.lower()}
    found: Object = {"rules": [{**host, "http": {"paths": [place]}}]}
    if way.class_name is not None:
        found["ingressClassName"] = way.class_name
    if way.tls is not None:
        found["tls"] = [{**({"hosts": list(host.values())} if host else {}), "secretName": way.tls.secret_name}]
    if way.annotations:
        head = {**head, "annotations": dict(way.annotations)}
    return {"apiVersion": KINDS[0][0], "kind": KINDS[0][1], "metadata": head, "spec": found}


def _http_route(head: Object, spec: HTTPTrigger, way: HTTPRouteExposure, path: str, is_prefix: bool) -> Object:
    told = {"type": "PathPrefix" if is_prefix else "Exact", "value": path}
    methods = dict.fromkeys([*spec.methods, *(["HEAD"] if "GET" in spec.methods else [])])
    found: Object = {
        "parentRefs": [parent.model_dump(by_alias=True, exclude_none=True) for parent in way.parent_refs],
        "rules": [
            {
                "matches": [{"path": told, "method": method} for method in methods],
                "backendRefs": [{"name": _function_of(spec), "port": PORT}],
            }
        ],
    }
    if hostnames := _hostnames_of(spec, way):
        found["hostnames"] = hostnames
    return {"apiVersion": KINDS[1][0], "kind": KINDS[1][1], "metadata": head, "spec": found}


def _path_of(name: str, spec: HTTPTrigger) -> tuple[str, bool]:
    """As an Ingress or HTTPRoute is told it, and whether it stands for all below it too."""
    path = spec.path or f"/{name}"
    if not path.endswith(REST):
        return path, False
    return path.rpartition("/")[0] or "/", True


def _hostnames_of(spec: HTTPTrigger, way: HTTPRouteExposure) -> list[str]:
    return list(way.hostnames) or ([] if spec.host is None else [spec.host.lower()])


def _function_of(spec: HTTPTrigger) -> str:
    assert spec.target is not None
    assert spec.target.function is not None
    return spec.target.function


# --- how they are


def _refusal(spec: HTTPTrigger, refused: Refused) -> Condition:
    assert spec.expose is not None
    if refused.status == 404 and spec.expose.http_route is not None:
        message = (
            "spec.expose.httpRoute: this cluster has no Gateway API: install its custom resources, version 1.0 or"
            " later, and a controller for them; or use spec.expose.ingress; or leave out expose, and the fabric's"
            " gateway serves it"
        )
        return Condition("Exposed", "False", "GatewayAPIMissing", message)
    return Condition("Exposed", "False", "NameTaken" if isinstance(refused, NameTaken) else "Refused", str(refused))


def _ingress_state(
    name: str, spec: HTTPTrigger, way: IngressExposure, live: Mapping[str, Any]
) -> tuple[Condition, str | None]:
    balancer = live.get("status", {}).get("loadBalancer", {})
    entrances = [found.get("hostname") or found.get("ip") for found in balancer.get("ingress", [])]
    if any(entrances):
        host = spec.host or next(entrance for entrance in entrances if entrance)
        scheme = "http" if way.tls is None else "https"
        authority = f"[{host}]" if ":" in host else host
        return Condition("Exposed", "True", "Exposed"), f"{scheme}://{authority}{_path_of(name, spec)[0]}"
    class_name = live.get("spec", {}).get("ingressClassName") or way.annotations.get(_CLASS_ANNOTATION)
    if class_name is None:
        message = (
            "its Ingress has no class and the cluster no default one, so that most ingress controllers leave it alone;"
            " say spec.expose.ingress.className (`kubectl get ingressclass` lists them), or leave out expose"
        )
    else:
        message = (
            f"no ingress controller has given its Ingress an address yet; does one run for the class {class_name!r}?"
            f" `kubectl get ingressclass` and `kubectl describe ingress {name}` say more"
        )
    return Condition("Exposed", "False", "WaitingForIngress", message), None


def _route_state(
    metadata: Mapping[str, Any], spec: HTTPTrigger, way: HTTPRouteExposure, live: Mapping[str, Any]
) -> tuple[Condition, str | None]:
    for parent in way.parent_refs:
        if (problem := _problem_of(metadata, parent, live)) is not None:
            return problem, None
    named = [hostname for hostname in _hostnames_of(spec, way) if not hostname.startswith("*")]
    # with or without TLS, on which port: that is the Gateway's matter
    address = f"{named[0]}{_path_of(metadata['name'], spec)[0]}" if named else None
    return Condition("Exposed", "True", "Exposed"), address


def _problem_of(metadata: Mapping[str, Any], parent: ParentRef, live: Mapping[str, Any]) -> Condition | None:
    """What the controllers of one parent find wrong with the route, in their words; or that none has said anything."""
    shown = f"Gateway {parent.name!r}"
    judged = False
    for found in live.get("status", {}).get("parents", []):
        if not _is_of(parent, found.get("parentRef", {}), metadata["namespace"]):
            continue
        conditions = {condition["type"]: condition for condition in _current(found.get("conditions", []), live)}
        judged = judged or "Accepted" in conditions
        for kind in _JUDGED:
            if kind in conditions and conditions[kind]["status"] != "True":
                reason = conditions[kind]["reason"]
                return Condition("Exposed", "False", reason, f"{shown}: {conditions[kind].get('message') or reason}")
    if judged:
        return None
    place = f" -n {parent.namespace}" if parent.namespace else ""
    message = (
        f"{shown}: no controller has looked at the route yet; is there such a Gateway (`kubectl get gateway"
        f" {parent.name}{place}`), and does a controller run for its class?"
        f" `kubectl describe httproute {metadata['name']}` says more"
    )
    return Condition("Exposed", "False", "WaitingForGateway", message)


def _is_of(parent: ParentRef, found: Mapping[str, Any], namespace: str) -> bool:
    return bool(
        found.get("name") == parent.name
        and found.get("namespace", namespace) == (parent.namespace or namespace)
        and found.get("sectionName") == parent.section_name
        and found.get("port") == parent.port
    )


def _current(conditions: Iterable[Mapping[str, Any]], live: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Those that were said of the route as it is now."""
    generation = live.get("metadata", {}).get("generation", 0)
    return (found for found in conditions if found.get("observedGeneration", generation) >= generation)
