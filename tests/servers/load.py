"""Requests at a steady pace, each accounted for: what a client saw while something was changed behind the address."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

CLIENTS = 4
PAUSE_SECONDS = 0.01  # of each client, after an answer
ANSWER_SECONDS = 30


@dataclass
class Load:
    """The answers of a load. A failure is an answer other than 2xx, or none."""

    answers: Counter[str] = field(default_factory=Counter)  # by body
    failures: list[str] = field(default_factory=list)

    def fail(self, what: str) -> None:
        """After so many answers this came instead."""
        self.failures.append(f"after {self.answers.total()}: {what}")

    async def until_answered(self, body: str, seconds: float) -> None:
        """Returns once all that is answered is this."""
        async with asyncio.timeout(seconds):
            while True:
                before = self.answers.copy()
                while (self.answers - before).total() < 10 * CLIENTS:
                    await asyncio.sleep(0.05)
                if set(self.answers - before) == {body}:
                    return


@asynccontextmanager
async def load(
    host: str, port: int, path: str = "/", *, keep: bool, pause_seconds: float = PAUSE_SECONDS
) -> AsyncIterator[Load]:
    """Four clients that POST in turn. `keep`: each on a connection that it keeps as long as it may; otherwise anew."""
    found = Load()
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(_client(found, (host, port), path, keep, pause_seconds, stopping))
        try:
            yield found
        finally:
            stopping.set()


async def _client(
    found: Load, address: tuple[str, int], path: str, keep: bool, pause_seconds: float, stopping: asyncio.Event
) -> None:
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    while not stopping.is_set():
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                if connection is None or connection[0].at_eof():  # a connection that was closed before loses no request
                    _close(connection)
                    connection = await asyncio.open_connection(*address)
                status, body, stays = await _post(*connection, path, keep)
            if 200 <= status < 300:
                found.answers[body] += 1
            else:
                found.fail(f"{status} {body}")
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            found.fail(repr(error))
            stays = False
        if not stays:
            _close(connection)
            connection = None
        await asyncio.sleep(pause_seconds)
    _close(connection)


async def _post(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, keep: bool
) -> tuple[int, str, bool]:
    """Status, body, and whether the connection may be used again."""
    wish = "keep-alive" if keep else "close"
    writer.write(f"POST {path} HTTP/1.1\r\nhost: x\r\nconnection: {wish}\r\ncontent-length: 0\r\n\r\n".encode())
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = next(int(line.partition(":")[2]) for line in head.split("\r\n") if line.startswith("content-length:"))
    body = (await reader.readexactly(length)).decode()
    return int(head.split(" ", 2)[1]), body, keep and "connection: close" not in head


def _close(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None) -> None:
    if connection is not None:
        connection[1].close()
