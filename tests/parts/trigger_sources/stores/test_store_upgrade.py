"""The present store of a cluster goes on with the recorded streams of version 0.1.0."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from servers.nats import NATSServer
from servers.ports import free_port
from servers.recorded import extract

from trigger_sources.delivery import Attempt, HttpRequest, Outcome
from trigger_sources.http.events import from_record
from trigger_sources.inbox import Kept
from trigger_sources.stores.jetstream import JetStreamStore

UID = "uid-of-cluster"
REQUEST = HttpRequest("PUT", "/orders/7?n=1", (("content-type", "application/x-any"),), {"id": "7"})


@asynccontextmanager
async def recorded_server(folder: Path) -> AsyncIterator[NATSServer]:
    """The NATS server of the recorded machine: a crash ended it while a store of version 0.1.0 used it."""
    store = str(extract(folder).state / "nats")
    server = NATSServer(folder, free_port(), ("--jetstream", "--store_dir", store))
    await server.start()
    try:
        yield server
    finally:
        if server.process is not None and server.process.returncode is None:
            await server.kill()


async def test_accepted_events_of_version_0_1_0_come_in_order_and_settled_ones_do_not(tmp_path: Path) -> None:
    async with (
        recorded_server(tmp_path) as server,
        JetStreamStore.open([server.url], replica="new", ack_wait_seconds=2.0) as store,
    ):
        inbox = store.inbox(UID)
        await inbox.prepare()
        assert await inbox.count() == 7
        found: list[Kept] = []
        while len(found) < 7:
            found += await inbox.take(7 - len(found), 1.0, in_order=True)
        read = [from_record(kept.record) for kept in found]
        assert [event.id for event, _ in read] == [f"id-{number}" for number in range(1, 8)]
        assert read[1][0].data == b"refuse \x00\xff\xfe"
        assert {event.extensions["partitionkey"] for event, _ in read} == {"b", "c", "d", "e", "f"}
        assert all(request == REQUEST for _, request in read)
        for kept in found:
            await kept.settle(Outcome("delivered"))
        async with asyncio.timeout(10):  # the server has the last acknowledgement a moment later
            while await inbox.count() > 0:
                await asyncio.sleep(0.02)


async def test_dead_letters_of_version_0_1_0_are_whole_are_replaced_and_removed(tmp_path: Path) -> None:
    async with recorded_server(tmp_path) as server, JetStreamStore.open([server.url], replica="new") as store:
        letters = store.dead_letters(UID, "rec")
        await letters.prepare()
        found = [letter async for letter in letters.letters()]
        assert [(letter.position, letter.event.id) for letter in found] == [
            ("p@1", "id-1"),
            ("p@2", "id-2"),
            ("p@6", "id-6"),
        ]
        assert found[1].event.data == b"refuse \x00\xff\xfe"
        assert all(letter.request == REQUEST for letter in found)
        assert found[0].attempts == (Attempt(1.0, 0.1, 400, "", b"no \xff"),)
        assert (found[2].key, found[2].reason, found[2].failed_at) == (b"e", "PermanentAnswer", 1.5)
        await letters.write(replace(found[0], redriven=1))
        assert await letters.count() == 3
        await letters.remove(found[1])
        left = [(letter.position, letter.redriven) async for letter in letters.letters()]
        assert left == [("p@6", 0), ("p@1", 1)]
