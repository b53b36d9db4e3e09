"""How long a call waits to hear why it lost its connection, and of which replica the answer tells."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, cast

import pytest

from controllers.functions.worker_ends import TIME_OUT
from controllers.triggers.worker_ends import WorkerEnds
from trigger_sources.delivery import Answer
from trigger_sources.dispatch.gate import Gate
from trigger_sources.transport.client import Unreachable


class Function:
    """A function's Service and its gate."""

    def __init__(self, how: str = "", *, is_reached: bool = True) -> None:
        self.how, self.is_reached = how, is_reached
        self.is_down = False
        self.asked = 0
        self.on_asked: Callable[[], None] = lambda: None
        self.endpoint = self

    async def send(self, *_: Any, **__: Any) -> Answer:
        self.asked += 1
        self.on_asked()
        if not self.is_reached:
            raise Unreachable("no connection")
        return Answer(200, [("kubeirq-worker-ended", f"0.0 {self.how}")] if self.how else [], b"")


def ends_of(function: Function, **options: Any) -> WorkerEnds:
    return WorkerEnds(cast(Gate, function), lambda end: None, **options)


async def test_nobody_is_asked_while_the_gate_is_closed() -> None:
    function = Function("exit code 7")
    function.is_down = True
    assert await ends_of(function).why_lost(time.monotonic() - 1) == ""
    assert function.asked == 0


async def test_a_gate_that_closes_ends_the_question() -> None:
    function = Function(is_reached=False)
    function.on_asked = lambda: setattr(function, "is_down", True)
    async with asyncio.timeout(10):
        assert await ends_of(function, ask_seconds=60, unreachable_seconds=60).why_lost(time.monotonic()) == ""
    assert function.asked == 1


async def test_a_function_that_stays_unreachable_is_asked_for_a_second_at_most() -> None:
    function = Function(is_reached=False)
    async with asyncio.timeout(10):
        assert await ends_of(function, ask_seconds=60, unreachable_seconds=0.2).why_lost(time.monotonic()) == ""
    assert function.asked > 1


@pytest.mark.parametrize(
    ("how", "sole", "text"),
    [
        ("exit code 7", True, "the worker process ended with exit code 7 while it ran this event"),
        ("exit code 7", False, "a worker process of the function ended with exit code 7 while this event was called"),
        (
            TIME_OUT,
            False,
            "a worker process of the function was replaced, as a call took too long while this event was called",
        ),
    ],
)
async def test_only_the_worker_of_a_single_replica_is_sure_to_have_run_the_event(
    how: str, sole: bool, text: str
) -> None:
    ends = ends_of(Function(how), has_one_replica=lambda: sole)
    assert await ends.why_lost(time.monotonic() - 1) == text


async def test_a_question_that_is_given_up_cancels_no_call() -> None:
    function = Function(is_reached=False)
    ends = ends_of(function, ask_seconds=60, unreachable_seconds=60)
    call = asyncio.create_task(ends.why_lost(time.monotonic()))
    async with asyncio.timeout(10):
        while not function.asked:
            await asyncio.sleep(0)
        await ends.aclose()
        assert await call == ""
