"""A function that only counts: counter.py PORT. Answers every POST with 200, and GET with the number of POSTs."""

import asyncio
import sys
from typing import cast

import httptools
import uvloop

calls = 0


class Connection(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's transport is not an instance of it
        self.parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        global calls
        body = b""
        if self.parser.get_method() == b"GET":
            body = b"%d" % calls
        else:
            calls += 1
        self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
