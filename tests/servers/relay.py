"""A Service's stand-in: one address, behind which replicas come and go."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class Relay:
    """Each new connection goes to one of the targets (ports), in turn. Those that are there stay where they are."""

    targets: list[int]
    delay_seconds: float = 0  # of everything on its way, in both directions
    swallows: bool = False  # the relay takes the answers of the targets, and passes none on
    connections: int = 0
    port: int = 0
    _piping: set[asyncio.Task[None]] = field(default_factory=set)
    _near: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._piping.add(task)
        target = self.targets[self.connections % len(self.targets)]
        self.connections += 1
        writers = [writer]
        self._near.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target)
            writers.append(far_writer)
            await asyncio.gather(self.pipe(reader, far_writer), self.pipe(far_reader, writer, is_answer=True))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for found in writers:
                found.transport.abort()
            self._near.discard(writer)
            self._piping.discard(task)

    async def cut(self) -> None:
        """Ends the connections there are."""
        for task in list(self._piping):
            task.cancel()
        await asyncio.gather(*self._piping, return_exceptions=True)

    def say(self, data: bytes) -> int:
        """Sends this on every connection, as if the target had sent it. Returns the number of connections."""
        for writer in self._near:
            writer.write(data)
        return len(self._near)

    async def pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_answer: bool = False) -> None:
        """Passes on what comes, and the end of it."""
        while True:
            data = await reader.read(65_536)
            await asyncio.sleep(self.delay_seconds)
            if not data:
                break
            if is_answer and self.swallows:
                continue
            writer.write(data)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def relay(*targets: int, delay_seconds: float = 0) -> AsyncIterator[Relay]:
    found = Relay(list(targets), delay_seconds)
    server = await asyncio.start_server(found.connected, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()
        await found.cut()
