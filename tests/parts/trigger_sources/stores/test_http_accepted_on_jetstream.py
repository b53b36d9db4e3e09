"""Requests answered with 202 on a cluster survive killed replicas and servers, and stay in order."""

import asyncio
import itertools
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import nats
import pytest
from servers.ledger import Books, judge
from servers.nats import NATSServer, nats_server
from servers.scripted import Answer, Call, Scripted, scripted
from servers.stores import ComposedStore

from trigger_sources.dispatch.flow import Flow
from trigger_sources.dispatch.gate import Gate
from trigger_sources.dispatch.host import LocalHost
from trigger_sources.http import HTTPTrigger, inbox_health
from trigger_sources.http.gateway import Gateway
from trigger_sources.inbox import Inbox
from trigger_sources.source import MissingSecret
from trigger_sources.spec import SecretRef
from trigger_sources.stores.jetstream import INBOX, JetStreamStore

UID = "default/HTTPTrigger/orders"


@dataclass
class Replica:
    """The part of an HTTP controller that serves one trigger."""

    flow: Flow
    client: aiohttp.ClientSession
    inbox: Inbox

    async def post(self, data: bytes, **headers: str) -> int:
        """The status; 0 if the caller got no answer."""
        try:
            async with self.client.post("/orders", data=data, headers=headers) as answer:
                return answer.status
        except (aiohttp.ClientError, OSError):
            return 0


def no_secrets(namespace: str, reference: SecretRef) -> str:
    raise MissingSecret(f"no secret {namespace}/{reference.name}")


@asynccontextmanager
async def replica(
    server: NATSServer, url: str, name: str = "r", may_take: Callable[[], bool] = lambda: True, **spec: Any
) -> AsyncIterator[Replica]:
    trigger = HTTPTrigger.model_validate(
        {"function": "f", "path": "/orders", "answer": "accepted", "delivery": {"backoffSeconds": 0.05}, **spec}
    )
    gateway, gate = Gateway(), Gate("f", url)
    await gateway.start("127.0.0.1", 0)
    try:
        async with JetStreamStore.open(
            [server.url], replica=name, ack_wait_seconds=3, may_take=lambda uid: may_take()
        ) as events:
            host = LocalHost(
                replica=name, store=ComposedStore(events), gateway=gateway, secrets=no_secrets, defaults={}
            )
            flow = Flow(
                trigger, kind="HTTPTrigger", namespace="default", name="orders", uid=UID,
                function="f", gate=gate, host=host, gate_of=lambda name: gate,
            )  # fmt: skip
            running = asyncio.create_task(flow.run())
            try:
                async with aiohttp.ClientSession(f"http://127.0.0.1:{gateway.port}") as client:
                    await until(lambda: flow.connected[0])
                    yield Replica(flow, client, events.inbox(UID))
            finally:
                await flow.stop(5)
                await running
    finally:
        await gate.aclose()
        await gateway.close(0)


async def until(happened: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not happened():
            await asyncio.sleep(0.01)


def delivered(function: Scripted) -> list[bytes]:
    return [call.body for call in function.calls]


async def test_a_full_stream_is_reported_until_it_has_room_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_health, "STEADY_SECONDS", 0.5)
    async with nats_server() as server, scripted() as function, replica(server, function.url) as it:
        connection = await nats.connect(server.url)

        async def limit(messages: int) -> None:
            config = (await connection.jetstream().stream_info(INBOX)).config
            await connection.jetstream().update_stream(config.evolve(max_msgs=messages))

        try:
            await function.stop()
            assert await it.post(b"1") == 202
            await limit(1)
            assert await it.post(b"2") == 503
            await until(lambda: it.flow.connected[:2] == (False, "StoreFull"))
            assert "1 messages of at most 1" in it.flow.connected[2]
            await limit(-1)
            await until(lambda: it.flow.connected[0])
            assert await it.post(b"3") == 202
        finally:
            await connection.close()
        await function.start()
        await until(lambda: sorted(delivered(function)) == [b"1", b"3"])


async def test_events_answered_with_202_survive_kill_9_of_the_process_that_took_them() -> None:
    program = """
    import asyncio, sys
    from trigger_sources.http.gateway import Gateway
    from trigger_sources.http import HTTPTrigger
    from trigger_sources.stores.jetstream import INBOX, JetStreamStore
    from trigger_sources.testing import StandInContext

    async def main():
        gateway = Gateway()
        await gateway.start("127.0.0.1", 0)
        async with JetStreamStore.open([sys.argv[1]], replica="dies", ack_wait_seconds=3) as store:
            trigger = HTTPTrigger.model_validate({"function": "f", "path": "/orders", "answer": "accepted"})
            context = StandInContext(gateway=gateway, inbox_=store.inbox(sys.argv[2]))
            await trigger.prepare(context)
            context.report = lambda **_: print(gateway.port, flush=True)
            async for deliveries in trigger.deliveries(context):
                pass  # nothing is ever settled

    asyncio.run(main())
    """
    accepted: set[bytes] = set()
    async with nats_server() as server, scripted() as function:
        for round_ in range(3):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", textwrap.dedent(program), server.url, UID, stdout=asyncio.subprocess.PIPE
            )
            try:
                assert process.stdout is not None
                port = int(await asyncio.wait_for(process.stdout.readline(), 20))

                async def post(worker: int, client: aiohttp.ClientSession, round_: int = round_) -> None:
                    for number in itertools.count():
                        body = b"%d/%d/%d" % (round_, worker, number)
                        try:
                            async with client.post("/orders", data=body) as answer:
                                assert answer.status == 202
                                accepted.add(body)
                        except (aiohttp.ClientError, OSError):
                            return

                goal = len(accepted) + 150
                async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
                    posting = [asyncio.create_task(post(worker, client)) for worker in range(8)]
                    await until(lambda: len(accepted) >= goal)  # noqa: B023
                    process.kill()
                    await asyncio.gather(*posting)
            finally:
                if process.returncode is None:
                    process.kill()
                await process.wait()
        async with replica(server, function.url):
            await until(lambda: accepted <= set(delivered(function)))
        assert len(accepted) >= 450


@pytest.mark.timeout(120)
async def test_events_answered_with_202_survive_kill_9_of_the_server_and_callers_wait_for_it() -> None:
    accepted: list[bytes] = []
    answers: set[int] = set()
    kills, callers = 5, 8
    async with nats_server() as server, scripted() as function, replica(server, function.url) as it:
        stop = asyncio.Event()
        numbers = itertools.count()

        async def post() -> None:
            while not stop.is_set():
                body = b"%d" % next(numbers)
                status = await it.post(body)
                answers.add(status)
                if status == 202:
                    accepted.append(body)
                else:
                    await asyncio.sleep(0.02)

        posting = [asyncio.create_task(post()) for _ in range(callers)]
        reasons: set[str] = set()
        for _ in range(kills):
            goal = len(accepted) + 200
            await until(lambda: len(accepted) >= goal)  # noqa: B023
            await server.kill()
            await until(lambda: not it.flow.connected[0])
            reasons.add(it.flow.connected[1])
            await server.start()
        await until(lambda: it.flow.connected[0])
        stop.set()
        await asyncio.gather(*posting)
        await until(lambda: set(accepted) <= set(delivered(function)))
        assert answers == {202}
        assert reasons == {"StoreUnavailable"}
        assert it.flow.dispatcher.counters.restarts == 0
        # A kill takes the confirmation of what was on its way; it is written again, with the same id
        found = judge(Books(dict.fromkeys(accepted), delivered(function), repeatable=kills * callers))
        assert found.holds, found.breaches


async def test_callers_of_a_store_that_stays_away_get_503(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trigger_sources.http.source._STORE_SECONDS", 0.5)
    async with nats_server() as server, scripted() as function, replica(server, function.url) as it:
        await server.kill()
        assert await asyncio.gather(*(it.post(b"x") for _ in range(20))) == [503] * 20


async def test_accepting_goes_on_while_the_function_is_down_and_order_is_kept() -> None:
    async with nats_server() as server, scripted() as function:
        await function.stop()
        spec = {"ordering": "key", "keyHeader": "x-key"}
        async with replica(server, function.url, **spec) as it:
            for number in range(100):
                assert await it.post(b"%d" % number, **{"x-key": "k"}) == 202
        async with replica(server, function.url, **spec) as it:
            await function.start()
            await until(lambda: len(function.calls) >= 100)
        assert [int(body) for body in delivered(function)] == list(range(100))


@pytest.mark.timeout(120)
async def test_order_per_key_is_kept_while_replicas_take_turns() -> None:
    turn = 0
    began: dict[str, list[int]] = {}

    async def decide(call: Call) -> Answer:
        key, _, number = call.body.decode().partition("/")
        began.setdefault(key, []).append(int(number))
        await asyncio.sleep(0.002)
        return 200

    spec = {"ordering": "key", "keyHeader": "x-key"}
    async with nats_server() as server, scripted(decide) as function, AsyncExitStack() as stack:
        replicas = [
            await stack.enter_async_context(
                replica(server, function.url, f"r{number}", lambda number=number: turn == number, **spec)  # type: ignore[misc]
            )
            for number in range(2)
        ]

        async def post(key: int) -> None:
            for number in range(60):
                it = replicas[(key + number) % 2]
                assert await it.post(b"%d/%d" % (key, number), **{"x-key": f"{key}"}) == 202

        posting = asyncio.gather(*(post(key) for key in range(12)))
        for round_ in range(8):
            goal = len(function.calls) + 40
            await until(lambda: len(function.calls) >= goal or posting.done())  # noqa: B023
            turn = -1  # no replica is sure
            await asyncio.sleep(0.02 * (round_ % 3))
            turn = round_ % 2
        await posting
        await until(lambda: sum(len(set(numbers)) for numbers in began.values()) >= 12 * 60)
        for key, numbers in began.items():
            first = list(dict.fromkeys(numbers))
            assert first == list(range(60)), f"key {key}: {numbers}"
        assert len(function.calls) == 12 * 60, "called twice"


async def test_an_event_that_does_not_fit_is_refused_with_the_limit_and_the_rest_is_accepted() -> None:
    async with nats_server() as server, scripted() as function, replica(server, function.url) as it:
        async with it.client.post("/orders", data=b"x" * 1_000_000) as answer:
            assert (answer.status, b"786432 bytes" in await answer.read()) == (413, True)
        assert await it.post(b"small") == 202


async def test_the_backlog_of_all_replicas_together_is_limited() -> None:
    async with nats_server() as server, scripted() as function:
        await function.stop()
        async with (
            replica(server, function.url, "one", maxBacklog=30) as one,
            replica(server, function.url, "two", lambda: False, maxBacklog=30) as two,
        ):
            for _ in range(30):
                assert await one.post(b"x") == 202
            assert await one.post(b"x") == 503
            async with asyncio.timeout(15):
                while await two.post(b"x") != 503:
                    await asyncio.sleep(0.2)
            assert await one.inbox.count() <= 60
        await function.start()
