"""Triggers sleep until their next tick: they look at the clock when it jumps or they stop, and not again and again."""

import asyncio
import time

import pytest

from trigger_sources.cron import CronTrigger
from trigger_sources.cron.clock import WallClock
from trigger_sources.testing import MemoryState, StandInContext


class Counting(WallClock):
    looks = 0

    def now(self) -> float:
        self.looks += 1
        return super().now()


async def test_a_trigger_without_a_tick_looks_at_the_clock_once_and_stops_at_once() -> None:
    clock, stopping = Counting(), asyncio.Event()
    context = StandInContext(uid="uid", stopping=stopping, state=MemoryState())
    ticks = CronTrigger.model_validate({"function": "f", "schedule": "0 0 29 2 *"}).ticks(context, clock)
    waiting = asyncio.ensure_future(anext(ticks, None))  # type: ignore[call-overload]
    await asyncio.sleep(0.1)
    looks = clock.looks
    await asyncio.sleep(1.2)
    assert clock.looks == looks
    stopping.set()
    async with asyncio.timeout(5):
        assert await waiting is None


async def test_a_clock_that_jumps_wakes_everyone_who_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, never = WallClock(), asyncio.Event()
    sleeping = [asyncio.create_task(clock.sleep(3_600, never)) for _ in range(3)]
    await asyncio.sleep(0)
    ahead = time.time
    monkeypatch.setattr("time.time", lambda: ahead() + 600)
    async with asyncio.timeout(10):
        passed = await asyncio.gather(*sleeping)
    assert all(0 < seconds < 10 for seconds in passed)


async def test_a_jump_in_the_turn_in_which_a_sleep_ends_wakes_the_others_and_so_does_the_next_jump(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, never, machine = WallClock(), asyncio.Event(), time.time
    ahead = 0.0
    monkeypatch.setattr("time.time", lambda: machine() + ahead)
    for _ in range(2):
        sleeping = [asyncio.create_task(clock.sleep(3_600, never)) for _ in range(3)]
        ending = asyncio.create_task(clock.sleep(0.01, never))
        await asyncio.sleep(0)
        ahead += 600
        time.sleep(0.6)  # noqa: ASYNC251  the end of that sleep and a look are due in one turn of the loop
        async with asyncio.timeout(10):
            passed = await asyncio.gather(*sleeping, ending)
        assert all(seconds < 10 for seconds in passed)
