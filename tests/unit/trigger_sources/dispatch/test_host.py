"""Connections that several triggers share."""

import asyncio

import pytest

from trigger_sources.dispatch.host import Shared


class Connections:
    def __init__(self) -> None:
        self.opened = 0
        self.closed = 0
        self.fails = False

    async def open(self) -> int:
        await asyncio.sleep(0)
        if self.fails:
            raise ConnectionError("refused")
        self.opened += 1
        return self.opened

    async def close(self, connection: int) -> None:
        self.closed += 1


async def test_one_connection_serves_all_and_closes_with_its_last_owner() -> None:
    shared, connections = Shared(), Connections()
    found = await asyncio.gather(*(shared.get(owner, "k", connections.open, connections.close) for owner in "abc"))
    assert found == [1, 1, 1]
    await shared.release("a")
    await shared.release("b")
    assert connections.closed == 0
    await shared.release("c")
    assert connections.closed == 1
    assert await shared.get("d", "k", connections.open, connections.close) == 2


async def test_a_connection_that_cannot_be_opened_fails_all_who_wait_and_is_tried_again_by_the_next() -> None:
    shared, connections = Shared(), Connections()
    connections.fails = True
    results = await asyncio.gather(
        *(shared.get(owner, "k", connections.open, connections.close) for owner in "ab"), return_exceptions=True
    )
    assert [type(result) for result in results] == [ConnectionError, ConnectionError]
    connections.fails = False
    assert await shared.get("a", "k", connections.open, connections.close) == 1


async def test_who_opens_may_be_cancelled_and_the_next_one_opens() -> None:
    shared, connections = Shared(), Connections()
    first = asyncio.create_task(shared.get("a", "k", connections.open, connections.close))
    second = asyncio.create_task(shared.get("b", "k", connections.open, connections.close))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await second == 1
