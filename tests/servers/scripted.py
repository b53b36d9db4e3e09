"""An HTTP server in the test's own process whose answers a test decides: the far side of the dispatcher's socket."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httptools


@dataclass(frozen=True)
class Call:
    """One request as it came."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers.get("ce-id", "")


Answer = int | tuple[int, Mapping[str, str], bytes]
Decide = Callable[[Call], Awaitable[Answer]]


@dataclass
class Scripted:
    """A function whose answers are decided by `decide`; None of them: 200."""

    decide: Decide | None = None
    calls: list[Call] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    port: int = 0
    _server: asyncio.Server | None = None
    _connections: set["_Connection"] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    async def start(self) -> None:
        """Listens: on a free port the first time, on the same one afterwards."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Connection(self), "127.0.0.1", self.port, reuse_address=True
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuses connections from now on and drops those that there are."""
        assert self._server is not None
        self._server.close()
        for connection in list(self._connections):
            connection.transport.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        while self._connections:
            await asyncio.sleep(0)

    async def answer(self, connection: "_Connection", call: Call) -> None:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            found = 200 if self.decide is None else await self.decide(call)
        finally:
            self.running -= 1
        status, headers, body = found if isinstance(found, tuple) else (found, {}, b"")
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        connection.transport.write(f"HTTP/1.1 {status} X\r\n{lines}content-length: {len(body)}\r\n\r\n".encode() + body)


@asynccontextmanager
async def scripted(decide: Decide | None = None) -> AsyncIterator[Scripted]:
    server = Scripted(decide)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


class _Connection(asyncio.Protocol):
    def __init__(self, server: Scripted) -> None:
        self.server = server
        self.parser = httptools.HttpRequestParser(self)
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.server._connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.server._connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.headers: dict[str, str] = {}
        self.body = b""

    def on_url(self, url: bytes) -> None:
        self.target = url.decode()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode().lower()] = value.decode(errors="surrogateescape")

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        call = Call(self.parser.get_method().decode(), self.target, self.headers, self.body)
        self.server.calls.append(call)
        task = asyncio.ensure_future(self.server.answer(self, call))
        self.server._tasks.add(task)
        task.add_done_callback(self.server._tasks.discard)
