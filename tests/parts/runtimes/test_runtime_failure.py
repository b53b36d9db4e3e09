"""A failed call tells the fabric, and only the fabric, why it failed."""

import asyncio

import aiohttp
import pytest
from servers.function import function

BROKEN = """
import time

class Refused(Exception):
    status = 422

def price(order):
    return order["kind"]

def handler(event, context):
    what = event["data"]["what"]
    if what == "raise":
        price({})
    if what == "refuse":
        raise Refused("an order needs an item")
    if what == "spin":
        while True:
            pass
    if what == "set":
        return {1}
    if what == "stream":
        def parts():
            raise ValueError("no first part")
            yield ""
        return parts()
    return what
"""


async def why(url: str, body: bytes, **headers: str) -> tuple[int, str | None]:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=body, headers={"content-type": "application/json", **names}) as answer,
    ):
        await answer.read()
        return answer.status, answer.headers.get("kubeirq-error")


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b'{"what": "raise"}', 500, "KeyError: 'kind' (f.py:8 in price)"),
        (b'{"what": "refuse"}', 422, "Refused: an order needs an item (f.py:15 in handler)"),
        (b'{"what": "set"}', 500, "the handler returned a set; an answer is"),
        (b'{"what": "stream"}', 500, "ValueError: no first part (f.py:23 in parts)"),
        (b'{"what": "spin"}', 408, "the handler took more than 0.5 s (f.py:1"),
        (b"{}", 500, "KeyError: 'what' (f.py:11 in handler)"),
    ],
)
@pytest.mark.parametrize("concurrency", ["1", "2"])
async def test_a_failure_tells_the_fabric_why(body: bytes, status: int, reason: str, concurrency: str) -> None:
    if status == 408 and concurrency == "2":
        reason = "the handler took more than 0.5 s"  # of a thread that goes on, nothing more is known
    async with function(BROKEN, FUNC_TIMEOUT="0.5", FUNC_CONCURRENCY=concurrency) as found:
        answered, told = await why(found.url, body, kubeirq_attempt="1")
        assert answered == status
        assert told is not None
        assert told.startswith(reason)


async def test_a_caller_that_is_not_the_fabric_gets_no_reason() -> None:
    async with function(BROKEN) as found:
        assert await why(found.url, b'{"what": "raise"}') == (500, None)


async def test_a_function_may_keep_its_reasons() -> None:
    async with function(BROKEN, FUNC_FAILURE_DETAIL="0") as found:
        assert await why(found.url, b'{"what": "raise"}', kubeirq_attempt="1") == (500, None)


async def test_success_has_no_reason() -> None:
    async with function(BROKEN) as found:
        assert await why(found.url, b'{"what": "x"}', kubeirq_attempt="1") == (200, None)


LEFT = """
import asyncio, time

def rest(seconds):
    time.sleep(seconds)

def handler(event, context):
    rest(20)
"""
LEFT_ASYNC = """
import asyncio

async def handler(event, context):
    await asyncio.sleep(20)
"""


@pytest.mark.parametrize(
    ("source", "concurrency", "place"),
    [(LEFT, "1", " (f.py:5 in rest)"), (LEFT, "2", ""), (LEFT_ASYNC, "2", " (f.py:5 in handler)")],
)
async def test_a_handler_that_runs_on_after_the_trigger_stopped_waiting_is_in_the_log(
    source: str, concurrency: str, place: str
) -> None:
    """A trigger's time-out is often shorter than the function's: the log says meanwhile where the handler is."""
    async with function(source, FUNC_TIMEOUT="20", FUNC_CONCURRENCY=concurrency) as found:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.5)) as session:
            with pytest.raises(TimeoutError):
                await session.post(found.url, data=b"{}", headers={"kubeirq-attempt": "1"})
        async with asyncio.timeout(10):
            while "the trigger waits no longer" not in found.output():
                await asyncio.sleep(0.05)
        (line,) = [line for line in found.output().splitlines() if "the trigger waits" in line]
        assert line.endswith(f" s; the handler still runs{place}")


async def test_a_client_that_sends_no_more_and_waits_for_its_answer_is_not_in_the_log() -> None:
    async with function(LEFT.replace("rest(20)", "rest(1.5)")) as found:
        reader, writer = await asyncio.open_connection("127.0.0.1", found.port)
        writer.write(b"POST / HTTP/1.1\r\nhost: f\r\ncontent-length: 2\r\n\r\n{}")
        writer.write_eof()
        assert (await reader.read()).startswith(b"HTTP/1.1 2")
        writer.close()
        assert "waits no longer" not in found.output()
