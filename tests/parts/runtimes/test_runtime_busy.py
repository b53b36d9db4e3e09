"""A handler that runs for long, or crashes in C code, is seen: which event, for how long, and at which line."""

import asyncio

import aiohttp
import pytest
from servers.function import Function, function

INLINE = """
import time

def nap(seconds):
    time.sleep(seconds)

def handler(event, context):
    nap(event["data"])
"""
IN_A_TASK = """
import asyncio

async def nap(seconds):
    await asyncio.sleep(seconds)

async def handler(event, context):
    await nap(event["data"])
"""
BLOCKS_THE_LOOP = IN_A_TASK.replace("import asyncio", "import time").replace("await asyncio.sleep", "time.sleep")
CRASHES = """
import ctypes, os, re, signal

def read(address):
    return ctypes.string_at(address)

def handler(event, context):
    if event["data"] == "hang":
        re.match("(a+)+$", "a" * 64 + "b")
    if event["data"] == "child":
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            os.kill(os.getpid(), signal.SIGKILL)
    read(0)
"""


async def health(found: Function) -> dict[str, str]:
    async with aiohttp.ClientSession() as session, session.get(found.url + "healthz") as answer:
        return {name.lower(): value for name, value in answer.headers.items()}


async def send(found: Function, data: object, event_id: str = "17") -> None:
    headers = {"content-type": "application/json", "kubeirq-attempt": "1", "ce-specversion": "1.0", "ce-id": event_id}
    headers |= {"ce-type": "t", "ce-source": "s"}
    async with aiohttp.ClientSession() as session:
        try:
            async with session.post(found.url, json=data, headers=headers):
                pass
        except aiohttp.ClientError:
            pass


@pytest.mark.parametrize(
    ("source", "concurrency", "busy"),
    [
        (INLINE, "1", "1 of 1 handlers busy"),
        (INLINE, "2", "1 of 2 handlers busy"),
        (IN_A_TASK, "3", "1 of 3 handlers busy"),
        (BLOCKS_THE_LOOP, "3", "1 of 3 handlers busy"),
    ],
)
async def test_a_handler_that_runs_for_long_is_in_the_log_and_in_the_answer_to_healthz(
    source: str, concurrency: str, busy: str
) -> None:
    async with function(source, FUNC_TIMEOUT="60", FUNC_CONCURRENCY=concurrency) as found:
        call = asyncio.create_task(send(found, 30))
        async with asyncio.timeout(30):
            while "handlers busy" not in found.output():
                await asyncio.sleep(0.1)
        told = next(line for line in found.output().splitlines() if "handlers busy" in line)
        assert told.startswith(f"runtime: {busy}, the longest for 5 s (since ")
        assert told.endswith(" with event 17, at f.py:5 in nap")

        answer = (await health(found))["kubeirq-busy"]
        assert answer.startswith(f"{busy}, the longest for ")
        assert answer.endswith(" with event 17, at f.py:5 in nap")
        await found.kill()
        await call


async def test_a_handler_that_is_quick_is_in_neither() -> None:
    async with function(INLINE, FUNC_TIMEOUT="60") as found:
        await send(found, 0)
        assert "kubeirq-busy" not in await health(found)
        assert "busy" not in found.output()


async def test_a_crash_in_c_code_leaves_the_line_of_the_function_that_led_there() -> None:
    async with function(CRASHES) as found:
        await send(found, "crash")
        async with asyncio.timeout(30):
            while not await found.is_ready() or "starting another" not in found.output():
                await asyncio.sleep(0.1)
        assert "worker ended with signal SIGSEGV (f.py:5 in read): starting another" in found.output()
        assert "Fatal Python error: Segmentation fault" in found.output()
        assert (await health(found))["kubeirq-worker-ended"].endswith(" signal SIGSEGV (f.py:5 in read)")


async def test_a_hang_that_no_thread_can_interrupt_leaves_the_line_of_the_function() -> None:
    async with function(CRASHES, FUNC_TIMEOUT="1") as found:
        await send(found, "hang")
        async with asyncio.timeout(30):
            while "starting another" not in found.output():
                await asyncio.sleep(0.1)
        assert "worker ended with signal SIGABRT, as it hung (f.py:9 in handler): starting another" in found.output()


async def test_the_crash_of_a_process_that_the_handler_started_is_not_where_the_worker_ended() -> None:
    async with function(CRASHES) as found:
        await send(found, "child")
        async with asyncio.timeout(30):
            while not await found.is_ready() or "starting another" not in found.output():
                await asyncio.sleep(0.1)
        assert "worker ended with signal SIGKILL: starting another" in found.output()
        assert "Fatal Python error: Segmentation fault" in found.output()


async def test_a_function_that_keeps_its_reasons_keeps_its_lines_too() -> None:
    async with function(CRASHES, FUNC_FAILURE_DETAIL="0") as found:
        await send(found, "crash")
        async with asyncio.timeout(30):
            while not await found.is_ready() or "starting another" not in found.output():
                await asyncio.sleep(0.1)
        assert (await health(found))["kubeirq-worker-ended"].endswith(" signal SIGSEGV")
