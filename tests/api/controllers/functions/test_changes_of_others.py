"""A webhook that changes each write, and a controller that changes a field back, cause a few writes and no loop."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from servers.controllers import Cluster, cluster, condition, resource
from servers.kubernetes import APIServer
from servers.webhook import Patch, webhook

from controllers.cluster.put_backs import MOST

CODE = "def handler(event, context): ...\n"
SPEC: dict[str, Any] = {"source": {"inline": CODE}, "runtime": "python3.11", "scale": {"min": 2}}
RULES = [
    {"apiGroups": ["apps"], "resources": ["deployments"]},
    {"apiGroups": [""], "resources": ["services"]},
    {"apiGroups": ["policy"], "resources": ["poddisruptionbudgets"]},
    {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"]},
]
QUIET_SECONDS = 4.0


def changed(found: Any) -> Patch:
    """As policies and meshes do: a note on each object, a mirror for images, a sidecar, and values of their own."""
    patch = [
        {
            "op": "add",
            "path": "/metadata/annotations",
            "value": {**found["metadata"].get("annotations", {}), "note": str(uuid4())},
        }
    ]
    match found["kind"]:
        case "Deployment":
            containers = [one for one in found["spec"]["template"]["spec"]["containers"] if one["name"] != "sidecar"]
            mirrored = [{**one, "image": f"mirror/{one['image'].removeprefix('mirror/')}"} for one in containers]
            value = [{"name": "sidecar", "image": "mesh:1"}, *mirrored]
            patch.append({"op": "add", "path": "/spec/template/spec/containers", "value": value})
            patch.append({"op": "add", "path": "/spec/template/spec/tolerations", "value": [{"operator": "Exists"}]})
        case "Service":
            patch.append({"op": "add", "path": "/spec/ports/0/appProtocol", "value": "kubernetes.io/h2c"})
        case "PodDisruptionBudget":
            patch.append({"op": "add", "path": "/spec/maxUnavailable", "value": 2})
        case "NetworkPolicy":
            patch.append({"op": "add", "path": "/spec/ingress/1", "value": {}})
    return patch


@pytest.mark.timeout(240)
async def test_a_webhook_that_changes_each_write_causes_no_loop_and_edits_still_roll_out(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    async with cluster(kubernetes, tmp_path) as it, webhook(kubernetes, RULES, changed):
        callers = '[{"podSelector": {}}]'
        controller = await it.start("functions", KUBEIRQ_NAMESPACE="", KUBEIRQ_CALLERS=callers)
        await it.apply(resource("Function", "greet", SPEC))
        found = await it.until(
            "function", "greet", lambda it: condition(it, "Accepted")["reason"] == "ChangedByWebhook"
        )
        message = condition(found, "Accepted")["message"]
        for part in ("Deployment greet: spec.template", "Service greet: spec.ports[http].appProtocol",
                     "PodDisruptionBudget greet: spec.maxUnavailable"):  # fmt: skip
            assert part in message
        made = await it.get("deployment", "greet")
        assert made["spec"]["template"]["spec"]["containers"][0]["image"] == "mesh:1"
        await at_rest(it)
        await controller.kill()
        await controller.start()  # a new one, which remembers nothing
        await asyncio.sleep(QUIET_SECONDS)
        before = len(writes(it))
        await at_rest(it)
        assert len(writes(it)) == before
        assert (await it.get("deployment", "greet"))["metadata"]["generation"] == made["metadata"]["generation"]
        assert "ChangedByWebhook" in await it.server.kubectl("describe", "function", "greet")

        await it.apply(resource("Function", "greet", {**SPEC, "env": [{"name": "EDITED", "value": "1"}]}))
        await it.until("deployment", "greet", lambda found: "EDITED" in str(found["spec"]))
        await at_rest(it)


@pytest.mark.timeout(240)
async def test_a_controller_that_changes_a_field_back_is_named_as_contested(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    async with cluster(kubernetes, tmp_path) as it:
        await it.start("functions", KUBEIRQ_NAMESPACE="")
        await it.apply(resource("Function", "greet", SPEC))
        await it.until("function", "greet", lambda found: condition(found)["reason"])
        for _ in range(MOST):
            await it.server.kubectl("scale", "deployment/greet", "--replicas=7")
            await it.until("deployment", "greet", lambda found: found["spec"]["replicas"] == 2)
        await it.server.kubectl("scale", "deployment/greet", "--replicas=7")
        found = await it.until("function", "greet", lambda it: condition(it)["reason"] == "Contested")
        assert "Deployment greet: spec.replicas: set back 5 times within an hour" in condition(found)["message"]
        assert (await it.get("deployment", "greet"))["spec"]["replicas"] == 7
        assert "Contested" in await it.server.kubectl("describe", "function", "greet")
        await it.apply(resource("Function", "greet", {**SPEC, "scale": {"min": 3}}))
        await it.until("deployment", "greet", lambda found: found["spec"]["replicas"] == 3)


async def at_rest(it: Cluster) -> None:
    """Returns once nothing was written for a while."""
    before = -1
    async with asyncio.timeout(90):
        while before != (before := len(writes(it))):
            await asyncio.sleep(QUIET_SECONDS)


def writes(it: Cluster) -> Sequence[dict[str, Any]]:
    """Those of the controller to the objects of Functions."""
    return [
        found
        for found in it.server.writes(user="admin")
        if found["userAgent"].startswith("kubeirq/") and found["objectRef"]["resource"] != "events"
    ]
