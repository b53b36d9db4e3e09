"""A forbidden address is never connected to, in whichever form it is written or a name resolves to it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path

import pytest

from trigger_sources.cron.source import CronTrigger
from trigger_sources.dispatch.flows import Flows, TriggerResource
from trigger_sources.dispatch.gate import Gate
from trigger_sources.dispatch.host import LocalHost
from trigger_sources.dispatch.status import Condition
from trigger_sources.http.gateway import Gateway
from trigger_sources.stores.sqlite import Store
from trigger_sources.transport.client import Endpoint, Unreachable
from trigger_sources.transport.egress_policy import Reach
from trigger_sources.transport.resolver import resolver

LOOPBACK = ip_network("127.0.0.0/8")
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Listener:
    """Counts who connects, and answers."""

    def __init__(self) -> None:
        self.connects = 0
        self.port = 0
        self.tasks: set[asyncio.Task[None] | None] = set()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connects += 1
        self.tasks.add(asyncio.current_task())
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await reader.read()
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def listener() -> AsyncIterator[Listener]:
    found = Listener()
    server = await asyncio.start_server(found.connected, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()
        async with asyncio.timeout(5):
            await asyncio.gather(*(task for task in found.tasks if task is not None))


async def called(url: str, reach: Reach, answer: Sequence[str] = ()) -> None:
    """`answer` is what DNS says of the host."""

    async def lookup(name: str) -> tuple[str, Sequence[str]]:
        return name, answer

    endpoint = Endpoint(url, resolve=resolver(reach, "shop", lookup))
    try:
        await endpoint.send(b"GET", b"/", b"", b"", timeout_seconds=5)
    finally:
        await endpoint.close()


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "0", "0.0.0.0", "localhost", "[::ffff:127.0.0.1]", "[::]"],
)
async def test_no_form_of_a_loopback_address_is_connected_to(host: str) -> None:
    async with listener() as it:
        with pytest.raises(Unreachable, match=r"address.*; call a Service of the trigger's own namespace or a public"):
            await called(f"http://{host}:{it.port}/", Reach())
        await asyncio.sleep(0)
        assert it.connects == 0


async def test_a_name_that_is_rebound_to_loopback_is_not_connected_to_and_where_that_is_allowed_it_is() -> None:
    async with listener() as it:
        url = f"http://rebound.example:{it.port}/"
        with pytest.raises(Unreachable, match=r"'rebound\.example' is 127\.0\.0\.1: a loopback address"):
            await called(url, Reach(), ["127.0.0.1"])
        assert it.connects == 0
        await called(url, Reach(networks=(LOOPBACK,)), ["127.0.0.1"])
        await called(url, Reach(names=("rebound.example",)), ["127.0.0.1"])
        assert it.connects == 2


async def test_the_next_address_is_tried_where_the_first_refuses() -> None:
    async with listener() as it:
        await called(f"http://two.example:{it.port}/", Reach(networks=(LOOPBACK,)), ["127.0.0.9", "127.0.0.1"])
        assert it.connects == 1


async def test_a_trigger_that_calls_out_of_reach_holds_its_events_and_says_why(tmp_path: Path) -> None:
    def no_secrets(namespace: str, reference: object) -> str:
        raise AssertionError(reference)

    def no_function(namespace: str, name: str) -> Gate:
        raise AssertionError(name)

    async with listener() as it, Store.open(tmp_path / "store.db") as store:
        host = LocalHost(replica="r", store=store, gateway=Gateway(), secrets=no_secrets, defaults={}, reach=Reach())
        flows = Flows(host, no_function)
        spec = CronTrigger.model_validate({"schedule": "* * * * * *", "url": f"http://127.0.0.1:{it.port}/"})
        await flows.apply({("uid", "f"): TriggerResource("CronTrigger", "shop", "tick", spec, "uid")}, 1)
        try:
            async with asyncio.timeout(20):
                delivering = delivering_of(flows)
                while delivering.reason != "FunctionDown":
                    await asyncio.sleep(0.05)
                    delivering = delivering_of(flows)
            assert "'127.0.0.1': a loopback address; call a Service" in delivering.message
            assert it.connects == 0
        finally:
            await flows.stop(1)


def delivering_of(flows: Flows) -> Condition:
    (running,) = flows.of("uid")
    return next(found for found in running.flow.status().conditions if found.type == "Delivering")
