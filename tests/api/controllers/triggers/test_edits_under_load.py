"""Edits of a live HTTP trigger on a real API server: nobody is refused, and `kubectl wait` waits for the new spec."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from servers.controllers import cluster, condition, resource
from servers.kubernetes import APIServer
from servers.live_edits import (
    KINDS,
    LOAD_BODY,
    LOAD_TOKEN,
    NAME,
    PATH,
    edits,
    first_spec,
    is_ready,
    secret_of,
    versions,
)
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
        first = {"url": function.url, "delivery": {"timeoutSeconds": 170}}  # the slow call outlasts all edits
        await it.apply(resource("HTTPTrigger", "orders", first))
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


@pytest.mark.timeout(300)
async def test_edits_of_every_kind_refuse_no_request_and_are_served_when_the_trigger_is_ready(
    kubernetes: APIServer, tmp_path: Path
) -> None:
    path = "/apis/kubeirq.dev/v1/namespaces/default/httptriggers/orders"
    async with cluster(kubernetes, tmp_path) as it, versions() as code, aiohttp.ClientSession() as client:
        replica = await it.start("trigger", "http")
        gateway = f"http://127.0.0.1:{replica.port('KUBEIRQ_GATEWAY_PORT')}"
        await it.apply(secret_of("first"), resource("HTTPTrigger", NAME, first_spec((await code.start()).url)))
        await it.until("httptrigger", NAME, is_ready)
        async with _asked(client, gateway) as answers:
            for edit in itertools.islice(edits(), 2 * len(KINDS)):
                if edit.secret:  # which changes no generation
                    await it.apply(secret_of(edit.token))
                    async with asyncio.timeout(30):
                        while not await edit.is_served(client, gateway):
                            await asyncio.sleep(0.05)
                    continue
                spec = {"url": (await code.start()).url} if edit.kind == "code" else edit.spec
                await it.api.request("PATCH", path, body={"spec": spec}, content_type="application/merge-patch+json")
                await it.until("httptrigger", NAME, is_ready)
                assert await edit.is_served(client, gateway), (edit, await edit.answers(client, gateway), it.logs())
                if edit.kind == "code":
                    await code.stop_former()
            before = answers.total()
            while answers.total() < before + 20:
                await asyncio.sleep(0.01)
        assert set(answers) == {200}, answers


@asynccontextmanager
async def _asked(client: aiohttp.ClientSession, gateway: str) -> AsyncIterator[Counter[int]]:
    """Four callers on kept connections, as long as the context is open. Their answers, by status."""
    answers: Counter[int] = Counter()
    headers = {"authorization": f"Bearer {LOAD_TOKEN}", "content-type": "application/json"}
    asking = True

    async def ask() -> None:
        while asking:
            async with client.post(f"{gateway}{PATH}", data=LOAD_BODY, headers=headers) as answer:
                answers[answer.status] += 1
            await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(ask())
        try:
            yield answers
        finally:
            asking = False
