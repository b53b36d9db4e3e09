"""A worker that gets no processor time does not hang: it goes on when it gets some, and nobody kills it."""

import asyncio
import signal
import sys

import aiohttp
import pytest
from servers.function import function

HANDLER = "def handler(event, context):\n    return 'served'\n"
HANGS_BESIDE_CALLS = """
import re, threading, time

def hang():
    time.sleep(1)
    re.match("(a+)+$", "a" * 64 + "b")

def handler(event, context):
    threading.Thread(target=hang, daemon=True).start()
"""
TIME_OUT, LIMIT = "1", 1 + 3.0  # seconds: the limit is the time-out and HANG_SECONDS


@pytest.mark.parametrize("also_the_supervisor", [False, True])
async def test_a_worker_without_processor_time_is_not_killed(also_the_supervisor: bool) -> None:
    async with function(HANDLER, FUNC_TIMEOUT=TIME_OUT) as found:
        supervisor, worker = found.family()
        stopped = [supervisor, worker] if also_the_supervisor else [worker]
        for process in stopped:
            process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(LIMIT + 3)
        for process in stopped:  # the supervisor looks before its worker can beat
            process.send_signal(signal.SIGCONT)
            await asyncio.sleep(1)
        async with aiohttp.ClientSession() as session, session.post(found.url, json={}) as answer:
            assert (answer.status, await answer.text()) == (200, "served")
        assert found.family() == [supervisor, worker]
        assert "killed" not in found.output()


async def test_idle_workers_beside_hungry_processes_are_not_killed() -> None:
    """The runtime has the lowest priority, and the other processes take all processors."""
    async with function(HANDLER, FUNC_TIMEOUT=TIME_OUT) as found:
        family = found.family()
        for process in family:
            process.nice(19)
        hungry = [await asyncio.create_subprocess_exec(sys.executable, "-c", "while True: pass") for _ in range(8)]
        try:
            await asyncio.sleep(3 * LIMIT)
        finally:
            for other in hungry:
                other.kill()
                await other.wait()
        assert found.family() == family
        assert "killed" not in found.output()


async def test_a_hang_in_a_thread_of_the_function_is_still_found() -> None:
    async with function(HANGS_BESIDE_CALLS, FUNC_TIMEOUT=TIME_OUT) as found:
        async with aiohttp.ClientSession() as session, session.post(found.url, json={}):
            pass
        async with asyncio.timeout(60):
            while "starting another" not in found.output():
                await asyncio.sleep(0.1)
        assert "the worker hangs in a call that no thread can interrupt: killed" in found.output()
        assert "worker ended with signal SIGABRT, as it hung" in found.output()
