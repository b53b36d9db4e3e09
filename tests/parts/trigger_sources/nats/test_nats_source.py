"""The NATS source on a real server: messages are acknowledged after they are settled, and return after a crash."""

import asyncio
from pathlib import Path
from typing import Any

import nats
import pytest
from servers.fabric import fabric, manifest
from servers.function import function
from servers.nats import nats_server
from servers.relay import relay

from trigger_sources.dead_letters import DeadLetter
from trigger_sources.delivery import Delivery, Outcome
from trigger_sources.nats import NATSTrigger
from trigger_sources.source import SourceError
from trigger_sources.testing import StandInContext

DONE = Outcome("delivered")


def trigger(url: str, **spec: Any) -> NATSTrigger:
    return NATSTrigger.model_validate(
        {"function": "f", "servers": [url], "subject": "orders", "createStream": True, **spec}
    )


async def publish(url: str, count: int, subject: str = "orders") -> None:
    connection = await nats.connect(url)
    for number in range(count):
        await connection.jetstream().publish(subject, b"%d" % number)
    await connection.close()


async def take(generator: Any, count: int) -> list[Delivery]:
    found: list[Delivery] = []
    async with asyncio.timeout(10):
        while len(found) < count:
            found += await anext(generator)
    return found


async def test_after_a_crash_unsettled_messages_return_with_the_same_position_and_settled_ones_do_not() -> None:
    async with nats_server() as server:
        context = StandInContext()
        spec = trigger(server.url, ackWaitSeconds=1)
        await spec.prepare(context)
        await publish(server.url, 10)
        first = spec.deliveries(context)
        taken = await take(first, 10)
        for delivery in taken[:4]:
            await delivery.settle(DONE)
        await first.aclose()  # type: ignore[attr-defined]
        again = spec.deliveries(context)
        returned = await take(again, 6)
        assert {delivery.position for delivery in returned} == {delivery.position for delivery in taken[4:]}
        assert {delivery.event.id for delivery in returned} == {delivery.event.id for delivery in taken[4:]}
        assert all(delivery.handed_out == 2 for delivery in returned)
        await again.aclose()  # type: ignore[attr-defined]
        await context.close()


async def test_the_source_takes_no_more_than_there_is_room_for_and_returned_messages_come_again_at_once() -> None:
    async with nats_server() as server:
        context = StandInContext(room=5)
        spec = trigger(server.url)
        await spec.prepare(context)
        await publish(server.url, 30)
        generator = spec.deliveries(context)
        taken = await take(generator, 5)
        assert len(taken) == 5
        for delivery in taken:
            await delivery.settle(Outcome("returned"))
        again = await take(generator, 5)
        assert len(again) <= 5
        await generator.aclose()  # type: ignore[attr-defined]
        await context.close()


async def test_a_held_message_is_extended_past_its_deadline() -> None:
    async with nats_server() as server:
        context = StandInContext()
        spec = trigger(server.url, ackWaitSeconds=1)
        await spec.prepare(context)
        await publish(server.url, 1)
        generator = spec.deliveries(context)
        (held,) = await take(generator, 1)
        assert held.extend is not None
        for _ in range(6):
            await held.extend()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.4):
                    await anext(generator)
            generator = spec.deliveries(context)
        await held.extend()
        await generator.aclose()  # type: ignore[attr-defined]
        await context.close()


async def test_a_recreated_stream_has_different_positions() -> None:
    async with nats_server() as server:
        positions = []
        for _ in range(2):
            context = StandInContext()
            spec = trigger(server.url, stream="S")
            await spec.prepare(context)
            await publish(server.url, 1)
            generator = spec.deliveries(context)
            positions += [delivery.position for delivery in await take(generator, 1)]
            await generator.aclose()  # type: ignore[attr-defined]
            await context.close()
            connection = await nats.connect(server.url)
            await connection.jetstream().delete_stream("S")
            await connection.close()
        assert len(set(positions)) == 2


async def test_a_wrong_token_is_reported() -> None:
    async with nats_server(config="authorization { token: right }") as server:
        context = StandInContext(secrets={("nats", "token"): "wrong"})
        spec = trigger(server.url, security={"token": {"name": "nats", "key": "token"}})
        with pytest.raises(SourceError, match=r"(?i)authorization") as caught:
            await spec.prepare(context)
        assert caught.value.reason == "Unauthorized"


async def test_a_refused_login_stays_reported_while_the_server_only_drops_later_attempts() -> None:
    attempts = 0

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            writer.write(b'INFO {"server_id":"one","version":"2.12.0","max_payload":1048576,"auth_required":true}\r\n')
            await reader.readline()
            writer.write(b"-ERR 'Authorization Violation'\r\n")
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1") as server:
        spec = trigger(f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with pytest.raises(SourceError, match="Authorization") as caught:
            await spec.prepare(StandInContext())
    assert caught.value.reason == "Unauthorized"
    assert attempts > 1


async def test_dead_letters_keep_every_byte_and_are_replaced_and_removed() -> None:
    async with nats_server() as server:
        context = StandInContext()
        spec = trigger(server.url)
        await spec.prepare(context)
        await publish(server.url, 1)
        generator = spec.deliveries(context)
        (delivery,) = await take(generator, 1)
        await generator.aclose()  # type: ignore[attr-defined]
        letters = spec.dead_letters(context)
        assert letters is not None
        await letters.prepare()
        letter = DeadLetter(
            "default/trigger", "default", "trigger", "function", "p/1", delivery.event, "R", "m", 1.0, b"\xff\x00"
        )
        await letters.write(letter)
        await letters.write(letter)
        assert [found async for found in letters.letters()] == [letter]
        await letters.remove(letter)
        assert [found async for found in letters.letters()] == []
        await context.close()


async def test_a_request_is_answered_by_the_function(tmp_path: Path) -> None:
    source = """
def handler(event, context):
    if event["data"] == "fail":
        return "no", 422
    return {"hello": event["data"]}
"""
    async with nats_server(jetstream=False) as server, function(source) as target:
        spec = manifest("NATSTrigger", "ask", url=target.url, servers=[server.url], subject="ask", mode="core")
        async with fabric(tmp_path / "m", tmp_path / "s", manifests=[spec]):
            connection = await nats.connect(server.url)
            async with asyncio.timeout(10):
                while True:
                    try:
                        answer = await connection.request("ask", b'"Ada"', timeout=2)
                        break
                    except nats.errors.NoRespondersError:
                        await asyncio.sleep(0.05)
            assert answer.data == b'{"hello":"Ada"}'
            failed = await connection.request("ask", b'"fail"', timeout=5)
            assert failed.headers["Nats-Service-Error-Code"] == "422"
            await connection.close()


async def test_an_ordered_trigger_gets_messages_of_a_crashed_fabric_before_newer_ones() -> None:
    async with nats_server() as server:
        spec = trigger(server.url, ackWaitSeconds=2, ordering="key")
        dead, successor = StandInContext(room=5), StandInContext()
        await spec.prepare(dead)
        await publish(server.url, 20)
        generator = spec.deliveries(dead)
        taken = await take(generator, 5)
        for delivery in taken[1:3]:
            await delivery.settle(DONE)
        await dead.close()  # closes only its connection, and gives nothing back
        await generator.aclose()  # type: ignore[attr-defined]
        generator = spec.deliveries(successor)
        found = await take(generator, 18)
        assert [delivery.event.data for delivery in found] == [b"%d" % n for n in (0, *range(3, 20))]
        await generator.aclose()  # type: ignore[attr-defined]
        await successor.close()


async def test_an_ordered_trigger_gets_messages_of_a_lost_connection_before_newer_ones() -> None:
    """The server sends a message that never arrives, because one direction of the connection has failed."""
    async with nats_server() as server, relay(server.port) as way:
        context = StandInContext(room=50)
        spec = trigger(f"nats://127.0.0.1:{way.port}", ackWaitSeconds=1, ordering="key")
        await spec.prepare(context)
        await publish(server.url, 5)
        generator = spec.deliveries(context)
        for delivery in await take(generator, 5):
            await delivery.settle(DONE)
        waiting = asyncio.ensure_future(take(generator, 20))
        connection = await nats.connect(server.url)
        for _ in range(3):
            way.swallows = True
            await publish(server.url, 5)
            async with asyncio.timeout(10):
                while not await handed_out(connection):
                    await asyncio.sleep(0.01)
            await way.cut()
            way.swallows = False
        await publish(server.url, 5)
        found = await asyncio.wait_for(waiting, 30)
        positions = [int((delivery.position or "").rpartition("/")[2]) for delivery in found]
        assert positions == list(range(6, 26))
        await connection.close()
        await generator.aclose()  # type: ignore[attr-defined]
        await context.close()


async def handed_out(connection: nats.NATS) -> int:
    """The number of messages that the server has sent and that are not acknowledged."""
    stream = await connection.jetstream().find_stream_name_by_subject("orders")
    (consumer,) = await connection.jetstream().consumers_info(stream)
    return consumer.num_ack_pending or 0
