"""The controllers' queue: no key is forgotten, none runs twice at a time."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from controllers.cluster.work_queue import WorkQueue


@asynccontextmanager
async def running(reconcile: Callable[[str], Awaitable[None]]) -> AsyncIterator[WorkQueue[str]]:
    queue = WorkQueue(reconcile)
    task = asyncio.create_task(queue.run())
    try:
        yield queue
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.001)


async def test_what_changes_while_it_is_reconciled_is_reconciled_again_and_never_at_the_same_time() -> None:
    version = dict.fromkeys("abcdef", 0)
    seen: dict[str, int] = {}
    busy: set[str] = set()

    async def reconcile(key: str) -> None:
        assert key not in busy
        busy.add(key)
        found = version[key]
        await asyncio.sleep(random.random() * 0.003)
        busy.discard(key)
        seen[key] = found

    async with running(reconcile) as queue:
        for _ in range(600):
            key = random.choice("abcdef")
            version[key] += 1
            queue.add(key)
            await asyncio.sleep(random.random() * 0.001)
        await until(lambda: queue.is_idle)
    assert seen == version, "the last state of every key was looked at"


async def test_what_is_added_many_times_while_it_waits_is_done_once() -> None:
    done: list[str] = []
    release = asyncio.Event()

    async def reconcile(key: str) -> None:
        done.append(key)
        await release.wait()

    async with running(reconcile) as queue:
        for _ in range(100):
            queue.add("a")
        await until(lambda: done == ["a"])
        for _ in range(100):
            queue.add("a")
        release.set()
        await until(lambda: queue.is_idle)
    assert done == ["a", "a"]


async def test_a_failure_comes_again_and_others_do_not_wait_for_it(caplog: pytest.LogCaptureFixture) -> None:
    tries: list[str] = []

    async def reconcile(key: str) -> None:
        tries.append(key)
        if key == "bad" and tries.count("bad") < 3:
            raise OSError("the server is away")

    async with running(reconcile) as queue:
        queue.add("bad")
        queue.add("good")
        await until(lambda: queue.is_idle)
    assert tries[:2] == ["bad", "good"]
    assert tries.count("bad") == 3
    assert "reconcile failed" in caplog.text


async def test_a_change_does_not_wait_for_the_delay_of_a_failure() -> None:
    tries = 0

    async def reconcile(key: str) -> None:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise OSError("not yet")

    async with running(reconcile) as queue:
        queue.add("a")
        for count in (1, 2, 3):
            await until(lambda count=count: tries == count)  # type: ignore[misc]
            queue.add("a")
        await until(lambda: tries == 4 and queue.is_idle)


async def test_a_change_goes_before_the_rest_of_a_resync_and_edits_without_end_do_not_stop_the_resync() -> None:
    order: list[str] = []
    queue: WorkQueue[str]

    async def reconcile(key: str) -> None:
        order.append(key)
        if key.startswith("edit") and len(order) < 200:
            queue.add(f"edit {len(order)}")

    queue = WorkQueue(reconcile, workers=1)
    for number in range(20):
        queue.add_for_resync(f"rest {number}")
    for number in range(5):
        queue.add(f"edit now {number}")
    task = asyncio.create_task(queue.run())
    await until(lambda: queue.is_idle)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert sum(key.startswith("edit now") for key in order[:7]) == 5
    assert sum(key.startswith("rest") for key in order[:80]) == 20, "one of four"
    assert len(order) == len(set(order))


async def test_a_key_of_the_resync_that_changes_is_reconciled_once() -> None:
    order: list[str] = []

    async def reconcile(key: str) -> None:
        order.append(key)

    queue = WorkQueue(reconcile, workers=1)
    for key in ("a", "b", "c"):
        queue.add_for_resync(key)
    queue.add("c")
    queue.add_for_resync("c")
    assert queue.depth == 3
    task = asyncio.create_task(queue.run())
    await until(lambda: queue.is_idle)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert order == ["c", "a", "b"]


async def test_keys_that_need_no_request_leave_the_loop_to_others() -> None:
    turns, turns_before = 0, []

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def reconcile(key: str) -> None:
        turns_before.append(turns)

    other = asyncio.create_task(others())
    async with running(reconcile) as queue:
        for number in range(100):
            queue.add_for_resync(f"{number}")
        await until(lambda: queue.is_idle)
    other.cancel()
    assert turns_before[-1] - turns_before[0] > 10
