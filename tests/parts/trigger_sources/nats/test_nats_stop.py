"""A trigger that stops gives everything back at once, and the server hands it out again at once."""

import asyncio
import time
from pathlib import Path

import pytest
from servers.fabric import fabric, manifest
from servers.function import function
from servers.nats import nats_server
from servers.nats_source import jetstream, later, reading, trigger

from trigger_sources.delivery import STOPPING, Outcome
from trigger_sources.stores.jetstream import JetStreamStore
from trigger_sources.testing import StandInContext

BUSY = """
def handler(event, context):
    return "later", 503
"""


@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_what_is_given_back_while_the_trigger_drains_is_there_again_at_once_and_counted_once(
    ordering: str,
) -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s.>"])
        await js.publish("s.1", 40)
        context = StandInContext()
        spec = trigger(server.url, subject="s.>", ordering=ordering)
        for round_ in range(1, 4):
            async with reading(spec, context) as reader:
                started = time.monotonic()
                taken = await reader.until(40, settle=False)
                assert time.monotonic() - started < 1
                assert {delivery.handed_out for delivery in taken} == {round_}
                pumping = asyncio.create_task(reader.next())  # the fabric's read is under way while it drains
                context.draining.set()
                for delivery in taken:
                    await delivery.settle(Outcome("returned", STOPPING))
                context.stopping.set()
                with pytest.raises(StopAsyncIteration):
                    await pumping
            context = later(context)


async def test_messages_that_the_generator_yielded_and_nobody_settled_go_back_when_it_stops() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s"])
        await js.publish("s", 10)
        context = StandInContext()
        async with reading(trigger(server.url, subject="s"), context) as reader:
            for delivery in (taken := await reader.until(10, settle=False))[:3]:
                await delivery.settle(Outcome("delivered"))
        await taken[5].settle(Outcome("returned", STOPPING))  # too late, and no error: it went back
        async with reading(trigger(server.url, subject="s"), later(context)) as reader:
            async with asyncio.timeout(1):
                again = await reader.until(7)
            assert {delivery.handed_out for delivery in again} == {2}


async def test_a_fabric_that_stops_gives_back_what_it_would_try_again_and_the_next_one_has_it_at_once(
    tmp_path: Path,
) -> None:
    async with nats_server() as server, function(BUSY) as target, jetstream(server.url) as js:
        await js.create("S", ["s.>"])
        await js.publish("s.1", 40)
        spec = manifest(
            "NATSTrigger", "stop", url=target.url, servers=[server.url], subject="s.>", durable="stop",
            ackWaitSeconds=600, delivery={"backoffSeconds": 60, "backoffMaxSeconds": 60, "holdAfter": None},
        )  # fmt: skip
        async with fabric(tmp_path / "m", tmp_path / "s", manifests=[spec]) as it:
            for round_ in range(1, 4):
                async with asyncio.timeout(20):
                    while (info := await js.consumer("S", "stop")).get("num_ack_pending") != 40:
                        await asyncio.sleep(0.02)
                assert info["delivered"]["consumer_seq"] <= 40 * round_
                await it.stop()
                await it.start()
                async with asyncio.timeout(40):  # and not after the server's deadline
                    while (await js.consumer("S", "stop"))["delivered"]["consumer_seq"] < 40 * (round_ + 1):
                        await asyncio.sleep(0.02)


async def test_the_inbox_gives_back_at_once_what_is_returned_while_its_trigger_stops() -> None:
    async with nats_server() as server:
        for round_ in range(1, 4):
            async with JetStreamStore.open([server.url], replica=f"r{round_}") as store:
                inbox = store.inbox("uid")
                await inbox.prepare()
                if round_ == 1:
                    await inbox.append_all([b"%d" % number for number in range(20)])
                taken = []
                async with asyncio.timeout(1):
                    while len(taken) < 20:
                        taken += await inbox.take(100, 0.5)
                assert {kept.handed_out for kept in taken} == {round_}
                reading_on = asyncio.create_task(inbox.take(100, 0.5))
                for kept in taken:
                    await kept.settle(Outcome("returned", STOPPING))
                assert await reading_on == []
                assert await inbox.take(100, 0.1) == []
                await inbox.give_back()
