"""Two installations in different namespaces watch the same one: each trigger is run by one of them."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from servers.controllers import Controller, cluster, condition, resource
from servers.kubernetes import APIServer
from servers.scripted import Answer, Call, scripted

EACH_SECOND: dict[str, Any] = {"schedule": "* * * * * *", "delivery": {"onFailure": "drop"}}  # there is no store
FIRST = {"KUBEIRQ_RELEASE": "a/one"}
SECOND_RELEASE = "b/two"


@pytest.mark.timeout(400)
async def test_one_installation_runs_a_trigger_and_the_other_one_takes_over_when_it_is_gone(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    ticks: Counter[str] = Counter()

    async def decide(call: Call) -> Answer:
        ticks[dict(call.headers).get("ce-id", "")] += 1
        return 200

    async with cluster(kubernetes, tmp_path) as it, scripted(decide) as called:
        leases = await it.new_namespace()
        second = {"KUBEIRQ_RELEASE": SECOND_RELEASE, "KUBEIRQ_NAMESPACE": leases}
        before = [await it.start("trigger", kind, **FIRST) for kind in ("cron", "http")]
        await it.apply(
            resource("CronTrigger", "each", {"url": called.url, **EACH_SECOND}),
            resource("HTTPTrigger", "calls", {"url": called.url, "path": "/calls"}),
        )
        for kind, name in (("crontrigger", "each"), ("httptrigger", "calls")):
            await it.until(kind, name, lambda found: condition(found)["status"] == "True")
        _, later = [await it.start("trigger", kind, replica="two", **second) for kind in ("cron", "http")]
        for kind, name in (("crontrigger", "each"), ("httptrigger", "calls")):
            found = await it.until(kind, name, lambda f: condition(f, "Accepted")["reason"] == "TwoInstallations")
            assert condition(found)["status"] == "True", "the first one runs it"
            assert SECOND_RELEASE in condition(found, "Accepted")["message"]
            assert "TwoInstallations" in await it.server.kubectl("describe", kind, name)
        assert await status_of(before[1]) == 200
        assert await status_of(later) == 503, "its gateway does not serve what is another one's"
        seen = len(ticks)
        async with asyncio.timeout(60):
            while len(ticks) < seen + 5:
                await asyncio.sleep(0.2)
        assert set(ticks.values()) == {1}

        for controller in before:
            await controller.stop()
        for kind, name in (("crontrigger", "each"), ("httptrigger", "calls")):
            await it.until(kind, name, lambda f: f["status"]["installation"] == {"name": SECOND_RELEASE}, 180)
        async with asyncio.timeout(60):
            while await status_of(later) != 200:
                await asyncio.sleep(0.2)
        seen = len(ticks)
        async with asyncio.timeout(60):
            while len(ticks) < seen + 3:
                await asyncio.sleep(0.2)


async def status_of(gateway: Controller) -> int:
    async with aiohttp.ClientSession() as session:
        async with session.post(f"http://127.0.0.1:{gateway.port('KUBEIRQ_GATEWAY_PORT')}/calls", data=b"{}") as answer:
            return answer.status
