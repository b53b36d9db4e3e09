"""Definitions of another version: newer ones, as after a rollback, and older ones, as before an upgrade."""

import asyncio
import copy
import gzip
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from servers.controllers import Cluster, Controller, condition, own_cluster, resource
from servers.function import function as running_function

from controllers.cluster.known_fields import IGNORABLE
from controllers.definitions.crds import crds

RECORDED = Path(__file__).parents[3] / "recorded" / "definitions_0_1_0.json.gz"
CODE = "def handler(event, context):\n    return 'served'\n"
YEARLY: dict[str, Any] = {"schedule": "0 0 1 1 *", "delivery": {"onFailure": "drop"}}  # there is no store
FUNCTIONS = ("greet", "part")
QUIET_SECONDS = 5  # longer than the pause before a Function without pods is looked at again


def newer_definitions() -> list[dict[str, Any]]:
    """With more fields and values, and stored in a version v2 of the group."""
    found = copy.deepcopy(crds())
    for definition in found:
        (v1,) = definition["spec"]["versions"]
        schema = v1["schema"]["openAPIV3Schema"]["properties"]
        for part in (schema["spec"], schema["status"]):
            part["properties"]["colour"] = {"type": "string"}
        schema["spec"]["properties"]["onlyFrom"] = {"type": "string"}
        definition["metadata"]["annotations"] = {IGNORABLE: "spec.colour"}
        if definition["spec"]["names"]["kind"] == "HTTPTrigger":
            schema["spec"]["properties"]["answer"]["enum"].append("stream")
        if definition["spec"]["names"]["kind"] == "Function":
            schema["spec"]["properties"]["runtime"]["enum"].append("python9.99")
        definition["spec"]["versions"] = [{**v1, "storage": False}, {**copy.deepcopy(v1), "name": "v2"}]
    return found


def older_definitions() -> list[dict[str, Any]]:
    """Those of 0.1.0, without a field of each status that this version writes."""
    found = json.loads(gzip.decompress(RECORDED.read_bytes()))
    for spec in found.values():
        status = spec["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
        del status["url" if spec["names"]["kind"] == "Function" else "nextRuns"]
    return [
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{spec['names']['plural']}.{spec['group']}"},
            "spec": spec,
        }
        for spec in found.values()
    ]


def of_v2(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    return {**resource(kind, name, spec), "apiVersion": "kubeirq.dev/v2"}


@pytest.mark.timeout(180)
async def test_fields_and_values_of_a_newer_version_leave_the_last_good_configuration_running(tmp_path: Path) -> None:
    async with own_cluster(tmp_path, newer_definitions()) as it, running_function(CODE) as served:
        gateway = await it.start("trigger", "http")
        await it.start("functions")
        spec = {"url": served.url, "path": "/served"}
        source = {"inline": CODE}
        await it.apply(
            of_v2("HTTPTrigger", "shop", colour="red", **spec),
            of_v2("Function", "greet", colour="red", runtime="python3.11", source=source),
        )
        found = await it.until("httptrigger", "shop", is_ready)
        assert "spec.colour" in condition(found, "Accepted")["message"]
        deployment = await it.until("deployment", "greet", bool)
        await it.until("function", "greet", lambda it: condition(it, "Accepted")["reason"] == "UnknownFields")
        assert await status_of(gateway) == 200

        status = {
            "status": {"colour": "red", "conditions": [*found["status"]["conditions"], of_a_newer_version(found)]}
        }
        patch = ("--subresource=status", "--type=merge", "-p", json.dumps(status))
        await it.server.kubectl("patch", "httptrigger", "shop", *patch)

        await it.apply(
            of_v2("HTTPTrigger", "shop", onlyFrom="10.0.0.0/8", **spec),
            of_v2("HTTPTrigger", "closed", onlyFrom="10.0.0.0/8", url=served.url, path="/closed"),
            of_v2("Function", "greet", onlyFrom="10.0.0.0/8", runtime="python3.11", source=source, timeoutSeconds=9),
            of_v2("Function", "closed", onlyFrom="10.0.0.0/8", runtime="python3.11", source=source),
        )
        for kind in ("httptrigger", "function"):
            for name in ("closed", "shop" if kind == "httptrigger" else "greet"):
                found = await it.until(kind, name, lambda it: condition(it, "Accepted")["reason"] == "UnknownField")
                assert "spec.onlyFrom" in condition(found)["message"]
                assert condition(found)["status"] == "False"
        assert await status_of(gateway) == 200, "the last good configuration"
        assert await status_of(gateway, "/closed") in (404, 503), "a spec that never ran does not run"
        assert await it.get("deployment", "closed") is None
        assert (await it.get("deployment", "greet"))["metadata"]["generation"] == deployment["metadata"]["generation"]
        await it.server.kubectl("annotate", "httptrigger", "closed", f"{IGNORABLE}=spec.onlyFrom")
        await it.until("httptrigger", "closed", is_ready)
        assert await status_of(gateway, "/closed") == 200, "its author says that it restricts nothing"
        await it.apply(
            of_v2("HTTPTrigger", "shop", answer="stream", **spec),
            of_v2("Function", "greet", runtime="python9.99", source=source),
        )
        found = await it.until("httptrigger", "shop", lambda it: condition(it, "Accepted")["reason"] == "UnknownValue")
        assert "spec.answer: 'stream' is not one of" in condition(found)["message"]
        assert condition(found, "Connected")["status"] == condition(found, "Delivering")["status"] == "True"
        assert (condition(found)["status"], condition(found, "Stalled")["status"]) == ("False", "True")
        assert condition(found)["observedGeneration"] == found["metadata"]["generation"]
        assert await status_of(gateway) == 200
        found = await it.until("function", "greet", lambda it: condition(it, "Accepted")["status"] == "False")
        assert "spec.runtime: unknown runtime 'python9.99'" in condition(found)["message"]
        assert (await it.get("deployment", "greet"))["metadata"]["generation"] == deployment["metadata"]["generation"]

        await it.apply(of_v2("HTTPTrigger", "shop", answer="stream", suspend=True, **spec))
        await until_status(it, gateway, 503)
        await it.apply(of_v2("HTTPTrigger", "shop", **spec))
        await it.until("httptrigger", "shop", is_ready)
        assert await status_of(gateway) == 200


@pytest.mark.timeout(180)
async def test_older_definitions_that_drop_fields_cause_no_writes_at_rest_and_it_is_said_once(tmp_path: Path) -> None:
    async with own_cluster(tmp_path, older_definitions()) as it, running_function(CODE) as served:
        gateway = await it.start("trigger", "http")
        controllers = [await it.start("trigger", "cron"), await it.start("functions")]
        await it.apply(
            resource("HTTPTrigger", "shop", {"url": served.url, "path": "/served"}),
            resource("HTTPTrigger", "shop-too", {"url": served.url, "path": "/served"}),
            resource("CronTrigger", "yearly", {"url": served.url, **YEARLY}),
            *(resource("CronTrigger", f"yearly-{n}", {"url": served.url, **YEARLY}) for n in range(3)),
            *(resource("Function", name, {"runtime": "python3.11", "source": {"inline": CODE}}) for name in FUNCTIONS),
        )
        await it.until("httptrigger", "shop", is_ready)
        await it.until("crontrigger", "yearly", is_ready)
        await it.until("httptrigger", "shop-too", lambda found: condition(found)["reason"] == "Taken")
        await it.apply(resource("HTTPTrigger", "shop", {"url": served.url, "path": "/other"}))
        await it.until("httptrigger", "shop-too", is_ready)
        for name in FUNCTIONS:
            await it.until("function", name, lambda found: condition(found)["reason"])
        assert await status_of(gateway) == 200
        before = -1
        async with asyncio.timeout(120):
            while before != (before := len(statuses_written(it))):
                await asyncio.sleep(QUIET_SECONDS)
        assert [found.log.read_text().count("status loses fields") for found in controllers] == [1, 1]


@pytest.mark.timeout(180)
async def test_a_missing_definition_is_said_once_and_looked_for_again(tmp_path: Path) -> None:
    definitions = crds()
    without = [found for found in definitions if found["spec"]["names"]["kind"] != "CronTrigger"]
    async with own_cluster(tmp_path, without) as it, running_function(CODE) as served:
        controller = await it.start("trigger", "cron")
        said = "no crontriggers.kubeirq.dev in v1"
        async with asyncio.timeout(30):
            while said not in controller.log.read_text():
                await asyncio.sleep(0.1)
        await asyncio.sleep(12)  # two more lists
        assert controller.log.read_text().count(said) == 1
        (missing,) = [found for found in definitions if found not in without]
        await it.apply(missing)
        await it.server.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=20s")
        await it.apply(resource("CronTrigger", "yearly", {"url": served.url, **YEARLY}))
        await it.until("crontrigger", "yearly", is_ready, 30)


# --- helpers


def is_ready(found: Any) -> bool:
    ready = condition(found)
    return bool(ready["status"] == "True" and ready["observedGeneration"] == found["metadata"]["generation"])


def of_a_newer_version(trigger: Any) -> dict[str, Any]:
    """A condition that this version does not write."""
    return {**trigger["status"]["conditions"][0], "type": "Painted", "reason": "Red"}


async def status_of(gateway: Controller, path: str = "/served") -> int:
    """Of the answer to a request to the route."""
    async with aiohttp.ClientSession() as session:
        async with session.post(f"http://127.0.0.1:{gateway.port('KUBEIRQ_GATEWAY_PORT')}{path}") as answer:
            return answer.status


async def until_status(it: Cluster, gateway: Controller, wanted: int) -> None:
    try:
        async with asyncio.timeout(20):
            while await status_of(gateway) != wanted:
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"never {wanted}\n{it.logs()}") from None


def statuses_written(it: Cluster) -> list[dict[str, Any]]:
    """The writes of the controllers to statuses."""
    return [
        found
        for found in it.server.writes(user="admin")
        if "kubectl" not in found["userAgent"] and found["objectRef"].get("subresource") == "status"
    ]
