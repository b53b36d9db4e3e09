"""A route and its callers' credentials stay with their trigger while it exists, on a real API server."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from servers.controllers import Cluster, Controller, cluster, condition, resource, without_right_to_secrets
from servers.function import function
from servers.kubernetes import APIServer

STRANGER = "def handler(event, context):\n    return 'stranger'\n"
OWNER = "def handler(event, context):\n    return 'owner'\n"
TOKEN = {"authorization": "Bearer s3cr3t"}


async def answers(controller: Controller, path: str = "/auth") -> tuple[int, str, str]:
    """Status, Retry-After and body of the gateway's answer."""
    address = f"http://127.0.0.1:{controller.port('KUBEIRQ_GATEWAY_PORT')}{path}"
    try:
        async with aiohttp.ClientSession() as session, session.post(address, headers=TOKEN, data=b"{}") as answer:
            return answer.status, answer.headers.get("retry-after", ""), await answer.text()
    except aiohttp.ClientConnectionError:
        return 0, "", ""  # the gateway does not listen yet


async def until_answered(it: Cluster, controller: Controller, status: int, text: str = "", path: str = "/auth") -> None:
    try:
        async with asyncio.timeout(30):
            while (found := await answers(controller, path))[0] != status or text not in found[2]:
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"{found}\n{it.logs()}") from None


async def unchanged(controller: Controller, seconds: float = 12) -> None:
    """The route stays 503 for longer than a route that nobody holds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:
        found = await answers(controller)
        assert found[:2] == (503, "1"), found
        await asyncio.sleep(0.2)


@pytest.mark.timeout(240)
async def test_a_trigger_keeps_its_route_whatever_happens_to_its_spec_and_secret(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    async with cluster(kubernetes, tmp_path) as it, function(OWNER) as owner, function(STRANGER) as stranger:
        controller = await it.start("trigger", "http")
        team_b = await it.new_namespace()
        auth = {"bearer": {"tokens": [{"name": "creds", "key": "token"}]}}
        spec: dict[str, Any] = {"url": owner.url, "path": "/auth", "auth": auth}
        secret = resource("Secret", "creds", {"stringData": {"token": "s3cr3t"}})
        await it.apply(secret, resource("HTTPTrigger", "owned", spec))
        await until_answered(it, controller, 200, "owner")
        await it.until("httptrigger", "owned", lambda found: "served" in found.get("status", {}))
        await it.apply(
            resource("HTTPTrigger", "all", {"url": stranger.url, "path": "/{all...}"}, team_b),
            resource("HTTPTrigger", "same", {"url": stranger.url, "path": "/auth"}, team_b),
        )
        await until_answered(it, controller, 200, "stranger", path="/other")

        async def same_is_taken() -> None:
            assert condition(await it.get("httptrigger", "same", team_b))["reason"] == "Taken"

        await it.apply(resource("HTTPTrigger", "owned", {**spec, "filter": "data.total >"}))
        await it.until("httptrigger", "owned", lambda found: condition(found)["reason"] == "Invalid")
        await unchanged(controller)
        await same_is_taken()

        await controller.kill()
        await controller.start()
        await until_answered(it, controller, 503)
        await unchanged(controller, 3)
        await same_is_taken()

        await it.apply(resource("HTTPTrigger", "owned", {**spec, "filter": None, "suspend": True}))
        await it.until("httptrigger", "owned", lambda found: condition(found)["reason"] == "Suspended")
        await unchanged(controller)

        await it.server.kubectl("delete", "secret", "creds")
        await it.apply(resource("HTTPTrigger", "owned", {**spec, "suspend": False}))
        await it.until("httptrigger", "owned", lambda found: condition(found)["reason"] == "SecretMissing")
        await controller.kill()
        await controller.start()
        await until_answered(it, controller, 503)
        await unchanged(controller, 3)
        await same_is_taken()

        await it.apply(secret)
        await until_answered(it, controller, 200, "owner")
        await it.server.kubectl("delete", "httptrigger", "owned", "--timeout=10s")
        await until_answered(it, controller, 200, "stranger")


@pytest.mark.timeout(90)
async def test_a_trigger_without_store_or_right_to_its_secret_has_its_route_from_the_start(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    async with cluster(kubernetes, tmp_path) as it:
        spec = {"url": "http://127.0.0.1:1/"}
        auth = {"bearer": {"tokens": [{"name": "creds", "key": "token"}]}}
        await it.apply(
            resource("HTTPTrigger", "storeless", {**spec, "answer": "accepted"}),
            resource("HTTPTrigger", "forbidden", {**spec, "auth": auth}),
        )
        controller = await it.start("trigger", "http", **await without_right_to_secrets(it))
        for name, reason in (("storeless", "NoStore"), ("forbidden", "SecretForbidden")):
            await until_answered(it, controller, 503, path=f"/{name}")
            await it.until("httptrigger", name, lambda found, reason=reason: condition(found)["reason"] == reason)
            assert (await answers(controller, f"/{name}"))[:2] == (503, "1")
        assert (await answers(controller, "/nobody"))[0] == 404
