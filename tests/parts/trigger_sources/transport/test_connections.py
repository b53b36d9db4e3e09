"""Connections to functions: one function cannot take them all from the others, and each gets one in any case."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from trigger_sources.budget import Budget
from trigger_sources.descriptors import function_connections, most_files, raise_limit
from trigger_sources.transport.client import Endpoint, Unreachable


class Slow:
    """A function that answers nothing until it is told to."""

    def __init__(self) -> None:
        self.go, self.open, self.most, self.port = asyncio.Event(), 0, 0, 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await self.go.wait()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()


@asynccontextmanager
async def slow() -> AsyncIterator[Slow]:
    found = Slow()
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    async with server:
        yield found


@asynccontextmanager
async def endpoint(port: int, connections: Budget) -> AsyncIterator[Endpoint]:
    found = Endpoint(f"http://127.0.0.1:{port}", connections=connections)
    try:
        yield found
    finally:
        await found.close()


async def call(to: Endpoint) -> int:
    return (await to.send(b"GET", b"/", b"", b"", timeout_seconds=60)).status


async def test_a_slow_function_with_many_calls_leaves_connections_to_the_others() -> None:
    budget = Budget(40)
    async with (
        slow() as busy,
        slow() as quick,
        endpoint(busy.port, budget) as hungry,
        endpoint(quick.port, budget) as bystander,
    ):
        quick.go.set()
        calls = [asyncio.create_task(call(hungry)) for _ in range(100)]
        async with asyncio.timeout(30):
            while busy.open < 20:  # its own part, and half of the shared one
                await asyncio.sleep(0.01)
            assert await asyncio.gather(*(call(bystander) for _ in range(30))) == [200] * 30
            assert budget.used <= budget.limit
            busy.go.set()
            assert await asyncio.gather(*calls) == [200] * 100, "those without a connection waited for one"
        assert 20 <= busy.most <= 30


async def test_calls_that_wait_get_connections_once_other_functions_leave_them() -> None:
    budget = Budget(40)
    async with slow() as crowded, slow() as late, endpoint(late.port, budget) as latecomer:
        hungry = [Endpoint(f"http://127.0.0.1:{crowded.port}", connections=budget) for _ in range(8)]
        calls = [asyncio.create_task(call(to)) for to in hungry for _ in range(20)]
        async with asyncio.timeout(30):
            while crowded.open < budget.used or budget.used < 30:
                await asyncio.sleep(0.01)
            waiting = [asyncio.create_task(call(latecomer)) for _ in range(10)]
            while late.open < 1:
                await asyncio.sleep(0.01)
            assert late.open < 10
            crowded.go.set()
            await asyncio.gather(*calls)
            for to in hungry:
                await to.close()
            while late.open < 10:  # none of its own calls has ended
                await asyncio.sleep(0.01)
            late.go.set()
            assert await asyncio.gather(*waiting) == [200] * 10


async def test_open_connections_are_counted_as_soon_as_they_are_open() -> None:
    budget = Budget(1000)
    async with slow() as function, endpoint(function.port, budget) as to:
        function.go.set()
        assert await call(to) == 200
        assert (function.open, budget.used) == (1, 1)


async def test_callers_of_a_server_that_is_known_and_not_heard_of_try_again_ever_more_rarely() -> None:
    tries = 0

    async def count(host: str) -> list[str]:
        nonlocal tries
        tries += 1
        raise OSError("no such host")

    to = Endpoint("http://f.invalid:80", connect_timeout_seconds=1.5, resolve=count, serves=lambda: True)
    with pytest.raises(Unreachable, match=r"within 1\.5 s: no such host"):
        await call(to)
    await to.close()
    assert 2 <= tries <= 6


async def test_each_of_very_many_functions_gets_one_connection() -> None:
    budget = Budget(4)
    async with slow() as function:
        function.go.set()
        endpoints = [Endpoint(f"http://127.0.0.1:{function.port}", connections=budget) for _ in range(12)]
        async with asyncio.timeout(30):
            for _ in range(3):
                assert await asyncio.gather(*(call(to) for to in endpoints for _ in range(2))) == [200] * 24
        for to in endpoints:
            await to.close()
        async with asyncio.timeout(30):
            while budget.used:
                await asyncio.sleep(0.01)


def test_the_limit_follows_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [(1024, 4096)]
    monkeypatch.setattr("resource.getrlimit", lambda which: limits[-1])
    monkeypatch.setattr("resource.setrlimit", lambda which, limit: limits.append(limit))
    assert most_files() == 1024
    raise_limit()
    assert most_files() == 4096
    assert function_connections.__wrapped__().limit == 2048
    raise_limit()
    assert len(limits) == 2, "it is raised once"
