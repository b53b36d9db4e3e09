"""A function that is asked to stop answers every request that its clients send before they learn of it."""

import asyncio
import time

import aiohttp
import pytest
from servers.function import Function, function

SOURCE = """
def handler(event, context):
    return {"answered": event["data"]}
"""
BODY = b'"x"'
REQUEST = (
    b"POST / HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY
)
ANSWER = b'{"answered":"x"}'


async def ask(found: Function) -> bytes:
    """The body of the answer to a request on a new connection. Raises ClientError without an answer."""
    async with aiohttp.ClientSession() as session, session.post(found.url, json="x") as answer:
        assert answer.status == 200
        return await answer.read()


async def test_the_first_request_of_a_connection_is_answered_though_it_comes_late() -> None:
    async with function(SOURCE) as found:
        connections = [await asyncio.open_connection("127.0.0.1", found.port) for _ in range(10)]
        stopping = asyncio.create_task(found.stop())
        await asyncio.sleep(1)  # a busy client sends this long after it has connected
        for reader, writer in connections:
            writer.write(REQUEST)
            assert (await reader.read()).endswith(ANSWER)
            writer.close()
        assert await stopping == 0


async def test_an_idle_connection_is_closed_when_no_more_requests_come() -> None:
    async with function(SOURCE) as found:
        reader, writer = await asyncio.open_connection("127.0.0.1", found.port)
        writer.write(REQUEST)
        await reader.readuntil(ANSWER)
        stopping = asyncio.create_task(found.stop())
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        writer.close()
        assert await stopping == 0


async def test_a_kept_connection_gets_an_answer_that_closes_it() -> None:
    async with function(SOURCE) as found:
        connections = [await asyncio.open_connection("127.0.0.1", found.port) for _ in range(10)]
        for reader, writer in connections:
            writer.write(REQUEST)
            await reader.readuntil(ANSWER)
        stopping = asyncio.create_task(found.stop())
        await asyncio.sleep(0.3)  # a busy client reads this long after it was told that the connection ends
        for reader, writer in connections:
            writer.write(REQUEST)
            answer = await reader.read()
            assert b"connection: close" in answer
            assert answer.endswith(ANSWER)
            writer.close()
        assert await stopping == 0


async def test_requests_that_come_after_the_signal_are_answered() -> None:
    async with function(SOURCE) as found:
        stopping = asyncio.create_task(found.stop())
        until = time.monotonic() + 3  # as from clients that learn late that the endpoint is gone
        while time.monotonic() < until:
            assert await ask(found) == ANSWER
        assert await stopping == 0


async def test_requests_without_end_do_not_keep_a_function_from_stopping() -> None:
    async with function(SOURCE, FUNC_GRACE="2") as found:
        stopping = asyncio.create_task(found.stop())
        async with asyncio.timeout(10):
            with pytest.raises(aiohttp.ClientError):
                while True:
                    assert await ask(found) == ANSWER
        assert await stopping == 0
