"""A core NATS subject: every request gets an answer, and messages that do not fit are lost with a number."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
from servers.fabric import fabric, manifest
from servers.nats import nats_server
from servers.scripted import Answer, Call, scripted

from trigger_sources.delivery import Answer as FunctionAnswer
from trigger_sources.delivery import AnswerRefused, Delivery, Outcome
from trigger_sources.events import Event
from trigger_sources.nats import NATSTrigger
from trigger_sources.nats.core import CoreSubscription
from trigger_sources.nats.reply import NATSReply
from trigger_sources.publisher import ReplyRefused
from trigger_sources.testing import StandInContext

CODE, ERROR = "Nats-Service-Error-Code", "Nats-Service-Error"


async def test_an_answer_that_is_too_large_is_an_error_for_the_sender_and_a_dropped_event(tmp_path: Path) -> None:
    async def decide(call: Call) -> Answer:
        status, _, size = call.body.decode().partition(" ")
        return int(status), {"content-type": "text/plain"}, b"x" * int(size)

    async with nats_server(jetstream=False) as server, scripted(decide) as target:
        spec = manifest("NATSTrigger", "ask", url=target.url, servers=[server.url], subject="ask", mode="core")
        async with fabric(tmp_path / "m", tmp_path / "s", manifests=[spec]) as running:
            connection = await nats.connect(server.url)
            async with asyncio.timeout(20):
                while (await running.trigger("ask"))["conditions"][0]["status"] != "True":
                    await asyncio.sleep(0.05)
            answer = await connection.request("ask", b"200 1000000", timeout=10)
            assert (len(answer.data), CODE in answer.headers) == (1_000_000, False)
            for size in (1_048_576, 2_000_000):  # the first one fits, but not with its headers
                refused = await connection.request("ask", b"200 %d" % size, timeout=10)
                assert (refused.data, refused.headers[CODE]) == (b"", "500")
                assert refused.headers[ERROR].startswith(f"AnswerTooLarge: the answer has {size} bytes")
            failed = await connection.request("ask", b"422 2000000", timeout=10)
            assert (failed.data, failed.headers[CODE]) == (b"", "422")
            async with asyncio.timeout(10):
                while (counters := (await running.trigger("ask"))["counters"])["deadLettered"] < 1:
                    await asyncio.sleep(0.05)
            assert (counters["delivered"], counters["dropped"]) == (1, 2)
            assert "answer not given" in running.log.read_text()
            assert "settle failed" not in running.log.read_text()
            await connection.close()


@asynccontextmanager
async def subscription(url: str, context: StandInContext) -> AsyncIterator[CoreSubscription]:
    spec = NATSTrigger.model_validate({"function": "f", "servers": [url], "subject": "s", "mode": "core"})
    found = CoreSubscription(spec, context)
    await found.start()
    yield found
    await found.close()
    await context.close()


@pytest.mark.parametrize(("size", "most", "more"), [(900_000, 37, 20), (10, 1_000, 2_000)])
async def test_messages_that_do_not_fit_are_reported_together_with_their_number(
    size: int, most: int, more: int
) -> None:
    began = time.monotonic()
    context = StandInContext(room=1_000_000, read_ahead_bytes=32 * 1024 * 1024)
    async with nats_server(jetstream=False) as server, subscription(server.url, context) as reading:
        connection = await nats.connect(server.url)
        for _ in range(most + more):
            await connection.publish("s", b"x" * size)
        await connection.close()
        async with asyncio.timeout(20):
            while sum(count for count, _ in context.lost) < more:
                await asyncio.sleep(0.05)
        assert len(await reading.read()) == most
    assert sum(count for count, _ in context.lost) == more
    assert len(context.lost) <= (time.monotonic() - began) / 5  # a slow machine takes longer to send them


async def test_losses_that_are_not_reported_yet_are_reported_when_it_stops() -> None:
    context = StandInContext(room=1_000_000)
    async with nats_server(jetstream=False) as server, subscription(server.url, context):
        connection = await nats.connect(server.url)
        for _ in range(1_500):
            await connection.publish("s", b"x")
        request = await connection.subscribe("done")
        await connection.flush()
        other = NATSTrigger.model_validate({"function": "f", "servers": [server.url], "subject": "s", "mode": "core"})
        shared = await other.connection(context)
        await shared.flush(5)  # the messages are here
        await request.unsubscribe()
        await connection.close()
    assert context.lost == [(500, "SlowConsumer"), (1_000, "Stopping")]


async def test_a_message_with_its_headers_may_be_as_large_as_the_server_takes_and_not_larger() -> None:
    """The server closes the connection of a client that sends more."""
    async with nats_server(jetstream=False) as server:
        context = StandInContext()
        publisher: Any = await NATSReply(subject="s", servers=[server.url]).open(context, {})
        spec = NATSTrigger.model_validate({"function": "f", "servers": [server.url], "subject": "s"})
        connection = await spec.connection(context)
        connection.listeners.add(lambda connected: pytest.fail("the connection was lost"))
        subscriber = await nats.connect(server.url)
        came = await subscriber.subscribe("s")
        await subscriber.flush()
        headers = {"name": "value", "other": "ü"}
        lines = len("NATS/1.0\r\nname: value\r\nother: ü\r\n\r\n".encode())
        largest = b"x" * (connection.client.max_payload - lines)
        most = connection.client.max_payload
        assert connection.excess(largest, headers) == ""
        assert connection.excess(largest + b"x", headers) == (
            f"it has {most + 1} bytes, and the server takes at most {most} (max_payload)"
        )
        await connection.client.publish("s", largest, headers=headers)
        await connection.flush(5)
        assert len((await came.next_msg(5)).data) == len(largest)
        with pytest.raises(ReplyRefused, match="max_payload"):
            await publisher.publish(Event("1", "/s", "t", b"x" * (connection.client.max_payload - 10)), None)
        connection.listeners.clear()
        await subscriber.close()
        await context.close()


async def test_a_failure_with_an_answer_that_is_too_large_leaves_the_outcome_as_it_is() -> None:
    context = StandInContext()
    async with nats_server(jetstream=False) as server, subscription(server.url, context) as reading:
        connection = await nats.connect(server.url)
        asking = asyncio.create_task(connection.request("s", b"1", timeout=10))
        deliveries: list[Delivery] = []
        while not deliveries:
            deliveries = await reading.read()
        large = FunctionAnswer(422, (), b"x" * 2_000_000)
        await deliveries[0].settle(Outcome("deadLettered", "PermanentAnswer", large))
        answer = await asking
        assert (answer.headers[CODE], answer.headers[ERROR]) == ("422", "PermanentAnswer")
        with pytest.raises(AnswerRefused):
            await deliveries[0].settle(Outcome("delivered", "", large))
        await connection.close()
