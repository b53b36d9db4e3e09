"""Exposed HTTP triggers on a real API server: Ingresses, and HTTPRoutes of the real Gateway API."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from servers.controllers import resource
from servers.kubernetes import APIServer, api_server
from servers.kubernetes_build.build import gateway_api

from controllers.cluster.api import Api, Refused
from controllers.cluster.conditions import Condition
from controllers.cluster.differences import contains
from controllers.cluster.owned_objects import APPLIED, OwnedObjects
from controllers.definitions.crds import crds, yaml_of
from controllers.triggers.exposure import KINDS, TRIGGER_LABEL, objects_of
from controllers.triggers.exposure_status import status_of
from trigger_sources.http.source import HTTPTrigger

BY_INGRESS: list[dict[str, Any]] = [
    {"expose": {"ingress": {}}},
    {"expose": {"ingress": {"className": "nginx", "annotations": {"a.b/c": "d"}}}, "path": "/files/{rest...}"},
    {"expose": {"ingress": {"tls": {"secretName": "cert"}}}, "host": "Shop.Example", "path": "/a.b/~c/!$&'()*+,;=:@"},
    {"expose": {"ingress": {"tls": {"secretName": "cert"}, "pathType": "ImplementationSpecific"}}, "path": "/"},
]
PARENT = {"name": "public", "namespace": "infra", "sectionName": "https", "port": 443}
BY_ROUTE: list[dict[str, Any]] = [
    {"expose": {"httpRoute": {"parentRefs": [{"name": "public"}]}}},
    {"expose": {"httpRoute": {"parentRefs": [PARENT, {"name": "other"}], "hostnames": ["*.example", "shop.example"]}}},
    {
        "expose": {"httpRoute": {"parentRefs": [PARENT, {**PARENT, "sectionName": "http", "port": 80}]}},
        "methods": ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"],
        "host": "Shop.Example",
        "path": "/a.b/~c/!$&'()*+,;=:@/{rest...}",
    },
]


class Cluster:
    """An API server with the definitions, and a controller's view of the triggers' objects."""

    def __init__(self, server: APIServer, api: Api) -> None:
        self.server = server
        self.owned = OwnedObjects(api, KINDS, label=TRIGGER_LABEL)

    async def trigger(self, name: str, spec: dict[str, Any]) -> tuple[dict[str, Any], HTTPTrigger]:
        """The trigger after admission, with the defaults of the server."""
        written = json.dumps(resource("HTTPTrigger", name, {"function": "invoice", **spec}))
        live = json.loads(await self.server.kubectl("apply", "-f", "-", "-o", "json", input=written))
        return live, HTTPTrigger.model_validate(live["spec"])

    async def made(self, trigger: dict[str, Any], spec: HTTPTrigger) -> dict[str, Any]:
        """Applies the trigger's object, and checks that it has no drift."""
        (wanted,) = objects_of(trigger["metadata"], spec)
        await self.owned.ensure(trigger, [wanted])
        live = await self.live(wanted)
        assert contains(live, wanted), f"it would be written again and again: {live}"
        return live

    async def live(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """The object as a controller receives it."""
        await self.owned.refresh()
        found = self.owned.get(("default", wanted["metadata"]["name"]), wanted["kind"], wanted["metadata"]["name"])
        assert found is not None
        return found

    async def judge(self, found: dict[str, Any], status: dict[str, Any]) -> dict[str, Any]:
        """Writes a status as an ingress or gateway controller does."""
        name = found["metadata"]["name"]
        patch = json.dumps({"status": status})
        await self.server.kubectl("patch", found["kind"], name, "--subresource=status", "--type=merge", "-p", patch)
        return await self.live(found)

    def writes(self) -> int:
        return len(self.server.writes(resource="ingresses")) + len(self.server.writes(resource="httproutes"))


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[APIServer]:
    async with api_server() as found:
        await found.kubectl("apply", "--server-side", "-f", "-", input=yaml_of(crds()))
        await found.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=20s")
        yield found


@asynccontextmanager
async def cluster(server: APIServer) -> AsyncIterator[Cluster]:
    configuration = Configuration()
    await config.load_kube_config(config_file=str(server.kubeconfig), client_configuration=configuration)
    async with ApiClient(configuration) as client:
        yield Cluster(server, Api(client))


def exposed(
    trigger: dict[str, Any], spec: HTTPTrigger, live: dict[str, Any] | None, refused: Refused | None = None
) -> tuple[str | None, Condition]:
    status, conditions = status_of(trigger["metadata"], spec, live, refused)
    return status["address"], next(condition for condition in conditions if condition.type == "Exposed")


async def test_an_ingress_is_accepted_without_drift_and_is_ready_with_its_address(server: APIServer) -> None:
    async with cluster(server) as it:
        for number, written in enumerate(BY_INGRESS):
            trigger, spec = await it.trigger(f"ingress-{number}", written)
            live = await it.made(trigger, spec)
            before = it.writes()
            await it.owned.ensure(trigger, objects_of(trigger["metadata"], spec))
            assert it.writes() == before, "at rest nothing is written"
            address, condition = exposed(trigger, spec, live)
            assert (address, condition.reason) == (None, "WaitingForIngress")
            live = await it.judge(live, {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}})
            address, condition = exposed(trigger, spec, live)
            assert address is not None
            assert (address.partition("://")[0], condition.status) == (
                "https" if "tls" in str(written) else "http",
                "True",
            )


async def test_a_route_waits_for_the_gateway_api_and_then_reports_the_state_of_its_gateways(server: APIServer) -> None:
    async with cluster(server) as it:
        trigger, spec = await it.trigger("early", BY_ROUTE[0])
        await it.owned.refresh()
        with pytest.raises(Refused) as refused:
            await it.owned.ensure(trigger, objects_of(trigger["metadata"], spec))
        assert exposed(trigger, spec, None, refused.value)[1].reason == "GatewayAPIMissing"

        await server.kubectl("apply", "--server-side", "-f", str(gateway_api()))
        await server.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=20s")
        for number, written in enumerate(BY_ROUTE):
            trigger, spec = await it.trigger(f"route-{number}", written)
            live = await it.made(trigger, spec)
            before = it.writes()
            await it.owned.ensure(trigger, objects_of(trigger["metadata"], spec))
            assert it.writes() == before, "at rest nothing is written"
            assert exposed(trigger, spec, live)[1].reason == "WaitingForGateway"
            live = await it.judge(live, {"parents": answers_of(live)})
            address, condition = exposed(trigger, spec, live)
            assert (address, condition.status) == ("shop.example/route-1" if number == 1 else address, "True")
            refused_by_last = {"status": "False", "reason": "NotAllowedByListeners", "message": "not this namespace"}
            live = await it.judge(live, {"parents": answers_of(live, refused_by_last)})
            _, condition = exposed(trigger, spec, live)
            assert (condition.status, condition.reason) == ("False", "NotAllowedByListeners")
            assert condition.message.endswith(": not this namespace")


async def test_fields_removed_from_the_trigger_are_removed_from_the_ingress(server: APIServer) -> None:
    async with cluster(server) as it:
        said = {"className": "nginx", "annotations": {"a.b/c": "d", "e": "f"}, "tls": {"secretName": "cert"}}
        await it.made(*await it.trigger("less", {"expose": {"ingress": said}, "host": "shop.example"}))
        live = await it.made(*await it.trigger("less", {"expose": {"ingress": {"annotations": {"e": "f"}}}}))
        assert live["metadata"]["annotations"].keys() - {APPLIED} == {"e"}
        assert live["spec"].keys() == {"rules"}
        assert live["spec"]["rules"][0].keys() == {"http"}


async def test_changing_the_way_of_exposure_deletes_the_old_object(server: APIServer) -> None:
    async with cluster(server) as it:
        trigger, spec = await it.trigger("moving", BY_INGRESS[0])
        await it.made(trigger, spec)
        trigger, spec = await it.trigger("moving", {"expose": {"ingress": None, **BY_ROUTE[0]["expose"]}})
        (unwanted,) = it.owned.unwanted(trigger, objects_of(trigger["metadata"], spec))
        await it.owned.remove([unwanted])
        assert "moving" not in await server.kubectl("get", "ingress", "-o", "name")


def answers_of(route: dict[str, Any], last: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """The status that a gateway controller writes for every parent, and for the last one."""
    said = {
        "lastTransitionTime": "2026-01-01T00:00:00Z",
        "observedGeneration": route["metadata"]["generation"],
        "status": "True",
        "message": "",
    }
    answers = [
        {
            "parentRef": parent,
            "controllerName": "example.com/gateway",
            "conditions": [{**said, "type": kind, "reason": kind} for kind in ("Accepted", "ResolvedRefs")],
        }
        for parent in route["spec"]["parentRefs"]
    ]
    answers[-1]["conditions"][0] |= last or {}
    return answers
