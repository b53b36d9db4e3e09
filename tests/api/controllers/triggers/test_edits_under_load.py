"""Edits of a live HTTP trigger on a real API server: nobody is refused, and `kubectl wait` waits for the new spec."""

import asyncio
from collections import Counter
from pathlib import Path

import aiohttp
import pytest
from servers.controllers import cluster, condition, resource
from servers.kubernetes import APIServer
from servers.scripted import Answer, Call, scripted

WAIT = ("wait", "--for=condition=Ready", "httptrigger/orders", "--timeout=20s")


@pytest.mark.timeout(180)
async def test_edits_refuse_no_request_and_are_in_force_when_kubectl_wait_returns(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    answers: Counter[int] = Counter()
    may_end = asyncio.Event()

    async def decide(call: Call) -> Answer:
        if "x-wait" in call.headers:
            await may_end.wait()
        return 200

    async def post(url: str, path: str = "/orders", **headers: str) -> int:
        async with client.post(f"{url}{path}", headers=headers) as answer:
            return answer.status

    async with cluster(kubernetes, tmp_path) as it, scripted(decide) as function, aiohttp.ClientSession() as client:
        replicas = [await it.start("trigger", "http", replica=name) for name in ("one", "two")]
        gateways = [f"http://127.0.0.1:{replica.port('KUBEIRQ_GATEWAY_PORT')}" for replica in replicas]
        await it.apply(resource("HTTPTrigger", "orders", {"url": function.url}))
        await it.until("httptrigger", "orders", lambda found: condition(found) and condition(found)["status"] == "True")
        slow = asyncio.create_task(post(gateways[0], **{"x-wait": "1"}))
        editing = True

        async def ask(url: str) -> None:
            while editing:
                answers[await post(url)] += 1
                await asyncio.sleep(0.01)

        load = [asyncio.create_task(ask(url)) for url in gateways * 2]
        for seconds in range(20, 26):
            await it.apply(
                resource("HTTPTrigger", "orders", {"url": function.url, "delivery": {"timeoutSeconds": seconds}})
            )
            await it.server.kubectl(*WAIT)
        editing = False
        await asyncio.gather(*load)
        assert set(answers) == {200}, answers
        assert answers[200] > 100
        await it.apply(resource("HTTPTrigger", "orders", {"url": function.url, "path": "/new"}))
        await it.server.kubectl(*WAIT)
        for url in gateways:
            assert await post(url, "/new") == 200
        found = await it.get("httptrigger", "orders")
        assert found["status"]["observedGeneration"] == found["metadata"]["generation"]
        assert not slow.done()
        may_end.set()
        assert await slow == 200
