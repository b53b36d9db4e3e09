"""Servers that all workers of a test run share, each started when the first test asks for it.

One process keeps them; it ends with the run, whose end it notices by its standard input: also where the run was killed.

Usage: -m servers.keeper SOCKET
"""

import asyncio
import json
import os
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
STOP_SECONDS = 60


# --- the side of the tests


class Keeper:
    """The process, as the test run that starts it sees it."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="keeper-")
        socket = str(Path(self._folder.name) / "socket")
        paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        # in a session of its own: an interrupt from the keyboard is for the tests, which still need the servers
        self._process = subprocess.Popen(
            [sys.executable, "-m", "servers.keeper", socket],
            stdin=subprocess.PIPE, env=environment, cwd=TESTS.parent, start_new_session=True,
        )  # fmt: skip
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
        self._folder.cleanup()


async def ask(name: str) -> Any:
    """The answer of the keeper to this request. A server that is not there yet is started first."""
    reader, writer = await _connected(os.environ[ADDRESS])
    try:
        writer.write(name.encode() + b"\n")
        found = json.loads(await reader.readline() or b'{"problem": "the keeper ended"}')
    finally:
        writer.close()
    assert "problem" not in found, f"{name}: {found['problem']}"
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
    """The servers that were asked for, and the requests that tests may make."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._started: dict[str, asyncio.Task[Any]] = {}
        self._starts: dict[str, Callable[[], Awaitable[Any]]] = {
            "kafka": self._kafka,
            "embedded-kafka": self._embedded_kafka,
            "cluster": self._cluster,
        }
        self._restart_api_server: Callable[[], Awaitable[None]] | None = None

    async def answer(self, request: str) -> Any:
        if request == "restart-api-server":
            assert self._restart_api_server is not None, "no cluster was asked for"
            return await self._restart_api_server()
        if request not in self._started:
            self._started[request] = asyncio.create_task(self._starts[request]())
        return await asyncio.shield(self._started[request])

    async def _kafka(self) -> Any:
        from servers.kafka import apache_kafka

        return {"port": (await self._stack.enter_async_context(apache_kafka())).port}

    async def _embedded_kafka(self) -> Any:
        from servers.kafka import embedded_kafka

        return await self._stack.enter_async_context(embedded_kafka())

    async def _cluster(self) -> Any:
        from servers.cluster import started

        running, remote = await self._stack.enter_async_context(started())
        self._restart_api_server = running.restart_api_server
        return asdict(remote)


async def main(socket: str) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    loop.add_reader(sys.stdin, ended.set)  # nothing is ever written there: it can only end
    async with AsyncExitStack() as stack:
        kept = Kept(stack)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                found = {"answer": await kept.answer((await reader.readline()).decode().strip())}
            except Exception as error:  # the test that asked fails with it
                found = {"problem": f"{type(error).__name__}: {error}"}
            writer.write(json.dumps(found).encode() + b"\n")
            writer.close()

        async with await asyncio.start_unix_server(serve, socket):
            await ended.wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
