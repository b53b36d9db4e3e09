"""The dispatcher's HTTP client with servers that send false data, are slow, or disappear."""

import asyncio
import random
import select
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from servers.ports import free_port

from trigger_sources.delivery import Answer
from trigger_sources.transport.client import ConnectionLost, Endpoint, NoAnswer, Unreachable

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Hostile:
    """The requests that the server received."""

    def __init__(self) -> None:
        self.connections = 0
        self.requests = 0
        self.url = ""


@asynccontextmanager
async def hostile(serve: Serve, port: int = 0) -> AsyncIterator[Hostile]:
    seen = Hostile()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.connections += 1
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", port)
    seen.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    try:
        yield seen
    finally:
        server.close()


async def request_of(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
    return head + await reader.readexactly(length)


async def post(endpoint: Endpoint, timeout_seconds: float = 5, body: bytes = b"{}") -> Answer:
    return await endpoint.send(b"POST", b"/", b"x: y\r\n", body, timeout_seconds=timeout_seconds)


@asynccontextmanager
async def client(url: str, **options: Any) -> AsyncIterator[Endpoint]:
    endpoint = Endpoint(url, **options)
    try:
        yield endpoint
    finally:
        await endpoint.close()
        await asyncio.sleep(0)


def answering(*parts: bytes | float) -> Serve:
    """Answers one request with these bytes, waits where there is a number of seconds, then closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        for part in parts:
            if isinstance(part, float):
                await asyncio.sleep(part)
            else:
                writer.write(part)
                await writer.drain()

    return serve


@pytest.mark.parametrize(
    ("parts", "status", "body"),
    [
        ((OK,), 200, b"ok"),
        ((b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",), 200, b"ok"),
        ((b"HTTP/1.1 200 OK\r\n\r\nuntil it closes",), 200, b"until it closes"),
        ((b"HTTP/1.1 204 No Content\r\n\r\n",), 204, b""),
        ((b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\na: b\r\n\r\n", OK), 200, b"ok"),
        ((b"HTTP/1.1 200 OK\r\ncontent-le", 0.05, b"ngth: 2\r\n\r\no", 0.05, b"k"), 200, b"ok"),
        ((OK + b"HTTP/1.1 500 Injected\r\ncontent-length: 0\r\n\r\n",), 200, b"ok"),
    ],
)
async def test_complete_answers_are_read(parts: tuple[bytes | float, ...], status: int, body: bytes) -> None:
    async with hostile(answering(*parts)) as server, client(server.url) as endpoint:
        answer = await post(endpoint)
        assert (answer.status, answer.body) == (status, body)


@pytest.mark.parametrize(
    "parts",
    [
        (b"GARBAGE\r\n\r\n",),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort",),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n",),
        (b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",),
        (b"HTTP/1.1 200 OK\r\nlarge: " + b"a" * 70_000 + b"\r\n\r\n",),
        (b"HTTP/1.1 200 OK\r\n" + b"endless: x\r\n" * 10_000,),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n",),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"10000\r\n" + b"a" * 65_536 + b"\r\n") * 1,
        (b"",),
    ],
)
async def test_incomplete_or_oversized_answers_are_errors(parts: tuple[bytes, ...]) -> None:
    async with hostile(answering(*parts)) as server, client(server.url, max_body_bytes=60_000) as endpoint:
        with pytest.raises(NoAnswer):
            await post(endpoint)


@pytest.mark.parametrize(
    "parts",
    [
        (5.0,),
        (b"HTTP/1.1 200 OK\r\n", 5.0),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n", *[b"a", 0.05] * 90),
    ],
)
async def test_every_phase_ends_with_the_time_out(parts: tuple[bytes | float, ...]) -> None:
    async with hostile(answering(*parts)) as server, client(server.url) as endpoint:
        started = asyncio.get_running_loop().time()
        with pytest.raises(NoAnswer, match="timed out"):
            await post(endpoint, timeout_seconds=0.4)
        assert 0.39 <= asyncio.get_running_loop().time() - started < 1.5


async def test_a_server_that_never_reads_ends_with_the_time_out() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(3)

    async with hostile(serve) as server, client(server.url) as endpoint:
        with pytest.raises(NoAnswer):
            await post(endpoint, timeout_seconds=0.3, body=b"x" * 8_000_000)


@pytest.mark.parametrize("is_reset", [False, True])
async def test_a_request_on_a_kept_connection_that_was_closed_unread_is_sent_again_on_a_new_one(is_reset: bool) -> None:
    """The server is a thread, so that it closes the connection while the client's loop does not turn to hear of it."""
    connections, read = 0, []

    def serve(listening: socket.socket, may_close: threading.Event, has_closed: threading.Event) -> None:
        nonlocal connections
        for _ in range(2):
            accepted, _ = listening.accept()
            connections += 1
            read.append(accepted.recv(65_536))
            accepted.sendall(OK)
            if connections == 1:
                may_close.wait(30)
                if is_reset:
                    select.select([accepted], [], [], 30)  # the second request has come, and is not read
                accepted.close()
                has_closed.set()
            else:
                accepted.recv(1)
                accepted.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        may_close, has_closed = threading.Event(), threading.Event()
        serving = asyncio.create_task(asyncio.to_thread(serve, listening, may_close, has_closed))
        async with client(f"http://127.0.0.1:{listening.getsockname()[1]}/") as endpoint:
            assert (await post(endpoint)).status == 200
            may_close.set()
            if not is_reset:
                has_closed.wait(30)  # the loop must not turn
            assert (await post(endpoint)).status == 200
        await serving
        assert (connections, len(read)) == (2, 2)


async def test_a_request_on_a_kept_connection_that_was_read_is_not_repeated() -> None:
    requests = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        for _ in range(2):
            await request_of(reader)
            requests += 1
            if requests != 2:  # the second one is read, and never answered
                writer.write(OK)

    async with hostile(serve) as server, client(server.url) as endpoint:
        assert (await post(endpoint)).status == 200
        with pytest.raises(ConnectionLost, match="before an answer"):
            await post(endpoint)
        assert (server.connections, requests) == (1, 2)


async def test_a_request_on_a_new_connection_that_closes_is_not_repeated() -> None:
    async with hostile(answering()) as server, client(server.url) as endpoint:
        with pytest.raises(NoAnswer, match="before an answer"):
            await post(endpoint)
        assert server.connections == 1


@pytest.mark.parametrize("resets", [1, 2])
async def test_a_request_on_a_new_connection_that_is_reset_unread_is_sent_once_more(resets: int) -> None:
    """A server that stops resets the connections that it has not accepted yet."""
    connections = 0
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            nonlocal connections
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                connections += 1
                if connections > resets:
                    peer.recv(65_536)
                    peer.sendall(OK)
                    peer.close()
                    continue
                select.select([peer], [], [])  # the request is there, and nobody reads it
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                peer.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            async with client(f"http://127.0.0.1:{listener.getsockname()[1]}/") as endpoint:
                if resets == 1:
                    assert (await post(endpoint)).status == 200
                else:
                    with pytest.raises(ConnectionLost, match="before an answer"):
                        await post(endpoint)
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
    assert connections == 2


async def test_a_request_is_not_repeated_if_the_connection_breaks_in_the_middle_of_its_answer() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(OK)
        await request_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npart")
        await writer.drain()

    async with hostile(serve) as server, client(server.url) as endpoint:
        await post(endpoint)
        with pytest.raises(NoAnswer, match="middle"):
            await post(endpoint)
        assert server.connections == 1


async def test_garbage_after_an_answer_is_never_the_next_answer() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(OK)
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(b"HTTP/1.1 500 Injected\r\ncontent-length: 0\r\n\r\n")
        await request_of(reader)

    async with hostile(serve) as server, client(server.url) as endpoint:
        assert (await post(endpoint)).status == 200
        await asyncio.sleep(0.15)  # the garbage arrives in this time
        assert (await post(endpoint)).status == 200
        assert server.connections == 2


async def test_a_refused_connection_is_unreachable() -> None:
    async with client(f"http://127.0.0.1:{free_port()}/") as endpoint:
        with pytest.raises(Unreachable, match="refused"):
            await post(endpoint)


async def test_a_refused_connection_to_an_address_that_serves_is_tried_again() -> None:
    """The proxy of a node hears of a new server later than the watcher that says so here."""
    port = free_port()
    async with client(f"http://127.0.0.1:{port}/", serves=lambda: True) as endpoint:
        answer = asyncio.ensure_future(post(endpoint))
        await asyncio.sleep(0.3)
        assert not answer.done()
        async with hostile(answering(OK), port):
            assert (await answer).status == 200


async def test_a_refused_connection_is_not_tried_again_once_nobody_serves_the_address() -> None:
    said = iter([True, True, False])  # a further question raises StopIteration
    async with client(f"http://127.0.0.1:{free_port()}/", serves=lambda: next(said)) as endpoint:
        with pytest.raises(Unreachable, match="refused"):
            await post(endpoint)
    assert next(said, None) is None


async def test_an_address_that_serves_and_refuses_is_unreachable_in_the_end() -> None:
    async with client(f"http://127.0.0.1:{free_port()}/", serves=lambda: True) as endpoint:
        with pytest.raises(Unreachable, match="refused"):
            await post(endpoint)


async def test_plain_http_on_a_tls_address_is_unreachable() -> None:
    async with hostile(answering(OK)) as server, client(server.url.replace("http:", "https:")) as endpoint:
        with pytest.raises((Unreachable, NoAnswer)):
            await post(endpoint)


@pytest.mark.parametrize(
    ("method", "target"), [(b"PO ST", b"/"), (b"POST", b"/ x"), (b"POST", b"/\r\nhost: evil"), (b"", b"/")]
)
async def test_a_url_cannot_inject_into_the_request_line(method: bytes, target: bytes) -> None:
    async with client("http://127.0.0.1:9/") as endpoint:
        with pytest.raises(ValueError, match="is no"):
            await endpoint.send(method, target, b"", b"", timeout_seconds=1)


async def keeps_alive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await request_of(reader)
        await asyncio.sleep(random.random() * 0.003)
        writer.write(OK)


async def test_connections_are_kept_and_bounded() -> None:
    async with hostile(keeps_alive) as server, client(server.url, max_connections=5) as endpoint:
        answers = await asyncio.gather(*(post(endpoint) for _ in range(300)))
        assert {answer.status for answer in answers} == {200}
        assert server.connections <= 5


async def test_a_thousand_cancelled_requests_leak_nothing() -> None:
    async with hostile(keeps_alive) as server, client(server.url, max_connections=4) as endpoint:
        dice = random.Random(5)
        for _ in range(50):
            tasks = [asyncio.create_task(post(endpoint)) for _ in range(20)]
            await asyncio.sleep(dice.random() * 0.004)
            for task in tasks:
                if dice.random() < 0.7:
                    task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(5):
            answers = await asyncio.gather(*(post(endpoint) for _ in range(40)))
        assert {answer.status for answer in answers} == {200}
