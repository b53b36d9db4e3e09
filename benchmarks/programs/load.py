"""Posts small JSON bodies to a URL with one client, and prints figures: load.py CLIENT URL SECONDS IN_FLIGHT."""

import asyncio
import json
import resource
import sys
import time
from dataclasses import asdict
from typing import cast
from urllib.parse import urlsplit

import psutil
import uvloop

from benchmarks.measure import memory

BODY = json.dumps(
    {"id": "evt-00000001", "type": "order.created", "data": {"user": "alice", "note": "x" * 110}}
).encode()
HEADERS = b"content-type: application/json\r\nce-specversion: 1.0\r\nce-id: 1\r\nce-source: s\r\nce-type: t\r\n"


async def ours(url: str, until: float, in_flight: int) -> int:
    from trigger_sources.transport.client import Endpoint

    endpoint, done = Endpoint(url), 0

    async def post() -> None:
        nonlocal done
        while time.monotonic() < until:
            answer = await endpoint.send(b"POST", b"/", HEADERS, BODY, timeout_seconds=30)
            assert answer.status < 300, answer
            done += 1

    await asyncio.gather(*(post() for _ in range(in_flight)))
    await endpoint.close()
    return done


async def aiohttp(url: str, until: float, in_flight: int) -> int:
    import aiohttp as library
    import yarl

    done, address = 0, yarl.URL(url)
    headers = dict(line.split(": ") for line in HEADERS.decode().split("\r\n") if line)

    async def post() -> None:
        nonlocal done
        while time.monotonic() < until:
            async with session.post(address, data=BODY, headers=headers) as answer:
                await answer.read()
                assert answer.status < 300
            done += 1

    connector = library.TCPConnector(limit=0)
    async with library.ClientSession(connector=connector, cookie_jar=library.DummyCookieJar()) as session:
        await asyncio.gather(*(post() for _ in range(in_flight)))
    return done


async def bare(url: str, until: float, in_flight: int) -> int:
    """Sends prepared bytes and does not parse answers: the cost of the loop and the kernel, which every client has."""
    parts, loop, done = urlsplit(url), asyncio.get_running_loop(), 0
    request = b"POST / HTTP/1.1\r\nhost: %b\r\n%bcontent-length: %d\r\n\r\n%b" % (
        parts.netloc.encode(), HEADERS, len(BODY), BODY,
    )  # fmt: skip

    class Connection(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast("asyncio.Transport", transport)
            self.transport.write(request)

        def data_received(self, data: bytes) -> None:
            nonlocal done
            done += 1
            self.transport.write(request)

    connections = [await loop.create_connection(Connection, parts.hostname, parts.port) for _ in range(in_flight)]
    await asyncio.sleep(until - time.monotonic())
    for transport, _ in connections:
        transport.abort()
    return done


async def main() -> None:
    client, url, seconds, in_flight = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
    run = {"ours": ours, "aiohttp": aiohttp, "bare": bare}[client]
    await run(url, time.monotonic() + 0.3, in_flight)  # leaves imports and new connections out of the measurement
    before, started = _cpu(), time.monotonic()
    done = await run(url, started + seconds, in_flight)
    print(
        json.dumps(
            {
                "done": done,
                "seconds": time.monotonic() - started,
                "cpu_seconds": _cpu() - before,
                **asdict(memory(psutil.Process())),
            }
        )
    )


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    uvloop.run(main())
