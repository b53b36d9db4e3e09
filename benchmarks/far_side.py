"""The other side of the process under test, which lets an exact number of events through."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Protocol, cast

import httptools
import psutil

_SECONDS = 900.0
_LOOK_SECONDS = 1.0
_CALM_LOOKS = 3
_CALM_PAUSE_SECONDS = 0.004


class Ended(Exception):
    """The process under test ended by itself."""


class FarSide(Protocol):
    async def let(self, events: int, pid: int) -> None:
        """Lets so many more events through the process `pid`. Returns once it has nothing left to do."""


class Function:
    """A function that answers in waves of `in_flight` calls, and leaves the last wave unanswered.

    `patient`: it answers only while the caller sleeps, and the caller finds all answers of a wave at once. The caller
    then does the same work in the same order, however fast and busy the machine is.
    """

    def __init__(self, in_flight: int, *, patient: bool) -> None:
        self._in_flight = in_flight
        self._patient = patient
        self._waiting: list[asyncio.Transport] = []
        self._all_wait = asyncio.Event()

    async def let(self, events: int, pid: int) -> None:
        """`events`: a multiple of `in_flight`."""
        async with asyncio.timeout(_SECONDS):
            for _ in range(events // self._in_flight):
                await until(self._all_wait, pid)
                if self._patient:
                    await calm(pid)
                    os.kill(pid, signal.SIGSTOP)
                self._answer()
                if self._patient:
                    os.kill(pid, signal.SIGCONT)
            await until(self._all_wait, pid)
            await calm(pid)

    def _answer(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._all_wait.clear()
        for transport in waiting:
            transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    def came(self, transport: asyncio.Transport) -> None:
        self._waiting.append(transport)
        if len(self._waiting) == self._in_flight:
            self._all_wait.set()


@asynccontextmanager
async def function(port: int, in_flight: int, *, patient: bool) -> AsyncIterator[Function]:
    found = Function(in_flight, patient=patient)
    server = await asyncio.get_running_loop().create_server(
        lambda: _Connection(httptools.HttpRequestParser, found.came), "127.0.0.1", port
    )
    try:
        yield found
    finally:
        server.close()


class Callers:
    """Kept connections that post one request: each sends it again as soon as it has its answer."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._left = 0
        self._idle: list[asyncio.Transport] = []
        self._all_idle = asyncio.Event()
        self._count = 0

    async def connect(self, port: int, count: int) -> None:
        self._count = count
        for _ in range(count):
            await asyncio.get_running_loop().create_connection(
                lambda: _Connection(httptools.HttpResponseParser, self._came, self._idle.append), "127.0.0.1", port
            )

    async def let(self, events: int, pid: int) -> None:
        self._left = events
        self._all_idle.clear()
        idle, self._idle = self._idle, []
        for transport in idle:
            self._came(transport)
        async with asyncio.timeout(_SECONDS):
            await until(self._all_idle, pid)
        await calm(pid)

    def _came(self, transport: asyncio.Transport) -> None:
        if self._left:
            self._left -= 1
            transport.write(self._request)
            return
        self._idle.append(transport)
        if len(self._idle) == self._count:
            self._all_idle.set()


class _Connection(asyncio.Protocol):
    def __init__(
        self,
        parser: Callable[[object], httptools.HttpRequestParser],
        came: Callable[[asyncio.Transport], None],
        connected: Callable[[asyncio.Transport], None] | None = None,
    ) -> None:
        self._parser = parser(self)
        self._came = came
        self._connected = connected

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no instance of it
        if self._connected is not None:
            self._connected(self._transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._came(self._transport)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, to the nanosecond; `/proc` counts in hundredths of a second."""
    return time.clock_gettime((~pid << 3) | 2)


async def until(event: asyncio.Event, pid: int) -> None:
    """Waits for the event. Raises Ended when the process ends before it."""
    while not event.is_set():
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            raise Ended
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_SECONDS):
                await event.wait()


async def calm(pid: int) -> None:
    """Returns once the process sleeps, and did so for a moment."""
    process = psutil.Process(pid)
    looks, before = 0, -1.0
    while looks < _CALM_LOOKS:
        await asyncio.sleep(_CALM_PAUSE_SECONDS)
        now = cpu_seconds(pid)
        looks = looks + 1 if process.status() == psutil.STATUS_SLEEPING and now == before else 0
        before = now
