"""Each way in which a handler can misbehave has its outcome, and the next request is answered."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import psutil
import pytest
from servers.function import Function, function

SOURCE = """
import os, time

def handler(event, context):
    what = event["data"]
    if what == "raise":
        raise ValueError("secret text")
    if what == "teapot":
        error = ValueError("no")
        error.status = 418
        raise error
    if what == "nonsense":
        return object()
    if what == "bad status":
        return "x", 999
    if what == "bad header":
        return "x", 200, {"a": "b\\r\\nc: d"}
    if what == "sleep":
        time.sleep(60)
    if what == "spin":
        while True:
            pass
    if what == "exit":
        os._exit(7)
    if what == "print":
        line = "y" * 1023
        for _ in range(100 * 1024):
            print(line)
    if what == "allocate":
        return str(len(bytearray(2 * 10**9)))
    return {"answered": what}
"""


@pytest.fixture
async def misbehaving() -> AsyncIterator[Function]:
    async with function(SOURCE, FUNC_TIMEOUT="1", FUNC_MEMORY_LIMIT="512Mi") as found:
        yield found


async def ask(found: Function, what: str) -> tuple[int, bytes] | None:
    """Status and body; None when the connection ended without an answer."""
    async with aiohttp.ClientSession() as session:
        try:
            async with session.post(found.url, json=what) as answer:
                return answer.status, await answer.read()
        except aiohttp.ServerDisconnectedError:
            return None
        except aiohttp.ClientOSError:
            return None


@pytest.mark.parametrize(
    ("what", "status"),
    [
        ("raise", 500),
        ("teapot", 418),
        ("nonsense", 500),
        ("bad status", 500),
        ("bad header", 500),
        ("sleep", 408),
        ("spin", 408),
        ("allocate", 500),
    ],
)
async def test_a_misbehaving_handler_has_its_documented_answer_and_the_next_request_is_answered(
    misbehaving: Function, what: str, status: int
) -> None:
    for _ in range(2):
        answer = await ask(misbehaving, what)
        assert answer is not None
        assert answer[0] == status
        assert b"secret" not in answer[1]
        assert await ask(misbehaving, "next") == (200, b'{"answered":"next"}')


async def test_a_handler_that_ends_its_process_loses_its_connection_only() -> None:
    async with function(SOURCE) as found:  # no short time-out, since a busy machine may delay the handler
        assert await ask(found, "exit") is None, found.output()
        assert await ask(found, "next") == (200, b'{"answered":"next"}'), found.output()
        assert "exit code 7" in found.output()


async def test_a_worker_that_ends_as_soon_as_it_is_ready_is_replaced() -> None:
    """On a busy machine the watchdog may get no processor between the moment that its worker is ready and the end."""
    source = f"""
import os, threading, time
from kubeirq_runtime.watchdog import Watchdog

waits = threading.Event()

def wait(self):
    waits.set()
    time.sleep(3600)

if not os.path.exists("second"):
    open("second", "w").close()
    Watchdog._stand_in = wait
    waits.wait()
{SOURCE}
"""
    async with function(source) as found:
        assert await ask(found, "exit") is None, found.output()
        assert await ask(found, "next") == (200, b'{"answered":"next"}'), found.output()
        assert "worker ended with exit code 7: starting another" in found.output()


async def test_printing_a_hundred_megabytes_costs_the_runtime_no_memory() -> None:
    async with function(SOURCE, FUNC_TIMEOUT="30") as found:
        before = sum(member.memory_info().rss for member in found.family())
        assert await ask(found, "print") == (200, b'{"answered":"print"}')
        assert await ask(found, "next") == (200, b'{"answered":"next"}')
        after = sum(member.memory_info().rss for member in found.family())
        assert after < before + 8_000_000


async def test_while_a_handler_spins_connections_are_not_refused_and_its_neighbours_are_answered_afterwards(
    misbehaving: Function,
) -> None:
    spinning = asyncio.create_task(ask(misbehaving, "spin"))
    await asyncio.sleep(0.1)  # it spins now: nothing outside can see that
    neighbours = [asyncio.create_task(ask(misbehaving, "neighbour")) for _ in range(20)]
    assert (await spinning or (0,))[0] == 408
    answers = await asyncio.gather(*neighbours)
    assert all(answer in (None, (200, b'{"answered":"neighbour"}')) for answer in answers)
    assert await ask(misbehaving, "next") == (200, b'{"answered":"next"}')


@pytest.mark.parametrize("concurrency", ["1", "4"])
async def test_an_async_handler_past_its_time_is_cancelled_and_one_that_blocks_is_replaced(concurrency: str) -> None:
    source = """
import asyncio, time
async def handler(event, context):
    if event["data"] == "wait":
        await asyncio.sleep(60)
    if event["data"] == "stubborn":
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                pass
    if event["data"] == "block":
        time.sleep(60)
    await asyncio.sleep(0)
    return {"answered": event["data"]}
"""
    async with function(source, FUNC_TIMEOUT="0.5", FUNC_CONCURRENCY=concurrency) as found:
        for what in ("wait", "stubborn", "block"):
            answer = await ask(found, what)
            assert answer is not None
            assert answer[0] == 408
            assert await ask(found, "next") == (200, b'{"answered":"next"}')


async def test_threads_that_are_stuck_are_replaced_with_their_process() -> None:
    source = """
import time
def handler(event, context):
    if event["data"] == "stuck":
        time.sleep(60)
    return {"answered": event["data"]}
"""
    async with function(source, FUNC_TIMEOUT="0.5", FUNC_CONCURRENCY="2") as found:
        first = await ask(found, "stuck")
        assert first is not None
        assert first[0] == 408
        assert await ask(found, "next") == (200, b'{"answered":"next"}')
        await ask(found, "stuck")
        assert await ask(found, "next") == (200, b'{"answered":"next"}')


async def test_killing_the_supervisor_leaves_no_orphan() -> None:
    async with function(SOURCE) as found:
        supervisor, worker = found.family()
        supervisor.kill()
        _, alive = await asyncio.to_thread(psutil.wait_procs, [worker], 5)
        assert not alive
        assert found.process is not None
        await found.process.wait()


async def test_a_function_that_cannot_start_says_why_and_ends() -> None:
    async with function("import nothing_like_this", ready=False) as found:
        assert found.process is not None
        async with asyncio.timeout(10):
            assert await found.process.wait() == 3
        assert "No module named 'nothing_like_this'" in found.output()


async def test_hooks_run_once_and_share_the_state_and_a_failing_startup_is_not_ready() -> None:
    source = """
def start(context):
    context["state"]["pool"] = ["made"]
def stop(context):
    print("stopped with", context["state"]["pool"], flush=True)
def handler(event, context):
    return context["state"]["pool"]
"""
    async with function(source, FUNC_STARTUP="f.start", FUNC_SHUTDOWN="f.stop") as found:
        assert await ask(found, "x") == (200, b'["made"]')
        assert await found.stop() == 0
        assert "stopped with ['made']" in found.output()
    async with function(source, FUNC_STARTUP="f.missing", ready=False) as found:
        assert found.process is not None
        async with asyncio.timeout(10):
            assert await found.process.wait() == 3


async def test_a_graceful_stop_answers_what_had_begun() -> None:
    source = """
import asyncio
async def handler(event, context):
    await asyncio.sleep(0.3)
    return {"answered": event["data"]}
"""
    async with function(source) as found:
        begun = [asyncio.create_task(ask(found, "begun")) for _ in range(10)]
        await asyncio.sleep(0.1)  # they have begun by now; from outside that cannot be seen
        assert await found.stop() == 0
        assert await asyncio.gather(*begun) == [(200, b'{"answered":"begun"}')] * 10


async def test_it_serves_without_uvloop(tmp_path: Path) -> None:
    (tmp_path / "uvloop.py").write_text("raise ImportError('not here')")
    async with function(SOURCE, PYTHONPATH=str(tmp_path)) as found:
        assert await ask(found, "x") == (200, b'{"answered":"x"}')
