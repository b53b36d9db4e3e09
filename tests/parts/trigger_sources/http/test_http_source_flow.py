"""HTTP triggers with everything real behind them: gateway, store, flow, dispatcher, and a function to call."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from servers.function import function
from servers.ports import free_port
from servers.scripted import Answer, Call, scripted

from trigger_sources.dispatch.flow import Flow
from trigger_sources.dispatch.gate import Gate
from trigger_sources.dispatch.host import LocalHost
from trigger_sources.http import HTTPTrigger, inbox_health
from trigger_sources.http.gateway import Bounds, Gateway
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
async def bench(url: str, store: Store, bounds: Bounds | None = None, **spec: Any) -> AsyncIterator[Bench]:
    trigger = HTTPTrigger.model_validate({"function": "f", **spec})
    gateway = Gateway(bounds)
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


async def test_a_full_disk_and_a_full_backlog_are_reported_until_an_event_fits_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while the function takes the events that are there, and while no request comes any more."""
    monkeypatch.setattr(inbox_health, "STEADY_SECONDS", 0.5)

    async def pages(limit: int) -> None:
        await store.run(lambda connection: connection.execute(f"PRAGMA max_page_count = {limit}").fetchone())

    async def until_connected(it: Bench, expected: tuple[bool, str]) -> str:
        async with asyncio.timeout(20):
            while it.flow.connected[:2] != expected:
                await asyncio.sleep(0.02)
        return it.flow.connected[2]

    async with scripted() as function, Store.open(tmp_path / "s.db") as store:
        async with bench(function.url, store, answer="accepted", maxBacklog=5) as it:
            assert (await it.post(data=b"a"))[0] == 202
            await pages(1)
            counters = it.flow.dispatcher.counters
            assert counters.refused == 0
            assert (await it.post(data=b"b" * 100_000))[0] == 503
            assert counters.refused == 1
            assert "free some space" in await until_connected(it, (False, "StoreFull"))
            await pages(100_000)
            await until_connected(it, (True, ""))
            assert (await it.post(data=b"b" * 100_000))[0] == 202

            await function.stop()
            statuses = [(await it.post(data=b"c"))[0] for _ in range(6)]
            assert statuses[-1] == 503
            assert counters.refused == 1 + statuses.count(503), "each caller that was told to send again, and no other"
            assert "5 accepted events" in await until_connected(it, (False, "BacklogFull"))
            await function.start()
            await until_connected(it, (True, ""))
        assert await store.inbox("default/HTTPTrigger/orders").count() == 0


async def test_requests_that_the_gateway_refuses_for_a_busy_trigger_are_counted(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def decide(call: Call) -> Answer:
        await go.wait()
        return 200

    async with scripted(decide) as function, Store.open(tmp_path / "s.db") as store:
        async with bench(function.url, store, Bounds(waiting_seconds=0.5), concurrency=1) as it:
            asking = [asyncio.create_task(it.post(data=b"x")) for _ in range(80)]
            async with asyncio.timeout(20):
                while sum(task.done() for task in asking) + it.flow.dispatcher.held < len(asking):
                    await asyncio.sleep(0.01)
            go.set()
            statuses = [status for status, _, _ in await asyncio.gather(*asking)]
            counters = it.flow.dispatcher.counters
            assert statuses.count(503) == counters.refused > 0
            assert counters.received == counters.delivered == statuses.count(200) > 0


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


ECHO = """
def handler(event, context):
    request = event["extensions"]["request"]
    headers = request.headers
    back = {"x-back": headers["x-name"]} if "x-name" in headers else {}
    seen = {name: value for name, value in headers.items() if not name.startswith("x-")}
    kind = type(event["data"]).__name__
    return {"params": request.path_params, "kind": kind, "id": event["event-id"], "headers": seen}, 200, back
"""


async def exchanged(port: int, path: str, body: bytes, *headers: bytes) -> tuple[int, bytes, Any]:
    """Status, head and JSON body of one request's answer, with the head's own bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        lines = [f"POST {path} HTTP/1.1".encode(), b"host: h", b"connection: close", *headers]
        writer.write(b"\r\n".join([*lines, b"content-length: %d" % len(body), b"", b""]) + body)
        async with asyncio.timeout(20):
            head, _, rest = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    return int(head.split()[1]), head, json.loads(rest) if rest else None


@pytest.mark.parametrize("value", ["José".encode(), "José".encode("latin-1"), b"\xff\x80 \xc3\xa9", "€".encode()])
@pytest.mark.parametrize("answer", ["function", "accepted"])
async def test_the_bytes_of_a_header_survive_the_way_to_the_function_and_back(
    tmp_path: Path, value: bytes, answer: str
) -> None:
    async def decide(call: Call) -> Answer:
        return 200

    async with scripted(decide) as far, function(ECHO) as echo, Store.open(tmp_path / "s.db") as store:
        if answer == "accepted":
            async with bench(far.url, store, answer="accepted") as it:
                status, _, _ = await exchanged(it.gateway.port, "/orders", b"", b"x-name: " + value)
                assert status == 202
                async with asyncio.timeout(10):
                    while not far.calls:
                        await asyncio.sleep(0.005)
            assert far.calls[0].headers["x-name"].encode(errors="surrogateescape") == value
            return
        async with bench(echo.url, store) as it:
            status, head, _ = await exchanged(it.gateway.port, "/orders", b"", b"x-name: " + value)
            assert (status, b"\r\nx-back: " + value + b"\r\n" in head) == (200, True)


async def test_a_function_sees_texts_data_and_traces_as_the_caller_meant_them(tmp_path: Path) -> None:
    async with function(ECHO) as echo, Store.open(tmp_path / "s.db") as store:
        async with bench(echo.url, store, path="/orders/{id}/x/{rest...}", keyHeader="x-key") as it:
            port = it.gateway.port
            status, _, seen = await exchanged(port, "/orders/caf%C3%A9/x/%F0%9F%98%80/y", b"", b"x-key: \xe9")
            assert (status, seen["params"]) == (200, {"id": "café", "rest": "😀/y"})
            assert seen["headers"]["ce-partitionkeyhex"] == "e9"
            zipped = gzip.compress(b'{"a": 1}')
            kinds = [b"content-type: application/json", b"content-encoding: gzip"]
            status, _, seen = await exchanged(port, "/orders/1/x/", zipped, *kinds)
            assert (status, seen["kind"], seen["headers"]["content-encoding"]) == (200, "bytes", "gzip")
            twice = [b"traceparent: 00-a-b-01", b"traceparent: 00-c-d-01"]
            status, _, seen = await exchanged(port, "/orders/1/x/", b"", *twice)
            assert (status, "traceparent" in seen["headers"]) == (200, False)
            envelope = b'{"specversion":"1.0","id":"i","source":"/s","type":"t","data":{"n":1}}'
            headers = [b"content-type: application/cloudevents+json", *twice[:1]]
            status, _, seen = await exchanged(port, "/orders/1/x/", envelope, *headers)
            assert (status, seen["kind"], seen["id"]) == (200, "dict", "i")
            assert seen["headers"]["traceparent"] == "00-a-b-01"
            status, _, refused = await exchanged(port, "/orders/1/x/", zipped, *headers, b"content-encoding: gzip")
            assert (status, refused["error"][:22]) == (415, "content-encoding: gzip")


async def test_a_head_that_no_function_takes_is_refused_at_once(tmp_path: Path) -> None:
    large = [b"x%d: " % number + b"a" * 8_000 for number in range(9)]
    async with scripted() as far, Store.open(tmp_path / "s.db") as store:
        for answer in ("function", "accepted"):
            async with bench(far.url, store, answer=answer) as it:
                status, _, refused = await exchanged(it.gateway.port, "/orders", b"", *large)
                assert (status, "a function takes" in refused["error"]) == (431, True)
                assert (await exchanged(it.gateway.port, "/orders", b"", *large[:7]))[0] in (200, 202)


async def test_an_answer_over_a_bound_is_named_to_the_caller(tmp_path: Path) -> None:
    source = """
def handler(event, context):
    if event["extensions"]["request"].query.get("large") == "head":
        return "x", 200, {"x-large": "a" * 70_000}
    return b"a" * (8 * 1024 * 1024 + 1)
"""
    async with function(source) as far, Store.open(tmp_path / "s.db") as store:
        async with bench(far.url, store) as it:
            status, _, refused = await exchanged(it.gateway.port, "/orders", b"")
            assert (status, "body is over 8388608 bytes" in refused["error"]) == (502, True)
            status, _, refused = await exchanged(it.gateway.port, "/orders?large=head", b"")
            assert (status, "header is over 65536 bytes" in refused["error"]) == (502, True)


async def test_a_function_that_refuses_a_body_names_the_bound_and_the_variable(tmp_path: Path) -> None:
    async with function(ECHO, FUNC_BODY_LIMIT="100") as far, Store.open(tmp_path / "s.db") as store:
        async with bench(far.url, store) as it, it.client.post("/orders", data=b"a" * 101) as answer:
            assert answer.status == 413
            text = "the body is larger than 100 bytes; the function's variable FUNC_BODY_LIMIT moves this limit\n"
            assert await answer.text() == text


@pytest.mark.parametrize("url", ["http://f.example/v1/hook", "http://f.example/?x=1", "http://f.example/v1/"])
def test_an_address_with_a_path_is_refused_because_the_requests_have_their_own(url: str) -> None:
    with pytest.raises(ValueError, match=r"so only http://f\.example is possible"):
        HTTPTrigger.model_validate({"url": url, "path": "/orders"})
    HTTPTrigger.model_validate({"url": "http://f.example/"})
