"""Watches a world once a second: memory, and triggers that are Ready and do not deliver."""

import asyncio
import time

import aiohttp
import psutil
from soak.world import World

STUCK_SECONDS = (
    40.0  # longer than a hanging call, its retry, a session of Kafka and a time to acknowledge take together
)


class Watch:
    """`breaches` has a line for each trigger that was Ready for long and did not deliver an old event."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._ready_since: dict[str, float] = {}
        self.breaches: list[str] = []

    async def run(self) -> None:
        while not self._world.stopping.is_set():
            await self.look()
            await asyncio.sleep(1)

    async def look(self) -> None:
        world, now = self._world, time.time()
        world.look()
        try:
            async with asyncio.timeout(5):
                await world.readings.take(world.fabric.pid)
                not_ready = await world.not_ready()
        except (aiohttp.ClientError, OSError, TimeoutError, AssertionError, psutil.Error):
            self._ready_since.clear()  # it does not run, and says nothing
            return
        for name, flow in world.flows.items():
            if name in not_ready:
                self._ready_since.pop(name, None)
                continue
            since = self._ready_since.setdefault(name, now)
            old = flow.oldest(lambda at, since=since: now - max(at, since) > STUCK_SECONDS)  # type: ignore[misc]
            if old:
                self.breaches.append(f"{name} is Ready, and has not delivered for {STUCK_SECONDS:.0f} s: {old[:20]}")
                self._ready_since.pop(name)


def growth(memory: list[tuple[float, int, int]]) -> float:
    """By how many bytes memory grows over the second half, as a straight line through its readings. Pure.

    The readings are time, process and bytes. A process that has just started is left out.
    """
    started: dict[int, float] = {}
    points = [(at, size) for at, pid, size in memory if at - started.setdefault(pid, at) > 5]
    half = points[len(points) // 2 :]
    if len(half) < 3:
        return 0.0
    at_mean = sum(at for at, _ in half) / len(half)
    size_mean = sum(size for _, size in half) / len(half)
    spread = sum((at - at_mean) ** 2 for at, _ in half)
    slope = sum((at - at_mean) * (size - size_mean) for at, size in half) / spread if spread else 0.0
    return slope * (half[-1][0] - half[0][0])
