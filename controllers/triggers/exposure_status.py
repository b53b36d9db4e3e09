"""Computes the status of an exposed HTTP trigger from its live Ingress or HTTPRoute. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from controllers.cluster.api import Refused
from controllers.cluster.conditions import Condition
from controllers.cluster.owned_objects import Contested, NameTaken
from controllers.triggers.exposure import hostnames_of, path_of
from trigger_sources.http.expose import HTTPRouteExposure, IngressExposure, ParentRef
from trigger_sources.http.source import HTTPTrigger

_CLASS_ANNOTATION = "kubernetes.io/ingress.class"  # older than the field ingressClassName
_ROUTE_CONDITIONS = ("Accepted", "ResolvedRefs")  # every Gateway API controller sets these, for each parent


def status_of(
    metadata: Mapping[str, Any],
    spec: HTTPTrigger,
    live: Mapping[str, Any] | None,
    refused: Refused | Contested | None = None,
    function_down: str = "",
) -> tuple[dict[str, Any], list[Condition]]:
    """The status fields, and the conditions Accepted, Exposed (requests are routed to the function) and Ready.

    `metadata` is that of the trigger, and `live` its Ingress or HTTPRoute as last observed. `refused` is the API
    server's refusal to create it, or says that others keep changing it. `function_down` says why the function does not
    answer. The address is None until it is known.
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


def _refusal(spec: HTTPTrigger, refused: Refused | Contested) -> Condition:
    assert spec.expose is not None
    if isinstance(refused, Contested):
        return Condition("Exposed", "False", "Contested", str(refused))
    if refused.status == 404 and spec.expose.http_route is not None:
        message = (
            "spec.expose.httpRoute: this cluster has no Gateway API; install its custom resources, version 1.0 or"
            " later, and a controller for them; or use spec.expose.ingress; or remove expose, to use the fabric's"
            " gateway"
        )
        return Condition("Exposed", "False", "GatewayAPIMissing", message)
    return Condition("Exposed", "False", "NameTaken" if isinstance(refused, NameTaken) else "Refused", str(refused))


def _ingress_state(
    name: str, spec: HTTPTrigger, expose: IngressExposure, live: Mapping[str, Any]
) -> tuple[Condition, str | None]:
    balancer = live.get("status", {}).get("loadBalancer", {})
    addresses = [found.get("hostname") or found.get("ip") for found in balancer.get("ingress", [])]
    if any(addresses):
        host = spec.host or next(found for found in addresses if found)
        scheme = "http" if expose.tls is None else "https"
        authority = f"[{host}]" if ":" in host else host
        return Condition("Exposed", "True", "Exposed"), f"{scheme}://{authority}{path_of(name, spec)[0]}"
    class_name = live.get("spec", {}).get("ingressClassName") or expose.annotations.get(_CLASS_ANNOTATION)
    if class_name is None:
        message = (
            "the Ingress has no class and the cluster has no default class, so that most ingress controllers ignore it;"
            " set spec.expose.ingress.className (`kubectl get ingressclass` lists the classes), or remove expose"
        )
    else:
        message = (
            "no ingress controller has given the Ingress an address yet; check that one runs for the class"
            f" {class_name!r}; `kubectl get ingressclass` and `kubectl describe ingress {name}` show more"
        )
    return Condition("Exposed", "False", "WaitingForIngress", message), None


def _route_state(
    metadata: Mapping[str, Any], spec: HTTPTrigger, expose: HTTPRouteExposure, live: Mapping[str, Any]
) -> tuple[Condition, str | None]:
    for parent in expose.parent_refs:
        if (problem := _problem_of(metadata, parent, live)) is not None:
            return problem, None
    named = [hostname for hostname in hostnames_of(spec, expose) if not hostname.startswith("*")]
    # without scheme and port, because the Gateway decides about them
    address = f"{named[0]}{path_of(metadata['name'], spec)[0]}" if named else None
    return Condition("Exposed", "True", "Exposed"), address


def _problem_of(metadata: Mapping[str, Any], parent: ParentRef, live: Mapping[str, Any]) -> Condition | None:
    """The condition for a problem of one parent: a condition that is not True, or a missing one."""
    shown = f"Gateway {parent.name!r}"
    is_observed = False
    for found in live.get("status", {}).get("parents", []):
        if not _is_of(parent, found.get("parentRef", {}), metadata["namespace"]):
            continue
        conditions = {condition["type"]: condition for condition in _current(found.get("conditions", []), live)}
        is_observed = is_observed or "Accepted" in conditions
        for kind in _ROUTE_CONDITIONS:
            if kind in conditions and conditions[kind]["status"] != "True":
                reason = conditions[kind]["reason"]
                return Condition("Exposed", "False", reason, f"{shown}: {conditions[kind].get('message') or reason}")
    if is_observed:
        return None
    namespace = f" -n {parent.namespace}" if parent.namespace else ""
    message = (
        f"{shown}: no controller has observed the route yet; check that the Gateway exists (`kubectl get gateway"
        f" {parent.name}{namespace}`), and that a controller runs for its class;"
        f" `kubectl describe httproute {metadata['name']}` shows more"
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
    """The conditions that refer to the present generation of the route."""
    generation = live.get("metadata", {}).get("generation", 0)
    return (found for found in conditions if found.get("observedGeneration", generation) >= generation)
