"""Builds the Ingress or HTTPRoute of an exposed HTTP trigger, and the way to its function. Pure.

The objects leave out the fields that the API server sets by default.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from controllers.functions import callers
from controllers.functions.status import PORT
from trigger_sources.http.expose import REST, HTTPRouteExposure, IngressExposure
from trigger_sources.http.source import HTTPTrigger

Object = dict[str, Any]

TRIGGER_LABEL = "kubeirq.dev/trigger"
KINDS = (
    ("networking.k8s.io/v1", "Ingress"),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"),
    (callers.API_VERSION, callers.KIND),
)


def objects_of(metadata: Mapping[str, Any], spec: HTTPTrigger) -> list[Object]:
    """The object that routes requests to the function's Service. Empty for a trigger that is not exposed.

    `metadata` is that of the trigger (namespace, name, uid, labels). Equal arguments give equal objects.
    """
    if spec.expose is None:
        return []
    head = _head_of(metadata)
    path, is_prefix = path_of(metadata["name"], spec)
    if spec.expose.ingress is not None:
        return [_ingress(head, spec, spec.expose.ingress, path, is_prefix)]
    assert spec.expose.http_route is not None
    return [_http_route(head, spec, spec.expose.http_route, path, is_prefix)]


def callers_policy_of(metadata: Mapping[str, Any], spec: HTTPTrigger, peers: Sequence[callers.Peer]) -> Object:
    """The NetworkPolicy that lets these peers (Ingress controllers, Gateways) call the function of an exposed trigger.

    Without peers it lets everyone: nobody knows where the controllers of the cluster run.
    """
    head = _head_of(metadata)
    return callers.policy_that_opens({**head, "name": f"{metadata['name']}-exposed"}, _function_of(spec), peers)


def _head_of(metadata: Mapping[str, Any]) -> Object:
    name = metadata["name"]
    return {
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


def _ingress(head: Object, spec: HTTPTrigger, expose: IngressExposure, path: str, is_prefix: bool) -> Object:
    path_rule: Object = {
        "path": path,
        "pathType": expose.path_type or ("Prefix" if is_prefix else "Exact"),
        "backend": {"service": {"name": _function_of(spec), "port": {"number": PORT}}},
    }
    host = {} if spec.host is None else {"host": spec.host.lower()}
    found: Object = {"rules": [{**host, "http": {"paths": [path_rule]}}]}
    if expose.class_name is not None:
        found["ingressClassName"] = expose.class_name
    if expose.tls is not None:
        found["tls"] = [{**({"hosts": list(host.values())} if host else {}), "secretName": expose.tls.secret_name}]
    if expose.annotations:
        head = {**head, "annotations": dict(expose.annotations)}
    return {"apiVersion": KINDS[0][0], "kind": KINDS[0][1], "metadata": head, "spec": found}


def _http_route(head: Object, spec: HTTPTrigger, expose: HTTPRouteExposure, path: str, is_prefix: bool) -> Object:
    match = {"type": "PathPrefix" if is_prefix else "Exact", "value": path}
    methods = dict.fromkeys([*spec.methods, *(["HEAD"] if "GET" in spec.methods else [])])
    found: Object = {
        "parentRefs": [parent.model_dump(by_alias=True, exclude_none=True) for parent in expose.parent_refs],
        "rules": [
            {
                "matches": [{"path": match, "method": method} for method in methods],
                "backendRefs": [{"name": _function_of(spec), "port": PORT}],
            }
        ],
    }
    if hostnames := hostnames_of(spec, expose):
        found["hostnames"] = hostnames
    return {"apiVersion": KINDS[1][0], "kind": KINDS[1][1], "metadata": head, "spec": found}


def path_of(name: str, spec: HTTPTrigger) -> tuple[str, bool]:
    """The path for an Ingress or HTTPRoute, and whether it is a prefix."""
    path = spec.path or f"/{name}"
    if not path.endswith(REST):
        return path, False
    return path.rpartition("/")[0] or "/", True


def hostnames_of(spec: HTTPTrigger, expose: HTTPRouteExposure) -> list[str]:
    return list(expose.hostnames) or ([] if spec.host is None else [spec.host.lower()])


def _function_of(spec: HTTPTrigger) -> str:
    assert spec.target is not None
    assert spec.target.function is not None
    return spec.target.function
