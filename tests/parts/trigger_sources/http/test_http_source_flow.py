"""HTTP triggers with everything real behind them: gateway, store, flow, dispatcher, and a function to call."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from servers.ports import free_port
from servers.scripted import Answer, Call, scripted

from trigger_sources.dispatch.flow import Flow
from trigger_sources.dispatch.gate import Gate
from trigger_sources.dispatch.host import LocalHost
from trigger_sources.http import HTTPTrigger
from trigger_sources.http.gateway import Gateway
from trigger_sources.source import MissingSecret
from trigger_sources.spec import SecretRef
from trigger_sources.stores.sqlite import Store


@dataclass
class Bench:
    flow: Flow
    gateway: Gateway
    client: aiohttp.ClientSession

    async def post(self, path: str = "/orders", **options: Any) -> tuple[int, bytes, Mapping[str, str]]:
        async with self.client.post(path, **options) as answer:
            return answer.status, await answer.read(), answer.headers


def no_secrets(namespace: str, reference: SecretRef) -> str:
    raise MissingSecret(f"no secret {namespace}/{reference.name}")


@asynccontextmanager
async def bench(url: str, store: Store, **spec: Any) -> AsyncIterator[Bench]:
    trigger = HTTPTrigger.model_validate({"function": "f", **spec})
    gateway = Gateway()
    await gateway.start("127.0.0.1", 0)
    gate = Gate("f", url)
    host = LocalHost(replica="r", store=store, gateway=gateway, secrets=no_secrets, defaults={})
    flow = Flow(
        trigger, kind="HTTPTrigger", namespace="default", name="orders", uid="default/HTTPTrigger/orders",
        function="f", gate=gate, host=host, gate_of=lambda name: gate,
    )  # fmt: skip
    runner = asyncio.create_task(flow.run())
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{gateway.port}") as client:
            async with asyncio.timeout(10):
                while not flow.connected[0]:
                    await asyncio.sleep(0.005)
            yield Bench(flow, gateway, client)
    finally:
        await flow.stop(1)
        await runner
        await gate.aclose()
        await gateway.close(0)


async def test_the_caller_gets_every_answer_of_the_function(tmp_path: Path) -> None:
    async def decide(call: Call) -> Answer:
        return int(call.headers["x-status"]), {"x-made-by": "f", "connection": "keep-alive"}, b"answer"

    async with scripted(decide) as function, Store.open(tmp_path / "s.db") as store:
        async with bench(function.url, store, path="/orders/{id}") as it:
            for status in (200, 201, 404, 422, 500, 503):
                found, body, headers = await it.post(
                    "/orders/a%2Fb?c=d", data=b"hi", headers={"x-status": str(status), "content-type": "text/plain"}
                )
                assert (found, body, headers["x-made-by"]) == (status, b"answer", "f")
            assert len(function.calls) == 6, "one attempt each"
            assert it.flow.dispatcher.counters.deadLettered == 0
            call = function.calls[0]
            assert (call.method, call.target, call.body) == ("POST", "/orders/a%2Fb?c=d", b"hi")
            assert call.headers["content-type"] == "text/plain"
            assert call.headers["ce-type"] == "dev.kubeirq.http.request"
            assert call.headers["kubeirq-path-params"] == '{"id":"a/b"}'
            assert call.headers["x-forwarded-for"] == "127.0.0.1"


async def test_down_slow_and_broken_functions_give_different_answers(tmp_path: Path) -> None:
    async def decide(call: Call) -> Answer:
        if call.headers["x-do"] == "hang":
            await asyncio.sleep(30)
        return 200

    async with Store.open(tmp_path / "s.db") as store:
        async with bench(f"http://127.0.0.1:{free_port()}/", store) as it:
            for _ in range(5):
                status, _, headers = await it.post()
                assert (status, headers["retry-after"]) == (503, "5")
        async with (
            scripted(decide) as function,
            bench(function.url, store, delivery={"timeoutSeconds": 0.3}, filter='event.subject != "/orders/no"') as it,
        ):
            assert (await it.post(headers={"x-do": "hang"}))[0] == 504
            assert (await it.post(headers={"x-do": "answer"}))[0] == 200
        async with scripted(decide) as function, bench(function.url, store) as it:
            asking = asyncio.create_task(it.post(headers={"x-do": "hang"}))
            async with asyncio.timeout(10):
                while not function.running:
                    await asyncio.sleep(0.005)
            await function.stop()
            assert (await asking)[0] == 502
            await function.start()


async def test_a_filtered_request_gets_204_and_calls_no_function(tmp_path: Path) -> None:
    async with scripted() as function, Store.open(tmp_path / "s.db") as store:
        async with bench(function.url, store, path="/{id}", filter='event.subject == "/yes"') as it:
            assert (await it.post("/no"))[0] == 204
            assert function.calls == []
            assert (await it.post("/yes"))[0] == 200


async def test_events_accepted_while_the_function_is_down_are_delivered_in_order_when_it_is_up(
    tmp_path: Path,
) -> None:
    async with scripted() as function, Store.open(tmp_path / "s.db") as store:
        await function.stop()
        async with bench(function.url, store, answer="accepted", ordering="key", keyHeader="x-key") as it:
            for number in range(200):
                assert (await it.post(data=b"%d" % number, headers={"x-key": "k"}))[0] == 202
        assert await store.inbox("default/HTTPTrigger/orders").count() == 200
        async with bench(function.url, store, answer="accepted", ordering="key", keyHeader="x-key") as it:
            await function.start()
            async with asyncio.timeout(30):
                while await store.inbox("default/HTTPTrigger/orders").count():
                    await asyncio.sleep(0.01)
        assert [int(call.body) for call in function.calls] == list(range(200))


async def test_stopping_under_load_answers_everyone(tmp_path: Path) -> None:
    async def decide(call: Call) -> Answer:
        await asyncio.sleep(0.01)
        return 200

    async with scripted(decide) as function, Store.open(tmp_path / "s.db") as store:
        async with bench(function.url, store) as it:
            asking = [asyncio.create_task(it.post(data=b"x")) for _ in range(90)]
            async with asyncio.timeout(10):
                while len(function.calls) < 20:
                    await asyncio.sleep(0.001)
            await it.flow.stop(5)
            statuses = [status for status, _, _ in await asyncio.gather(*asking)]
            assert set(statuses) <= {200, 503}
            assert statuses.count(200) == len(function.calls), "a request that got 503 was not delivered"


async def test_an_accepted_event_that_cannot_be_read_becomes_a_dead_letter_and_the_others_are_delivered(
    tmp_path: Path,
) -> None:
    async with scripted() as function, Store.open(tmp_path / "s.db") as store:
        inbox = store.inbox("default/HTTPTrigger/orders")
        await inbox.append_all([b"no JSON", b"[1]\nx", b'{"version": 2}\nfrom a later version', b'{"version": 1}\n'])
        async with bench(function.url, store, answer="accepted", filter="data.n > 0", filterError="drop") as it:
            assert (await it.post(json={"n": 1}))[0] == 202
            async with asyncio.timeout(10):
                while await inbox.count():
                    await asyncio.sleep(0.01)
            assert [call.body for call in function.calls] == [b'{"n": 1}']
            assert it.flow.dead_letters is not None
            letters = [letter async for letter in it.flow.dead_letters.letters()]
        assert {letter.event.data for letter in letters} == {
            b"no JSON", b"[1]\nx", b'{"version": 2}\nfrom a later version', b'{"version": 1}\n',
        }  # fmt: skip
        assert {letter.reason for letter in letters} == {"Unreadable"}
        assert "version 2; known: 1" in "".join(letter.message for letter in letters)
