"""Posts at a bounded rate over kept connections until standard input ends: steady.py RATE CONNECTIONS PATH URL...

Prints a line for each request: when it was due (seconds of the monotonic clock), how long it took from then, and the
status, 0 without an answer. A request is due at a fixed time, so that a late answer delays none of the next ones'
measurements.
"""

import asyncio
import sys
import time
from urllib.parse import urlsplit

from servers.live_edits import LOAD_BODY, LOAD_TOKEN

ANSWER_SECONDS = 60


async def main() -> None:
    rate, connections, path, *urls = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3], *sys.argv[4:]
    ended, began = asyncio.Event(), time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(connections):
            first = began + number / rate
            group.create_task(_caller(urls[number % len(urls)], path, first, connections / rate, ended))
        await asyncio.to_thread(sys.stdin.read)
        ended.set()


async def _caller(url: str, path: str, due: float, interval: float, ended: asyncio.Event) -> None:
    parts = urlsplit(url)
    head = (
        f"POST {path} HTTP/1.1\r\nhost: {parts.netloc}\r\nauthorization: Bearer {LOAD_TOKEN}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(LOAD_BODY)}\r\n\r\n"
    )
    request = head.encode() + LOAD_BODY
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    while not ended.is_set():
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        status, stays = 0, False
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                connection = connection or await asyncio.open_connection(parts.hostname, parts.port)
                status, stays = await _answer(*connection, request)
        except (OSError, EOFError, TimeoutError, ValueError):
            pass
        now = time.monotonic()
        print(f"{due:.4f} {now - due:.5f} {status}", flush=True)
        if not stays and connection is not None:
            connection[1].close()
            connection = None
        while due <= now:  # requests that were due during a long answer are sent once
            due += interval


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> tuple[int, bool]:
    """Status, and whether the connection may be used again."""
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = next(int(line.partition(":")[2]) for line in head.split("\r\n") if line.startswith("content-length:"))
    await reader.readexactly(length)
    return int(head.split(" ", 2)[1]), "connection: close" not in head


if __name__ == "__main__":
    asyncio.run(main())
