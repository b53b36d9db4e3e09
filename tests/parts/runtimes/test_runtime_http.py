"""The runtime's HTTP: hostile, slow, greedy, half-closed and many clients."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest
from servers.function import Function, function

ECHO = """
def handler(event, context):
    data = event["data"]
    return data if data is not None else "nothing"
"""


@contextlib.asynccontextmanager
async def connected(found: Function) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", found.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bytes]:
    """Status, head and body of one answer."""
    async with asyncio.timeout(20):
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        _, _, length = head.partition(b"content-length: ")
        body = await reader.readexactly(int(length.split(b"\r\n")[0])) if length else b""
    return int(head.split()[1]), head, body


async def exchange(found: Function, request: bytes) -> bytes:
    """All that comes back until the runtime closes."""
    async with connected(found) as (reader, writer), asyncio.timeout(20):
        writer.write(request)
        return await reader.read()


def post(body: bytes, *headers: str, version: str = "1.1") -> bytes:
    lines = [f"POST / HTTP/{version}", "host: x", f"content-length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


NEXT = post(b"next", "connection: close")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\0\xff\xfe" * 10, 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: +5\r\n\r\nhello", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5, 5\r\n\r\nhello", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0x5\r\n\r\nhello", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: identity\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" + b"f" * 30 + b"\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\nx: \0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\n folded: x\r\n\r\n", 400),
        (b"POST / HTTP/9.9\r\nhost: x\r\n\r\n", 400),
        (b"CONNECT other:443 HTTP/1.1\r\nhost: x\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9999999999999\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n7d1\r\n" + b"a" * 2001 + b"\r\n", 413),
        (b"POST /" + b"a" * 70_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", 431),
        (b"POST / HTTP/1.1\r\n" + b"".join(b"h%d: v\r\n" % n for n in range(9000)) + b"\r\n", 431),
        (b"POST / HTTP/1.1\r\nendless: " + b"a" * 100_000, 431),
        (
            b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\ntrailer: " + b"a" * 100_000,
            400,
        ),
        (
            b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1;" + b"a" * 100_000,
            400,
        ),
    ],
)
async def test_what_is_no_good_http_is_refused_and_ends_its_connection(request_: bytes, status: int) -> None:
    async with function(ECHO, FUNC_BODY_LIMIT="2000") as found:
        text = await exchange(found, request_)
        assert text.count(b"HTTP/1.1 ") == 1
        assert text.startswith(b"HTTP/1.1 %d " % status)
        assert b"connection: close" in text
        assert (await exchange(found, NEXT)).endswith(b"next")


async def test_a_trailer_does_not_pass_for_a_header() -> None:
    source = "def handler(event, context):\n    return str(event['event-id'])"
    async with function(source) as found:
        head = b"POST / HTTP/1.1\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
        request = head + b"1\r\na\r\n0\r\nce-id: evil\r\n\r\n"
        assert (await exchange(found, request)).endswith(b"None")


async def test_repeated_headers_are_joined_and_cookies_in_their_own_way() -> None:
    source = "def handler(event, context):\n    return event['extensions']['request'].headers"
    async with function(source) as found:
        request = post(b"", "x-a: 1", "cookie: a=1", "X-A: 2", "Cookie: b=2", "connection: close")
        _, _, body = (await exchange(found, request)).partition(b"\r\n\r\n")
        headers = json.loads(body)
        assert (headers["x-a"], headers["cookie"]) == ("1, 2", "a=1; b=2")


async def test_a_bad_request_behind_a_good_one_costs_the_good_one_nothing() -> None:
    source = """
import asyncio
async def handler(event, context):
    await asyncio.sleep(0.1)
    return "good"
"""
    async with function(source) as found:
        text = await exchange(found, post(b"x") + b"GARBAGE\r\n\r\n")
        assert [part[:3] for part in text.split(b"HTTP/1.1 ")[1:]] == [b"200", b"400"]
        assert b"good" in text


async def test_who_asks_for_another_protocol_is_answered_in_this_one() -> None:
    async with function(ECHO) as found, connected(found) as (reader, writer):
        for _ in range(2):
            upgrade = post(b"body", "connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AA")
            writer.write(upgrade + post(b"after"))
            assert (await answer(reader))[::2] == (200, b"body")
            assert (await answer(reader))[::2] == (200, b"after")


async def test_a_head_has_no_body_and_the_connection_goes_on() -> None:
    async with function("def handler(event, context):\n    return {'a': 1}") as found:
        text = await exchange(found, b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n" + NEXT)
        assert text.count(b"content-length: 7\r\n") == 2
        assert text.count(b'{"a":1}') == 1


async def test_a_client_that_expects_to_be_asked_is_asked() -> None:
    async with function(ECHO, FUNC_BODY_LIMIT="100") as found, connected(found) as (reader, writer):
        writer.write(post(b"", "expect: 100-continue").replace(b"length: 0", b"length: 4"))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"body")
        assert (await answer(reader))[::2] == (200, b"body")
        writer.write(post(b"", "expect: 100-continue").replace(b"length: 0", b"length: 101"))
        assert (await answer(reader))[0] == 413


async def test_http_1_0_and_half_closed_clients_get_their_answer() -> None:
    async with function(ECHO) as found:
        text = await exchange(found, post(b"old", "connection: keep-alive", version="1.0"))
        assert b"connection: close" in text
        assert text.endswith(b"old")
    source = "import asyncio\nasync def handler(event, context):\n    await asyncio.sleep(0.2)\n    return 'late'"
    async with function(source) as found, connected(found) as (reader, writer):
        writer.write(post(b""))
        writer.write_eof()
        assert (await answer(reader))[::2] == (200, b"late")
        assert await reader.read() == b""


@pytest.mark.parametrize("begin", [b"POST /", post(b"")[:-2], post(b"x" * 20)[:-15]])
async def test_a_client_that_sends_a_byte_now_and_then_is_ended(begin: bytes) -> None:
    async with function(ECHO, FUNC_CLIENT_TIMEOUT="1") as found, connected(found) as (reader, writer):
        writer.write(begin)
        sent = asyncio.create_task(_drip(writer))
        try:
            assert (await answer(reader))[0] == 408
        finally:
            sent.cancel()
        assert (await exchange(found, NEXT)).endswith(b"next")


async def _drip(writer: asyncio.StreamWriter) -> None:
    for _ in range(12):
        await asyncio.sleep(0.3)
        writer.write(b"x")


async def test_a_client_that_reads_nothing_costs_little_memory_and_is_ended() -> None:
    source = """
async def handler(event, context):
    if event["data"] == b"stream":
        return parts()
    if event["data"] == b"large":
        return b"x" * 50_000_000
    return "next"
async def parts():
    try:
        for _ in range(100_000):
            yield b"x" * 100_000
    finally:
        print("closed", flush=True)
"""
    async with function(source, FUNC_CLIENT_TIMEOUT="1") as found:
        before = sum(member.memory_info().rss for member in found.family())
        async with connected(found) as (_, writer):
            writer.write(post(b"stream"))
            async with asyncio.timeout(10):
                while "reads too slowly" not in found.output():
                    assert sum(member.memory_info().rss for member in found.family()) < before + 20_000_000
                    await asyncio.sleep(0.05)
            assert "closed" in found.output()
        async with connected(found) as (reader, writer):
            writer.write(post(b"large"))
            async with asyncio.timeout(10):
                await _wait_until_grown(found, before + 40_000_000)
                while sum(member.memory_info().rss for member in found.family()) > before + 40_000_000:
                    await asyncio.sleep(0.05)
            assert not reader.at_eof()
        assert (await exchange(found, NEXT)).endswith(b"next")


async def _wait_until_grown(found: Function, size: int) -> None:
    while sum(member.memory_info().rss for member in found.family()) < size:
        await asyncio.sleep(0.005)


async def test_two_hundred_connections_at_once_are_all_answered() -> None:
    source = """
import asyncio
async def handler(event, context):
    await asyncio.sleep(0.01)
    return event["data"]
"""
    async with function(source) as found:

        async def one(number: int) -> bool:
            async with connected(found) as (reader, writer):
                for _ in range(5):
                    writer.write(post(b"%d" % number))
                    if (await answer(reader))[::2] != (200, b"%d" % number):
                        return False
                return True

        assert all(await asyncio.gather(*(one(number) for number in range(200))))


async def test_what_is_too_much_to_wait_is_told_to_come_again() -> None:
    source = """
import asyncio
async def handler(event, context):
    await asyncio.sleep(30 if event["data"] == b"long" else 0)
    return "next"
"""
    async with function(source, FUNC_CONCURRENCY="1", FUNC_TIMEOUT="4") as found:
        async with connected(found) as (reader, writer), contextlib.AsyncExitStack() as stack:
            writer.write(post(b"long"))
            for _ in range(10):
                _, other = await stack.enter_async_context(connected(found))
                other.write(post(b"waits"))
            crowd = [await stack.enter_async_context(connected(found)) for _ in range(1010)]
            for _, other in crowd:
                other.write(post(b"waits"))
            refused = asyncio.as_completed([answer(reader) for reader, _ in crowd])
            status, head, _ = await next(iter(refused))
            assert status == 503
            assert b"retry-after: 1" in head
            assert (await answer(reader))[0] == 408
            rest = [(await one)[0] for one in refused]
            assert rest.count(200) + rest.count(503) == 1009
            assert rest.count(200) > 900
        assert (await exchange(found, NEXT)).endswith(b"next")


async def test_a_body_of_many_pieces_and_megabytes_comes_whole() -> None:
    source = "import hashlib\ndef handler(event, context):\n    return hashlib.sha1(event['data']).hexdigest()"
    import hashlib

    body = bytes(range(256)) * 16_000
    async with function(source) as found, connected(found) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        for start in range(0, len(body), 10_000):
            part = body[start : start + 10_000]
            writer.write(b"%x\r\n%b\r\n" % (len(part), part))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        assert (await answer(reader))[2].decode() == hashlib.sha1(body).hexdigest()
        small = b"".join(b"1\r\n%c\r\n" % (97 + n % 26) for n in range(20_000))
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" + small + b"0\r\n\r\n")
        whole = bytes(97 + n % 26 for n in range(20_000))
        assert (await answer(reader))[2].decode() == hashlib.sha1(whole).hexdigest()


@pytest.mark.parametrize("path", ["/metrics", "/healthz"])
async def test_a_call_of_the_fabric_is_the_handlers_and_shows_nobody_the_runtimes_own_answers(path: str) -> None:
    """A trigger with the path /{all...} sends each path on, and its callers may be anyone."""
    code = "def handler(event, context):\n    return 'mine ' + event['extensions']['request'].path\n"
    async with function(code) as found:
        asked = f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        assert f"mine {path}" in (await exchange(found, f"{asked}kubeirq-attempt: 1\r\n\r\n".encode())).decode()
        assert "mine" not in (await exchange(found, f"{asked}\r\n".encode())).decode()


async def test_while_a_handler_blocks_a_probe_gets_ok_and_a_call_of_the_fabric_waits_for_the_handler() -> None:
    code = (
        "import time\n"
        "def handler(event, context):\n"
        "    if event['extensions']['request'].path == '/slow':\n"
        "        time.sleep(2)\n"
        "    return 'mine'\n"
    )
    asked = "GET {} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{}\r\n"
    async with function(code) as found:
        slow = asyncio.ensure_future(exchange(found, asked.format("/slow", "").encode()))
        await asyncio.sleep(1)  # the watchdog answers for the loop by now
        of_fabric = asyncio.ensure_future(exchange(found, asked.format("/healthz", "Kubeirq-Attempt: 1\r\n").encode()))
        assert (await exchange(found, asked.format("/healthz", "").encode())).endswith(b"OK")
        assert (await of_fabric).endswith(b"mine")
        assert (await slow).endswith(b"mine")
