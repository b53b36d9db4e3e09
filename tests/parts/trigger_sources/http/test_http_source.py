"""The HTTP source with a real gateway and a real store; the test stands in for the dispatcher."""

import asyncio
import io
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from trigger_sources.delivery import Answer, Delivery, Outcome
from trigger_sources.http import HTTPTrigger
from trigger_sources.http.gateway import Gateway
from trigger_sources.source import SourceError
from trigger_sources.stores.sqlite import Store
from trigger_sources.testing import StandInContext


@dataclass
class Running:
    """A running source: the deliveries that it has yielded, and a client of its gateway."""

    trigger: HTTPTrigger
    context: StandInContext
    client: aiohttp.ClientSession
    taken: list[Delivery] = field(default_factory=list)
    on_take: Callable[[Delivery], None] | None = None

    async def pump(self) -> None:
        async with aclosing(self.trigger.deliveries(self.context)) as generator:  # type: ignore[type-var]
            async for deliveries in generator:
                assert 0 < len(deliveries) <= self.context.room
                self.taken += deliveries
                for delivery in deliveries:
                    if self.on_take is not None:
                        self.on_take(delivery)

    async def until_taken(self, count: int) -> list[Delivery]:
        async with asyncio.timeout(10):
            while len(self.taken) < count:
                await asyncio.sleep(0.005)
        return self.taken

    async def post(self, path: str = "/trigger", **options: Any) -> tuple[int, bytes, Mapping[str, str]]:
        async with self.client.post(path, **options) as answer:
            return answer.status, await answer.read(), answer.headers


@asynccontextmanager
async def running(
    gateway: Gateway, *, inbox: Any = None, room: int = 64, secrets: Any = None, **spec: Any
) -> AsyncIterator[Running]:
    trigger = HTTPTrigger.model_validate({"function": "f", **spec})
    context = StandInContext(gateway=gateway, inbox_=inbox, room=room, secrets=secrets or {})
    async with aiohttp.ClientSession(f"http://127.0.0.1:{gateway.port}") as client:
        found = Running(trigger, context, client)
        pump = asyncio.create_task(found.pump())
        try:
            async with asyncio.timeout(5):
                while not context.reports and not pump.done():
                    await asyncio.sleep(0.005)
            if pump.done():
                await pump
            yield found
        finally:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)


@asynccontextmanager
async def gateway() -> AsyncIterator[Gateway]:
    found = Gateway()
    await found.start("127.0.0.1", 0)
    try:
        yield found
    finally:
        await found.close(0)


def settles(outcome: Outcome) -> tuple[Callable[[Delivery], None], list[asyncio.Task[None]]]:
    """A consumer that settles every delivery with this outcome, and its tasks."""
    tasks: list[asyncio.Task[None]] = []
    return lambda delivery: tasks.append(asyncio.ensure_future(delivery.settle(outcome))), tasks


def basic(name: str, password: str) -> dict[str, str]:
    return {"authorization": aiohttp.encode_basic_auth(name, password)}


# --- answer: function


async def test_a_request_is_delivered_unchanged_and_its_caller_gets_the_functions_answer() -> None:
    async with gateway() as server, running(server, path="/orders/{id}", methods=["PUT"]) as it:
        answer = Answer(201, (("x-one", "1"), ("connection", "close"), ("content-length", "999")), b"made")
        it.on_take, _ = settles(Outcome("delivered", answer=answer))
        async with it.client.put("/orders/7?a=b", data=b"hi", headers={"x-two": "2", "ce-partitionkey": "k"}) as got:
            assert (got.status, await got.read(), got.headers["x-one"]) == (201, b"made", "1")
        (delivery,) = it.taken
        assert delivery.caller_waits
        assert delivery.position is None
        assert delivery.key == b"k"
        assert delivery.event.type == "dev.kubeirq.http.request"
        assert (delivery.event.source, delivery.event.subject) == ("/http/default/trigger", "/orders/7")
        assert delivery.event.data == b"hi"
        assert delivery.request is not None
        assert (delivery.request.method, delivery.request.target) == ("PUT", "/orders/7?a=b")
        assert delivery.request.path_parameters == {"id": "7"}
        headers = dict(delivery.request.headers)
        assert headers["x-two"] == "2"
        assert headers["x-forwarded-for"] == "127.0.0.1"
        assert not {"host", "content-length", "connection"} & headers.keys()


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Outcome("dropped", "PermanentAnswer", Answer(404, (), b"none")), 404),
        (Outcome("dropped", "AttemptsExhausted", Answer(500, (), b"oh")), 500),
        (Outcome("dropped", "FunctionDown"), 503),
        (Outcome("returned", "Stopping"), 503),
        (Outcome("dropped", "Timeout"), 504),
        (Outcome("dropped", "NoAnswer"), 502),
        (Outcome("filtered", "Filtered"), 204),
    ],
)
async def test_every_outcome_becomes_the_callers_answer(outcome: Outcome, status: int) -> None:
    async with gateway() as server, running(server) as it:
        it.on_take, _ = settles(outcome)
        found, body, headers = await it.post(data=b"x")
        assert found == status
        if outcome.answer is not None:
            assert body == outcome.answer.body
        assert ("retry-after" in headers) == (status == 503)


async def test_an_invalid_event_is_answered_and_never_delivered() -> None:
    batch = {"content-type": "application/cloudevents-batch+json"}
    async with gateway() as server, running(server) as it:
        status, body, _ = await it.post(headers={"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/"})
        assert (status, b"type: a CloudEvent needs one" in body) == (400, True)
        status, body, _ = await it.post(headers=batch, data=b"[]")
        assert (status, b"answer: accepted" in body) == (400, True)
        status, _, _ = await it.post(headers={"content-type": "application/cloudevents+xml"}, data=b"<a/>")
        assert status == 415
        status, _, _ = await it.post(data=io.BytesIO(b"x" * (1024 * 1024 + 1)))
        assert status == 413
        assert it.taken == []


async def test_a_cloudevent_keeps_its_id_and_a_key_comes_from_the_header_that_was_named() -> None:
    async with gateway() as server, running(server, keyHeader="X-Customer") as it:
        it.on_take, _ = settles(Outcome("delivered", answer=Answer(200)))
        event = {"ce-specversion": "1.0", "ce-id": "mine", "ce-source": "/s", "ce-type": "t", "x-customer": "ann"}
        assert (await it.post(headers=event))[0] == 200
        (delivery,) = it.taken
        assert (delivery.event.id, delivery.event.extensions["partitionkey"], delivery.key) == ("mine", "ann", b"ann")


async def test_a_caller_that_leaves_withdraws_its_request_and_a_late_settle_does_no_harm() -> None:
    async with gateway() as server, running(server) as it:
        asking = asyncio.create_task(it.post(data=b"x"))
        (delivery,) = await it.until_taken(1)
        assert it.context.withdrawn == []
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        async with asyncio.timeout(5):
            while not it.context.withdrawn:
                await asyncio.sleep(0.005)
        (lost,) = it.context.withdrawn
        assert lost(delivery)
        assert not lost(replace(delivery))
        await delivery.settle(Outcome("delivered", answer=Answer(200)))
        await delivery.settle(Outcome("delivered", answer=Answer(200)))
        it.on_take, _ = settles(Outcome("delivered", answer=Answer(200)))
        assert (await it.post())[0] == 200
        assert len(it.context.withdrawn) == 1, "a caller that was answered has not left"


async def test_without_room_the_source_takes_nothing_and_stops_within_a_second() -> None:
    async with gateway() as server, running(server, room=0) as it:
        asking = asyncio.create_task(it.post(data=b"x"))
        async with asyncio.timeout(5):
            while not server._pending:
                await asyncio.sleep(0.005)
        assert it.taken == []
        it.on_take, _ = settles(Outcome("delivered", answer=Answer(200)))
        it.context.room = 1
        assert (await asyncio.wait_for(asking, 5))[0] == 200
        it.context.stopping.set()
        async with asyncio.timeout(1.5):
            while (await it.post())[0] != 503:
                await asyncio.sleep(0.01)


async def test_only_callers_with_credentials_get_in_and_a_rotated_secret_counts_after_a_restart() -> None:
    auth = {
        "basic": {"username": "ann", "password": {"name": "s", "key": "password"}},
        "bearer": {"tokens": [{"name": "s", "key": "token"}]},
    }

    def secrets(password: str, token: str) -> dict[tuple[str, str], str]:
        return {("s", "password"): password, ("s", "token"): token}

    async with gateway() as server:
        async with running(server, auth=auth, secrets=secrets("old", "t-old\n")) as it:
            it.on_take, _ = settles(Outcome("delivered", answer=Answer(200)))
            status, body, headers = await it.post(data=b"x" * 100)
            assert (status, headers["www-authenticate"]) == (401, 'Basic realm="kubeirq", charset="UTF-8"')
            assert b"old" not in body
            assert (await it.post(headers=basic("ann", "new")))[0] == 401
            assert (await it.post(headers=basic("ann", "old")))[0] == 200
            assert (await it.post(headers={"authorization": "Bearer t-old"}))[0] == 200
            assert "authorization" not in dict(it.taken[-1].headers), "the function does not see it"
        async with running(server, auth=auth, secrets=secrets("new", "t-new")) as it:
            it.on_take, _ = settles(Outcome("delivered", answer=Answer(200)))
            assert (await it.post(headers=basic("ann", "old")))[0] == 401
            assert (await it.post(headers=basic("ann", "new")))[0] == 200
        with pytest.raises(SourceError, match="secret 's' has no key 'password'"):
            async with running(server, auth=auth):
                pass


async def test_two_triggers_cannot_serve_the_same_route() -> None:
    async with gateway() as server, running(server, path="/a"):
        with pytest.raises(SourceError, match="POST /a is served by default/trigger"):
            async with running(server, path="/a"):
                pass


# --- answer: accepted


async def test_an_accepted_event_is_durable_before_202_and_gone_once_it_is_settled(tmp_path: Path) -> None:
    async with Store.open(tmp_path / "store.db") as store, gateway() as server:
        inbox = store.inbox("uid")
        async with running(server, inbox=inbox, answer="accepted", path="/orders/{id}") as it:
            status, body, headers = await it.post("/orders/7?q=1", data=b"\x00one", headers={"x-a": "b"})
            (delivery,) = await it.until_taken(1)
            assert status == 202
            assert headers["content-type"] == "application/json"
            assert body == b'{"ids":["%s"]}\n' % delivery.event.id.encode()
            assert await inbox.count() == 1
            assert not delivery.caller_waits
            assert delivery.event.data == b"\x00one"
            assert delivery.request is not None
            assert (delivery.request.target, delivery.request.path_parameters) == ("/orders/7?q=1", {"id": "7"})
            assert ("x-a", b"b") in delivery.headers
            assert it.trigger.callers_wait
            lag = await it.trigger.lag(StandInContext(inbox_=inbox))
            assert lag is not None
            assert lag.events == 1
            await delivery.settle(Outcome("delivered"))
            assert await inbox.count() == 0
            assert delivery.position is not None


async def test_a_batch_is_one_event_each_all_or_none(tmp_path: Path) -> None:
    batch = {"content-type": "application/cloudevents-batch+json"}
    one = b'{"specversion":"1.0","id":"%d","source":"/s","type":"t","data":%d}'
    async with Store.open(tmp_path / "store.db") as store, gateway() as server:
        async with running(server, inbox=store.inbox("uid"), answer="accepted") as it:
            body = b"[" + b",".join(one % (number, number) for number in range(100)) + b"]"
            status, said, _ = await it.post(data=body, headers=batch)
            assert status == 202
            assert said.startswith(b'{"ids":["0","1","2"')
            await it.until_taken(100)
            assert [delivery.event.data for delivery in it.taken] == [b"%d" % number for number in range(100)]
            assert len({delivery.position for delivery in it.taken}) == 100
            status, said, _ = await it.post(data=body[:-1] + b',{"id":"x"}]', headers=batch)
            assert (status, b"[100].specversion" in said) == (400, True)
            assert await store.inbox("uid").count() == 100
            assert (await it.post(data=b"[]", headers=batch))[:2] == (202, b'{"ids":[]}\n')


async def test_accepting_goes_on_while_there_is_no_room(tmp_path: Path) -> None:
    async with Store.open(tmp_path / "store.db") as store, gateway() as server:
        async with running(server, inbox=store.inbox("uid"), answer="accepted", room=0) as it:
            answers = await asyncio.gather(*(it.post(data=b"%d" % number) for number in range(300)))
            assert {status for status, _, _ in answers} == {202}
            assert it.taken == []
            assert await store.inbox("uid").count() == 300
            it.context.room = 7
            await it.until_taken(300)
            assert sorted(int(delivery.event.data or b"") for delivery in it.taken) == list(range(300))


async def test_accepting_goes_on_while_the_consumer_requests_no_more(tmp_path: Path) -> None:
    async with Store.open(tmp_path / "store.db") as store, gateway() as server:
        trigger = HTTPTrigger.model_validate({"function": "f", "answer": "accepted"})
        context = StandInContext(gateway=server, inbox_=store.inbox("uid"))
        async with (
            aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as client,
            aclosing(trigger.deliveries(context)) as generator,  # type: ignore[type-var]
        ):
            first = asyncio.ensure_future(anext(generator))
            async with asyncio.timeout(5):
                while not context.reports:
                    await asyncio.sleep(0.005)
            for _ in range(20):  # nothing calls anext after the first
                async with client.post("/trigger") as answer:
                    assert answer.status == 202
            assert len(await first) >= 1


async def test_unsettled_events_are_delivered_again_with_the_same_id_and_position(tmp_path: Path) -> None:
    async with gateway() as server:
        async with Store.open(tmp_path / "store.db") as store:
            async with running(server, inbox=store.inbox("uid"), answer="accepted") as it:
                for number in range(5):
                    assert (await it.post(data=b"%d" % number))[0] == 202
                first = list(await it.until_taken(5))
                await first[1].settle(Outcome("delivered"))
                await first[3].settle(Outcome("deadLettered", "AttemptsExhausted"))
                await first[4].settle(Outcome("returned", "Stopping"))
        async with Store.open(tmp_path / "store.db") as store:
            async with running(server, inbox=store.inbox("uid"), answer="accepted") as it:
                again = await it.until_taken(3)
                assert [(d.position, d.event) for d in again] == [
                    (d.position, d.event) for d in (*first[:1], first[2], first[4])
                ]
                await again[0].settle(Outcome("delivered"))
                assert await store.inbox("uid").count() == 2


async def test_an_event_that_is_given_back_is_handed_out_again(tmp_path: Path) -> None:
    async with Store.open(tmp_path / "store.db") as store, gateway() as server:
        async with running(server, inbox=store.inbox("uid"), answer="accepted") as it:
            await it.post(data=b"one")
            (delivery,) = await it.until_taken(1)
            await delivery.settle(Outcome("returned", "Stopping"))
            again = await it.until_taken(2)
            assert again[1].position == delivery.position


async def test_a_full_backlog_answers_503_until_there_is_room(tmp_path: Path) -> None:
    async with Store.open(tmp_path / "store.db") as store, gateway() as server:
        async with running(server, inbox=store.inbox("uid"), answer="accepted", maxBacklog=3) as it:
            for _ in range(3):
                assert (await it.post(data=b"x"))[0] == 202
            status, body, headers = await it.post(data=b"x")
            assert (status, headers["retry-after"]) == (503, "5")
            assert b"too many events wait" in body
            (delivery, *_) = await it.until_taken(3)
            await delivery.settle(Outcome("delivered"))
            assert (await it.post(data=b"x"))[0] == 202


async def test_a_store_that_cannot_be_written_answers_503_and_never_202(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trigger_sources.http.source._STORE_SECONDS", 0.3)
    async with gateway() as server:
        async with Store.open(tmp_path / "store.db") as store:
            inbox = store.inbox("uid")
            async with running(server, inbox=inbox, answer="accepted", room=0) as it:
                await store.run(lambda connection: connection.execute("DROP TABLE inbox").rowcount)
                status, body, _ = await it.post(data=b"x")
                assert (status, b"could not be kept" in body) == (503, True)


async def test_events_that_were_answered_with_202_survive_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    program = f"""
    import asyncio
    from trigger_sources.http.gateway import Gateway
    from trigger_sources.http import HTTPTrigger
    from trigger_sources.stores.sqlite import Store
    from trigger_sources.testing import StandInContext

    async def main():
        gateway = Gateway()
        await gateway.start("127.0.0.1", 0)
        async with Store.open({str(path)!r}) as store:
            trigger = HTTPTrigger.model_validate({{"function": "f", "answer": "accepted"}})
            context = StandInContext(gateway=gateway, inbox_=store.inbox("uid"))
            context.report = lambda **_: print(gateway.port, flush=True)
            async for deliveries in trigger.deliveries(context):
                pass  # nothing is ever settled

    asyncio.run(main())
    """
    accepted: set[bytes] = set()
    for round_ in range(3):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", textwrap.dedent(program), stdout=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            port = int(await asyncio.wait_for(process.stdout.readline(), 20))

            async def post(worker: int, client: aiohttp.ClientSession, round_: int = round_) -> None:
                number = 0
                while True:
                    number += 1
                    body = b"%d/%d/%d" % (round_, worker, number)
                    try:
                        async with client.post("/trigger", data=body) as answer:
                            assert answer.status == 202
                            accepted.add(body)
                    except (aiohttp.ClientError, OSError):
                        return

            goal = len(accepted) + 150
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
                posting = [asyncio.create_task(post(worker, client)) for worker in range(8)]
                async with asyncio.timeout(20):
                    while len(accepted) < goal:
                        await asyncio.sleep(0.005)
                process.kill()
                await asyncio.gather(*posting)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    async with Store.open(path) as store:
        kept = {kept.record.partition(b"\n")[2] for kept in await store.inbox("uid").take(1_000_000, 0)}
    assert len(accepted) >= 450
    assert accepted <= kept


def test_everything_works_on_uvloop_too(tmp_path: Path) -> None:
    import uvloop

    async def main() -> None:
        await test_a_request_is_delivered_unchanged_and_its_caller_gets_the_functions_answer()
        await test_a_caller_that_leaves_withdraws_its_request_and_a_late_settle_does_no_harm()
        await test_accepting_goes_on_while_there_is_no_room(tmp_path)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
