"""A backlog of large messages: the server never has to cut the connection, and no message is too large to come."""

import asyncio

import pytest
from servers.nats import nats_server
from servers.nats_source import DONE, jetstream, reading, trigger

from trigger_sources.testing import StandInContext

MEBIBYTE = 1024 * 1024


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("size", "count", "ordering"), [(900_000, 150, "key"), (100_000, 900, "none")])
async def test_a_backlog_of_large_messages_comes_over_one_connection_without_a_cut(
    size: int, count: int, ordering: str
) -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s"])
        await js.publish("s", count, b"x" * size)
        context = StandInContext(room=2_000, limit=2_000)
        async with reading(trigger(server.url, subject="s", ordering=ordering), context) as reader:
            seen = 0
            async with asyncio.timeout(60):
                while seen < count:
                    found = await reader.next()
                    assert all(delivery.handed_out == 1 for delivery in found)
                    seen += len(found)
                    for delivery in found:
                        await delivery.settle(DONE)
            assert context.reports == [(True, "", "")]


@pytest.mark.timeout(120)
async def test_many_triggers_of_one_connection_share_the_bytes_that_may_be_under_way() -> None:
    async with nats_server() as server, jetstream(server.url) as js:
        await js.create("S", ["s"])
        await js.publish("s", 60, b"x" * 900_000)
        contexts = [StandInContext(name=f"t{number}", uid=f"u{number}", room=2_000) for number in range(6)]
        for context in contexts[1:]:
            context._shared = contexts[0]._shared
        spec = trigger(server.url, subject="s")
        await spec.connection(contexts[0])

        async def read(context: StandInContext) -> int:
            generator = spec.deliveries(context)
            seen = 0
            async with asyncio.timeout(60):
                async for found in generator:
                    for delivery in found:
                        await delivery.settle(DONE)
                    seen += len(found)
                    if seen >= 60:
                        break
            context.stopping.set()
            await generator.aclose()  # type: ignore[attr-defined]
            return seen

        assert await asyncio.gather(*map(read, contexts)) == [60] * 6
        assert all(reported == (True, "", "") for context in contexts for reported in context.reports)
        await contexts[0].close()


@pytest.mark.timeout(120)
async def test_messages_larger_than_the_server_tells_arrive() -> None:
    """Messages that were stored while the server allowed more than it tells its clients now."""
    async with nats_server(config="max_payload: 4MB") as server:
        async with jetstream(server.url) as js:
            await js.create("S", ["s"])
            await js.publish("s", 4, b"x" * 3 * MEBIBYTE)
        await server.stop()
        (server.folder / "server.conf").write_text("max_payload: 100KB")
        await server.start()
        async with reading(trigger(server.url, subject="s", ackWaitSeconds=5)) as reader:
            found = await reader.until(4)
            assert {len(delivery.event.data or b"") for delivery in found} == {3 * MEBIBYTE}
