"""An exposed HTTP trigger: refusals of it, the object that it is on a cluster, and how that is said to be."""

from typing import Any, cast

import pytest
from pydantic import ValidationError

from controllers.cluster.api import Api, Refused, plural_of
from controllers.cluster.conditions import Condition
from controllers.cluster.owned_objects import NameTaken
from controllers.triggers.exposed_objects import ExposedObjects
from controllers.triggers.exposure import KINDS, TRIGGER_LABEL, objects_of
from controllers.triggers.exposure_status import status_of
from trigger_sources.http.routes import METHODS
from trigger_sources.http.source import HTTPTrigger

METADATA = {"name": "orders", "namespace": "shop", "uid": "1-2-3", "labels": {"team": "a"}}
GATEWAY = {"name": "public", "namespace": "infra", "sectionName": "https"}
A_SECRET = {"name": "s", "key": "k"}


def trigger(expose: dict[str, Any], **spec: Any) -> HTTPTrigger:
    return HTTPTrigger.model_validate({"function": "invoice", "expose": expose, **spec})


def by_ingress(ingress: dict[str, Any] | None = None, **spec: Any) -> HTTPTrigger:
    return trigger({"ingress": ingress or {}}, **spec)


def by_route(route: dict[str, Any] | None = None, **spec: Any) -> HTTPTrigger:
    return trigger({"httpRoute": {"parentRefs": [GATEWAY], **(route or {})}}, **spec)


# --- refusals


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("auth", {"bearer": {"tokens": [A_SECRET]}}),
        ("cors", {"origins": ["*"]}),
        ("answer", "accepted"),
        ("filter", "true"),
        ("filterError", "drop"),
        ("reply", {"function": "next"}),
        ("delivery", {"attempts": 3}),
        ("delivery", {"timeoutSeconds": 10}),
        ("keyHeader", "x-key"),
        ("bodyLimitBytes", 10),
        ("maxBacklog", 10),
        ("ordering", "key"),
        ("concurrency", 4),
        ("suspend", True),
    ],
)
@pytest.mark.parametrize("exposed", [by_ingress, by_route])
def test_what_only_the_gateway_can_do_is_refused_with_its_name_and_the_way_out(
    exposed: Any, field: str, value: Any
) -> None:
    text = f"{field}: only the fabric's gateway can do this, and with expose requests do not pass it; leave out {field}"
    with pytest.raises(ValidationError, match=text):
        exposed(**{field: value})
    HTTPTrigger.model_validate({"function": "invoice", field: value})


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(ValidationError) as caught:
        by_ingress(filter="true", methods=["GET"], path="/orders/{id}")
    text = str(caught.value)
    assert all(f"{field}: " in text for field in ("filter", "methods", "path"))


@pytest.mark.parametrize(
    "target", [{"url": "http://x"}, {"functionSelector": {"matchLabels": {"a": "b"}}}, {"target": {"url": "http://x"}}]
)
def test_requests_go_to_one_function(target: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="function: with expose requests go to one function's Service"):
        HTTPTrigger.model_validate({**target, "expose": {"ingress": {}}})


@pytest.mark.parametrize("path", ["/orders/{id}", "/{a}/{rest...}", "/a//b", "/caf\u00e9"])
def test_a_path_that_cannot_be_told_is_refused(path: str) -> None:
    with pytest.raises(ValidationError, match="path: "):
        by_ingress(path=path)


def test_what_a_server_fills_in_is_no_reason_to_refuse() -> None:
    filled = HTTPTrigger.model_validate({"function": "invoice"}).model_dump(by_alias=True, exclude={"expose", "target"})
    assert by_ingress(**filled) == by_ingress()
    assert by_route(**filled) == by_route()


def test_on_one_machine_an_ingress_lets_every_method_pass_too() -> None:
    assert by_ingress().served_methods == METHODS
    assert by_route(methods=["GET"]).served_methods == ["GET"]
    assert HTTPTrigger.model_validate({"function": "f"}).served_methods == ["POST"]


# --- the objects


def test_a_trigger_that_is_not_exposed_has_none() -> None:
    assert objects_of(METADATA, HTTPTrigger.model_validate({"function": "f"})) == []


@pytest.mark.parametrize(("spec", "kind"), [(by_ingress(), KINDS[0]), (by_route(), KINDS[1])])
def test_its_object_is_its_own_and_is_found_by_its_label(spec: HTTPTrigger, kind: tuple[str, str]) -> None:
    (found,) = objects_of(METADATA, spec)
    assert (found["apiVersion"], found["kind"]) == kind
    assert found["metadata"] == {
        "name": "orders",
        "namespace": "shop",
        "labels": {"team": "a", "app.kubernetes.io/managed-by": "kubeirq", TRIGGER_LABEL: "orders"},
        "ownerReferences": [
            {
                "apiVersion": "kubeirq.dev/v1",
                "kind": "HTTPTrigger",
                "name": "orders",
                "uid": "1-2-3",
                "controller": True,
            }
        ],
    }
    assert objects_of(METADATA, spec) == [found]


def test_their_plurals_are_known() -> None:
    assert [plural_of(kind) for _, kind in KINDS] == ["ingresses", "httproutes", "networkpolicies"]


@pytest.mark.parametrize(
    ("path", "told", "kind"),
    [
        (None, "/orders", "Exact"),
        ("/", "/", "Exact"),
        ("/a/b/", "/a/b/", "Exact"),
        ("/files/{rest...}", "/files", "Prefix"),
        ("/{rest...}", "/", "Prefix"),
    ],
)
def test_a_path_is_told_as_it_is_or_as_a_prefix(path: str | None, told: str, kind: str) -> None:
    (ingress,) = objects_of(METADATA, by_ingress(path=path))
    place = ingress["spec"]["rules"][0]["http"]["paths"][0]
    assert (place["path"], place["pathType"]) == (told, kind)
    (route,) = objects_of(METADATA, by_route(path=path))
    (match,) = route["spec"]["rules"][0]["matches"]
    assert match["path"] == {"type": kind.replace("Prefix", "PathPrefix"), "value": told}


def test_an_ingress_has_all_that_was_said() -> None:
    said = {
        "className": "nginx",
        "annotations": {"a/b": "c"},
        "tls": {"secretName": "cert"},
        "pathType": "ImplementationSpecific",
    }
    (found,) = objects_of(METADATA, by_ingress(said, host="Shop.Example", path="/a"))
    assert found["metadata"]["annotations"] == {"a/b": "c"}
    assert found["spec"] == {
        "ingressClassName": "nginx",
        "tls": [{"hosts": ["shop.example"], "secretName": "cert"}],
        "rules": [
            {
                "host": "shop.example",
                "http": {
                    "paths": [
                        {
                            "path": "/a",
                            "pathType": "ImplementationSpecific",
                            "backend": {"service": {"name": "invoice", "port": {"number": 8080}}},
                        }
                    ]
                },
            }
        ],
    }


def test_a_route_has_a_match_for_each_method_and_who_serves_get_serves_head() -> None:
    (found,) = objects_of(METADATA, by_route({"hostnames": ["*.example"]}, methods=["GET", "PUT", "GET"]))
    path = {"type": "Exact", "value": "/orders"}
    assert found["spec"] == {
        "parentRefs": [GATEWAY],
        "hostnames": ["*.example"],
        "rules": [
            {
                "matches": [{"path": path, "method": method} for method in ("GET", "PUT", "HEAD")],
                "backendRefs": [{"name": "invoice", "port": 8080}],
            }
        ],
    }


# --- how they are


def state(
    spec: HTTPTrigger, live: dict[str, Any] | None, refused: Refused | None = None, down: str = ""
) -> tuple[str | None, Condition, Condition]:
    """The address, Exposed, Ready."""
    status, conditions = status_of(METADATA, spec, live, refused, down)
    accepted, exposed, ready = conditions
    assert (accepted.type, accepted.status) == ("Accepted", "True")
    assert (exposed.type, ready.type) == ("Exposed", "Ready")
    return status["address"], exposed, ready


def entered(*entrances: dict[str, str], **spec: Any) -> dict[str, Any]:
    return {"spec": spec, "status": {"loadBalancer": {"ingress": list(entrances)}}}


@pytest.mark.parametrize(
    ("spec", "live", "address"),
    [
        (by_ingress(), entered({"ip": "198.51.100.1"}), "http://198.51.100.1/orders"),
        (by_ingress(), entered({"hostname": "lb.example"}), "http://lb.example/orders"),
        (
            by_ingress({"tls": {"secretName": "c"}}, host="s.example"),
            entered({"ip": "::1"}),
            "https://s.example/orders",
        ),
        (by_ingress(path="/f/{rest...}"), entered({"ip": "198.51.100.1"}), "http://198.51.100.1/f"),
    ],
)
def test_an_ingress_with_an_address_is_ready_there(spec: HTTPTrigger, live: dict[str, Any], address: str) -> None:
    found, exposed, ready = state(spec, live)
    assert (found, exposed.status, ready.status) == (address, "True", "True")


@pytest.mark.parametrize(
    ("spec", "live", "said"),
    [
        (by_ingress({"className": "nginx"}), entered(ingressClassName="nginx"), "for the class 'nginx';"),
        (by_ingress({"annotations": {"kubernetes.io/ingress.class": "old"}}), entered(), "for the class 'old';"),
        (by_ingress(), entered(), "set spec.expose.ingress.className"),
        (by_ingress(), None, "set spec.expose.ingress.className"),
    ],
)
def test_an_ingress_that_nobody_took_says_what_to_look_at(
    spec: HTTPTrigger, live: dict[str, Any] | None, said: str
) -> None:
    address, exposed, ready = state(spec, live)
    assert address is None
    assert (exposed.status, exposed.reason) == ("False", "WaitingForIngress")
    assert said in exposed.message
    assert (ready.status, ready.reason, ready.message) == ("False", exposed.reason, exposed.message)


def parent(
    *conditions: tuple[str, str, str, str], reference: dict[str, Any] = GATEWAY, observed: int | None = 3
) -> dict[str, Any]:
    names = ("type", "status", "reason", "message")
    generation = {} if observed is None else {"observedGeneration": observed}
    told = [{**dict(zip(names, condition, strict=True)), **generation} for condition in conditions]
    return {"parentRef": {"group": "gateway.networking.k8s.io", **reference}, "conditions": told}


def routed(*parents: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"namespace": "shop", "generation": 3}, "status": {"parents": list(parents)}}


ACCEPTED = ("Accepted", "True", "Accepted", "")
RESOLVED = ("ResolvedRefs", "True", "ResolvedRefs", "")
MISSING = ("ResolvedRefs", "False", "BackendNotFound", "no Service invoice")
REJECTED = ("Accepted", "False", "NotAllowedByListeners", "not this namespace")
WAITS = "WaitingForGateway"


@pytest.mark.parametrize(
    ("parents", "reason", "said"),
    [
        ([parent(ACCEPTED, RESOLVED)], "Exposed", ""),
        ([parent(ACCEPTED)], "Exposed", ""),
        ([parent(ACCEPTED, RESOLVED, observed=None)], "Exposed", ""),
        ([parent(RESOLVED, REJECTED)], "NotAllowedByListeners", "Gateway 'public': not this namespace"),
        ([parent(ACCEPTED, MISSING)], "BackendNotFound", "Gateway 'public': no Service invoice"),
        ([parent(REJECTED, MISSING)], "NotAllowedByListeners", "Gateway 'public': not this namespace"),
        ([parent(("Accepted", "Unknown", "Pending", ""))], "Pending", "Gateway 'public': Pending"),
        ([parent(ACCEPTED, RESOLVED), parent(ACCEPTED, MISSING)], "BackendNotFound", "no Service invoice"),
        ([], WAITS, "`kubectl get gateway public -n infra`"),
        ([parent()], WAITS, "no controller has observed the route yet"),
        ([parent(ACCEPTED, MISSING, observed=2)], WAITS, "no controller has observed the route yet"),
        ([parent(ACCEPTED, reference={**GATEWAY, "sectionName": "http"})], WAITS, "Gateway 'public'"),
        ([parent(ACCEPTED, reference={**GATEWAY, "namespace": "shop"})], WAITS, "Gateway 'public'"),
    ],
)
def test_what_a_gateway_says_of_the_route_is_carried_over(
    parents: list[dict[str, Any]], reason: str, said: str
) -> None:
    address, exposed, ready = state(by_route(host="shop.example"), routed(*parents))
    assert exposed.reason == reason
    assert said in exposed.message
    assert exposed.status == ready.status == ("True" if reason == "Exposed" else "False")
    assert address == ("shop.example/orders" if reason == "Exposed" else None)


def test_each_gateway_must_have_taken_it() -> None:
    here = {"name": "local"}
    spec = by_route({"parentRefs": [GATEWAY, here]})
    one = parent(ACCEPTED)
    _, exposed, _ = state(spec, routed(one))
    assert exposed.message.startswith("Gateway 'local': no controller has observed the route yet")
    address, exposed, _ = state(spec, routed(one, parent(ACCEPTED, reference={**here, "namespace": "shop"})))
    assert (exposed.status, address) == ("True", None), "without a host only the Gateway knows where it is"


@pytest.mark.parametrize(
    ("spec", "refused", "reason", "said"),
    [
        (by_route(), Refused(404, "404 page not found"), "GatewayAPIMissing", "install its custom resources"),
        (by_route(), Refused(422, "spec.hostnames: bad"), "Refused", "spec.hostnames: bad"),
        (by_ingress(), Refused(403, "may not"), "Refused", "may not"),
        (by_ingress(), NameTaken(409, "is there already"), "NameTaken", "is there already"),
    ],
)
def test_what_could_not_be_made_says_why_and_what_to_do(
    spec: HTTPTrigger, refused: Refused, reason: str, said: str
) -> None:
    address, exposed, ready = state(spec, None, refused)
    assert address is None
    assert (exposed.status, exposed.reason) == ("False", reason)
    assert said in exposed.message
    assert (ready.status, ready.message) == ("False", exposed.message)


def test_a_way_to_a_function_that_is_down_is_not_ready() -> None:
    address, exposed, ready = state(by_ingress(), entered({"ip": "198.51.100.1"}), None, "no replica is ready")
    assert (address, exposed.status) == ("http://198.51.100.1/orders", "True")
    assert (ready.status, ready.reason, ready.message) == ("False", "FunctionDown", "no replica is ready")


async def test_a_refusal_is_shown_while_the_next_try_is_under_way() -> None:
    shown: list[str] = []

    class Server:
        async def get(self, *_: Any) -> None:
            return None

        async def apply(self, _: Any) -> None:
            shown.append(reason())
            raise Refused(403, "forbidden")

    exposed = ExposedObjects(cast("Api", Server()))
    resource = {"kind": "HTTPTrigger", "apiVersion": "kubeirq.dev/v1", "metadata": METADATA}

    def reason() -> str:
        return exposed.status_of(resource, by_ingress(), "")[1][1].reason

    for _ in range(2):
        with pytest.raises(Refused):
            await exposed.reconcile(resource, by_ingress())
    assert shown == ["WaitingForIngress", "Refused"]
