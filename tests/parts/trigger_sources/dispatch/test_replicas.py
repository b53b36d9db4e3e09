"""A function's replicas come and go behind one address, as on a cluster: its callers notice nothing."""

import asyncio
import random
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from servers.function import Function, function
from servers.ledger import Books, clean, judge
from servers.relay import relay
from servers.scripted import scripted

from trigger_sources.transport.client import Endpoint

# Writes each call down as the last thing that it does
WRITES = """
import asyncio, os

calls = os.open(os.environ["CALLS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


async def handler(event, context):
    await asyncio.sleep(0.002)
    os.write(calls, event["event-id"].encode() + b"\\n")
"""
CALLERS = 32
REPLACEMENTS = 4


class Load:
    """Callers that call one address, each as soon as it has its answer or after a pause at random."""

    def __init__(self, endpoints: Sequence[Endpoint], pause_seconds: float) -> None:
        self.endpoints = endpoints
        self.pause_seconds = pause_seconds
        self.answered: list[bytes] = []
        self.failed: list[str] = []
        self.running = True

    async def call(self, caller: int) -> None:
        dice = random.Random(caller)
        endpoint = self.endpoints[caller % len(self.endpoints)]
        number = 0
        while self.running:
            number += 1
            id = b"%d-%d" % (caller, number)
            headers = b"ce-specversion: 1.0\r\nce-type: t\r\nce-source: /s\r\nce-id: %b\r\n" % id
            try:
                answer = await endpoint.send(b"POST", b"/", headers, b"{}", timeout_seconds=10)
            except Exception as error:
                self.failed.append(f"{id!r}: {error!r}")
            else:
                if answer.status in (200, 204):
                    self.answered.append(id)
                else:
                    self.failed.append(f"{id!r}: {answer}")
            await asyncio.sleep(dice.random() * self.pause_seconds)

    async def until(self, calls: int) -> None:
        """Returns after so many further calls."""
        enough = len(self.answered) + calls
        async with asyncio.timeout(20):
            while len(self.answered) < enough and not self.failed:
                await asyncio.sleep(0.005)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("processes", "pause_seconds", "delay_seconds"),
    [(1, 0, 0), (CALLERS, 0.15, 0.01)],
    ids=["busy connections", "idle ones, used while word of their end is on its way"],
)
async def test_a_replica_that_is_replaced_in_good_order_costs_no_request_and_no_attempt(
    tmp_path: Path, processes: int, pause_seconds: float, delay_seconds: float
) -> None:
    environment = {"CALLS": str(tmp_path / "calls"), "FUNC_CONCURRENCY": "16", "FUNC_GRACE": "10"}
    async with AsyncExitStack() as stack:
        old: Function = await stack.enter_async_context(function(WRITES, **environment))
        service = await stack.enter_async_context(relay(old.port, delay_seconds=delay_seconds))
        endpoints = [Endpoint(service.url) for _ in range(processes)]
        load = Load(endpoints, pause_seconds)
        callers = [asyncio.create_task(load.call(number)) for number in range(CALLERS)]
        try:
            for _ in range(REPLACEMENTS):
                await load.until(200)
                new = await stack.enter_async_context(function(WRITES, **environment))
                service.targets = [new.port]  # and at once, where a pod would still wait for everyone to hear of it:
                assert await old.stop() == 0
                old = new
            await load.until(200)
        finally:
            load.running = False
            await asyncio.gather(*callers)
            await asyncio.gather(*(endpoint.close() for endpoint in endpoints))
    assert load.failed == []
    found = judge(Books(dict.fromkeys(load.answered), (tmp_path / "calls").read_bytes().split()))
    assert str(found) == clean(len(load.answered)), found.breaches


async def test_a_new_replica_gets_its_share_within_the_age_of_a_connection() -> None:
    async with scripted() as old, scripted() as new, relay(old.port) as service:
        endpoint = Endpoint(service.url, max_age_seconds=0.5)
        load = Load([endpoint], 0.001)
        callers = [asyncio.create_task(load.call(number)) for number in range(CALLERS)]
        try:
            await load.until(200)
            assert service.connections <= CALLERS
            service.targets = [old.port, new.port]
            async with asyncio.timeout(5):
                while not new.calls:
                    await asyncio.sleep(0.005)
            before = service.connections
            await load.until(200)
            assert service.connections - before <= 3 * CALLERS, "connections are kept all the same"
        finally:
            load.running = False
            await asyncio.gather(*callers)
            await endpoint.close()
        assert load.failed == []
