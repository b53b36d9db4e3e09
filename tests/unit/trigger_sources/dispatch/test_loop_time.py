"""The time of the event loop that filters take is bounded in each round, and triggers have it in turn."""

import asyncio
from collections.abc import Callable

import pytest

from trigger_sources.dispatch.loop_time import MOST_SECONDS, LoopTime


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr("trigger_sources.dispatch.loop_time.time.perf_counter", found)
    return found


def worker(name: str, events: int, seconds: float, loop_time: LoopTime, clock: Clock, done: list[str]) -> None:
    """As a dispatcher: it goes through its events, and waits where the time is over."""

    def kick() -> None:
        nonlocal events
        while events:
            if loop_time.is_over:
                loop_time.wait(kick)
                return
            began, clock.now = clock.now, clock.now + seconds
            events -= 1
            done.append(name)
            loop_time.spent(began)

    kick()


async def test_a_round_has_so_much_time_for_all_triggers_together(clock: Clock) -> None:
    loop_time, done = LoopTime(), list[str]()
    for name in "abc":
        worker(name, 20, MOST_SECONDS / 3.9, loop_time, clock, done)
    rounds = []
    while len(done) < 60:
        before = len(done)
        await asyncio.sleep(0)
        rounds.append(len(done) - before)
    assert max(rounds) <= 4
    assert "".join(done[4:20]) == "aaaabbbbccccaaaa", "after its share, a trigger comes after those that wait"


async def test_a_cheap_filter_waits_for_one_slice_of_each_costly_one(clock: Clock) -> None:
    loop_time, done = LoopTime(), list[str]()
    for name in "abc":
        worker(name, 50, MOST_SECONDS * 1.1, loop_time, clock, done)
    await asyncio.sleep(0)
    done.clear()
    worker("cheap", 1, MOST_SECONDS / 1000, loop_time, clock, done)
    while "cheap" not in done:
        await asyncio.sleep(0)
    assert done.index("cheap") <= 3


async def test_a_trigger_that_has_left_is_not_called(clock: Clock) -> None:
    loop_time, called = LoopTime(), list[str]()
    going: Callable[[], None] = lambda: called.append("gone")  # noqa: E731
    staying: Callable[[], None] = lambda: called.append("stays")  # noqa: E731
    clock.now = MOST_SECONDS
    loop_time.spent(0.0)
    assert loop_time.is_over
    loop_time.wait(going)
    loop_time.wait(staying)
    loop_time.leave(going)
    await asyncio.sleep(0)
    assert called == ["stays"]
    assert not loop_time.is_over


async def test_a_fault_in_one_trigger_keeps_no_other_one_waiting(clock: Clock) -> None:
    def faulty() -> None:
        raise RuntimeError("a fault")

    faults = list[str]()
    asyncio.get_running_loop().set_exception_handler(lambda _, found: faults.append(str(found["exception"])))
    loop_time, called = LoopTime(), list[str]()
    clock.now = MOST_SECONDS
    loop_time.spent(0.0)
    loop_time.wait(faulty)
    loop_time.wait(lambda: called.append("other"))
    for _ in range(3):
        await asyncio.sleep(0)
    assert (called, faults) == (["other"], ["a fault"])
