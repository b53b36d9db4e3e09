"""A trigger's controller asks a real function why a call lost its connection, and tells how its worker ended."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from servers.function import function
from servers.scripted import scripted

from controllers.functions.worker_ends import WorkerEnd, end_text, worker_end_in
from controllers.triggers.worker_ends import WorkerEnds
from trigger_sources.delivery import Answer
from trigger_sources.dispatch.gate import Gate
from trigger_sources.transport.client import ConnectionLost

SOURCE = """
import ctypes, os, signal, time

def handler(event, context):
    match event["data"]:
        case "exit":
            os._exit(7)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "crash":
            ctypes.string_at(0)
        case "hang":
            open(os.environ["BEGUN"], "w").close()
            time.sleep(3600)
    return "fine"
"""


@asynccontextmanager
async def ends_of(url: str, seconds: float = 60) -> AsyncIterator[tuple[Gate, WorkerEnds, list[WorkerEnd]]]:
    told: list[WorkerEnd] = []
    gate = Gate("f", url)
    ends = WorkerEnds(gate, told.append, ask_seconds=seconds)
    try:
        yield gate, ends, told
    finally:
        await ends.aclose()
        await gate.aclose()


async def send(gate: Gate, body: bytes) -> Answer:
    headers = b"content-type: application/json\r\n"
    return await gate.endpoint.send(b"POST", b"/", headers, body, timeout_seconds=60, fresh=True)


async def post(gate: Gate, body: bytes) -> float:
    """When the call began."""
    began = time.monotonic()
    with pytest.raises(ConnectionLost):
        await send(gate, body)
    return began


@pytest.mark.parametrize(
    ("what", "how"),
    [
        ("exit", "exit code 7"),
        ("kill", "signal SIGKILL (out of memory, or it hung)"),
        ("crash", "signal SIGSEGV (f.py:11 in handler)"),
    ],
)
async def test_a_worker_that_crashes_is_told_to_the_calls_that_it_ended(what: str, how: str) -> None:
    async with function(SOURCE) as served, ends_of(served.url) as (gate, ends, told):
        began = await post(gate, f'"{what}"'.encode())
        texts = await asyncio.gather(*(ends.why_lost(began) for _ in range(50)))
        assert set(texts) == {f"the worker process ended with {how} while it ran this event"}
        assert [end_text(end.how) for end in told] == [f"the worker process ended with {how}"]
        if what == "crash":
            assert 'File "<string>"' in served.output() or "f.py" in served.output(), "the lines that led to the crash"


async def test_a_call_that_waits_behind_one_that_takes_too_long_is_told_why_it_was_lost(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    async with function(SOURCE, FUNC_TIMEOUT="4", BEGUN=str(begun)) as served, ends_of(served.url) as (gate, ends, _):
        hanging = asyncio.create_task(send(gate, b'"hang"'))
        async with asyncio.timeout(60):
            while not begun.exists():
                await asyncio.sleep(0.01)
        began = time.monotonic()
        try:
            assert (await send(gate, b'""')).status == 200  # on a busy machine, the next worker takes the connection
        except ConnectionLost:
            text = "the worker process was replaced, as a call took too long while this event was beside or behind it"
            assert await ends.why_lost(began) == text
        assert (await hanging).status == 408


async def test_an_end_before_the_call_and_a_runtime_that_tells_nothing_are_no_reason() -> None:
    async with function(SOURCE) as served, ends_of(served.url) as (gate, ends, told):
        await post(gate, b'"exit"')
        assert await ends.why_lost(time.monotonic() + 3600) == ""
    async with scripted() as other, ends_of(other.url) as (_, ends, told):
        assert await ends.why_lost(time.monotonic()) == ""
        assert told == []
    async with ends_of("http://127.0.0.1:1/", 0.5) as (_, ends, told):
        assert await ends.why_lost(time.monotonic()) == ""


@pytest.mark.parametrize("text", ["", "1", "x exit code 7", "-1 exit code 7", "inf exit code 7", "nan exit code 7"])
def test_a_header_that_is_none_tells_nothing(text: str) -> None:
    assert worker_end_in({"kubeirq-worker-ended": text}, 10.0) is None
    assert worker_end_in({"kubeirq-worker-ended": "2.5 exit code 7"}, 10.0) == WorkerEnd(7.5, "exit code 7")


def test_a_worker_that_the_kernel_killed_for_want_of_memory_is_told_with_the_limit() -> None:
    text = "the worker process was killed by the kernel: out of memory, limit 96Mi"
    assert end_text("signal SIGKILL, out of memory, limit 96Mi") == text
    assert end_text("signal SIGKILL, as it hung") == "the worker process ended with signal SIGKILL, as it hung"
