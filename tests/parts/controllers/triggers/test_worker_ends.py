"""A trigger's controller asks a real function why a call lost its connection, and tells how its worker ended."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from servers.function import function
from servers.scripted import scripted

from controllers.functions.worker_ends import WorkerEnd, explained, worker_end_in
from controllers.triggers.worker_ends import WorkerEnds
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


async def post(gate: Gate, body: bytes) -> float:
    """When the call began."""
    began = time.monotonic()
    with pytest.raises(ConnectionLost):
        await gate.endpoint.send(
            b"POST", b"/", b"content-type: application/json\r\n", body, timeout_seconds=30, fresh=True
        )
    return began


@pytest.mark.parametrize(
    ("what", "how"),
    [("exit", "exit code 7"), ("kill", "signal SIGKILL (out of memory, or it hung)"), ("crash", "signal SIGSEGV")],
)
async def test_a_worker_that_crashes_is_told_to_the_calls_that_it_ended(what: str, how: str) -> None:
    async with function(SOURCE) as served, ends_of(served.url) as (gate, ends, told):
        began = await post(gate, f'"{what}"'.encode())
        texts = await asyncio.gather(*(ends.why_lost(began) for _ in range(50)))
        assert set(texts) == {f"the worker process ended with {how} while it ran this event"}
        assert [explained(end.how) for end in told] == [how]
        if what == "crash":
            assert 'File "<string>"' in served.output() or "f.py" in served.output(), "the lines that led to the crash"


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
