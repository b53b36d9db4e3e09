"""Servers that all workers of a test run share, each started when the first test asks for it.

One process keeps them; it ends with the run, whose end it notices by its standard input: also where the run was killed.
A cluster has a process of its own, since that is on the cluster's network; the first process asks it.

Usage: -m servers.keeper SOCKET [apart]
"""

import asyncio
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
ADDRESS = "KUBEIRQ_TEST_KEEPER"  # the variable that tells workers the keeper's socket
APART = ("cluster", "cluster-alone")
STOP_SECONDS = 60


def _command(socket: str, *more: str) -> tuple[list[str], dict[str, str]]:
    """With the environment that it needs."""
    paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return [sys.executable, "-m", "servers.keeper", socket, *more], environment


# --- the side of the tests


class Keeper:
    """The process, as the test run that starts it sees it."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="keeper-")
        socket = str(Path(self._folder) / "socket")
        command, environment = _command(socket)
        # in a session of its own: an interrupt from the keyboard is for the tests, which still need the servers
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, env=environment, cwd=TESTS.parent, start_new_session=True
        )
        os.environ[ADDRESS] = socket

    def stop(self) -> None:
        """Returns once every server is stopped."""
        del os.environ[ADDRESS]
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


async def ask(request: str) -> Any:
    """The answer of the keeper: to the name of a server, where it is; to its name and an action, nothing.

    A server that is not there yet is started first.
    """
    return await _asked(os.environ[ADDRESS], request)


async def _asked(socket: str, request: str) -> Any:
    reader, writer = await _connected(socket)
    try:
        writer.write(request.encode() + b"\n")
        found = json.loads(await reader.readline() or b'{"problem": "the keeper ended"}')
    finally:
        writer.close()
    assert "problem" not in found, f"{request}: {found['problem']}"
    return found["answer"]


async def _connected(socket: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with asyncio.timeout(30):
        while True:
            try:
                return await asyncio.open_unix_connection(socket)
            except OSError:  # it is about to listen
                await asyncio.sleep(0.02)


# --- the side of the process


class Kept:
    """The servers that were asked for. `stack` stops them."""

    def __init__(self, stack: AsyncExitStack, socket: str, apart: bool) -> None:
        self._stack, self._socket, self._apart = stack, socket, apart
        self._tasks: dict[str, asyncio.Task[Any]] = {}
        self._actions: dict[str, Callable[[], Awaitable[None]]] = {}

    async def answer(self, request: str) -> Any:
        name, _, action = request.partition(" ")
        if name in APART and not self._apart:
            return await _asked(await self._once(f"{name} apart", lambda: self._process(name)), request)
        if action:
            return await self._actions[action]()
        starts = {"kafka": self._kafka, "embedded-kafka": self._embedded_kafka, **dict.fromkeys(APART, self._cluster)}
        return await self._once(name, starts[name])

    async def end_starts(self) -> None:
        """Of servers that are about to start."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _once(self, name: str, start: Callable[[], Any]) -> Any:
        if name not in self._tasks:
            self._tasks[name] = asyncio.create_task(start())
        return await asyncio.shield(self._tasks[name])

    async def _kafka(self) -> Any:
        from servers.kafka import apache_kafka

        return {"port": (await self._stack.enter_async_context(apache_kafka())).port}

    async def _embedded_kafka(self) -> Any:
        from servers.kafka import embedded_kafka

        return await self._stack.enter_async_context(embedded_kafka())

    async def _cluster(self) -> Any:
        from servers.cluster import started

        running, place = await self._stack.enter_async_context(started())
        self._actions["restart-api-server"] = running.restart_api_server
        return asdict(place)

    async def _process(self, name: str) -> str:
        """Its socket."""
        socket = f"{self._socket}-{name}"
        command, environment = _command(socket, "apart")
        process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, env=environment)

        async def stop() -> None:
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()

        self._stack.push_async_callback(stop)
        return socket


async def main(socket: str, *apart: str) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    loop.add_reader(sys.stdin, ended.set)  # nothing is ever written there: it can only end
    async with AsyncExitStack() as stack:
        kept = Kept(stack, socket, bool(apart))

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                found = {"answer": await kept.answer((await reader.readline()).decode().strip())}
            except Exception as error:  # the test that asked fails with it
                found = {"problem": f"{type(error).__name__}: {error}"}
            writer.write(json.dumps(found).encode() + b"\n")
            writer.close()

        server = await asyncio.start_unix_server(serve, socket)
        await ended.wait()
        loop.remove_reader(sys.stdin)
        server.close()
        await kept.end_starts()
    if not apart:  # the run that made the folder may have been killed
        shutil.rmtree(Path(socket).parent, ignore_errors=True)


if __name__ == "__main__":
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # a server that starts refuses connections first
    asyncio.run(main(*sys.argv[1:]))
