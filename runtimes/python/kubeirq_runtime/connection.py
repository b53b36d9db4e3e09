"""HTTP/1.1: one client's connection, from bytes to whole requests, and from answers to bytes."""

import asyncio
import os
import sys
import time
import traceback

from . import json_text
from .answer import JSON_TYPE, TEXT_TYPE, BadAnswer
from .request import Request

try:
    import httptools
except ImportError as error:
    version = ".".join(map(str, sys.version_info[:2]))
    problem = f"httptools is not installed for Python {version}; the packages beside the runtime may be for another one"
    raise ImportError(f"{problem}: {error}") from None

HEADER_LIMIT = 65_536
MOST_CONNECTIONS = 4096
MOST_BODY_BYTES = 256 * 2**20  # of all requests that came and are not answered
SLOWEST_BYTES_PER_SECOND = 1000  # of a body, beyond the client's time-out
OVERHEAD = 8  # bytes on the wire for a byte of the body: in chunks of a single byte there are six
IDLE_SECONDS = 75.0

_REASONS = {
    200: "OK", 201: "Created", 202: "Accepted", 204: "No Content", 400: "Bad Request", 404: "Not Found",
    408: "Request Timeout", 413: "Content Too Large", 431: "Request Header Fields Too Large",
    500: "Internal Server Error", 501: "Not Implemented", 503: "Service Unavailable",
}  # fmt: skip
_OK_JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"


class ClientGone(Exception):
    """Nobody is left to answer."""


class Connection(asyncio.Protocol):
    """One client. It answers requests in order: a request waits here until the one before it is answered."""

    __slots__ = (
        "began", "body", "body_bytes", "client_closed", "counted_bytes", "fd", "headers", "is_broken", "is_busy",
        "is_head", "keep_alive", "last", "parser", "pending", "received", "refusal", "target", "transport",
        "unsent", "worker", "writable",
    )  # fmt: skip

    def __init__(self, worker):
        self.worker = worker
        self.transport = None
        self.fd = -1
        self.client_closed = False  # the connection, or its sending side
        self.parser = httptools.HttpRequestParser(self)
        self.pending = []  # (whole request, whether to keep the connection after it)
        self.is_busy = False  # a request is being answered
        self.last = time.monotonic()  # when bytes last went or came
        self.began = self.last  # when the first byte of the request came
        self.is_broken = False
        self.refusal = None  # (status, text) of the last answer on a broken connection
        self.received = 0  # bytes since the last whole request
        self.is_head = False  # the answer to a HEAD request has no body
        self.keep_alive = True
        self.writable = None  # an event while the transport's buffer is full
        self.unsent = 0
        self.headers = None  # None between requests
        self.body = None  # None until the header is complete
        self.body_bytes = 0
        self.counted_bytes = 0  # of this connection, in worker.body_bytes
        self.target = b""

    # --- called by the transport

    def connection_made(self, transport):
        self.transport = transport
        self.fd = transport.get_extra_info("socket").fileno()
        if len(self.worker.connections) >= MOST_CONNECTIONS:
            self.refuse(503, b"too many connections\n")
        else:
            self.worker.connections.add(self)

    def connection_lost(self, error):
        self.transport = None
        self.fd = -1
        self.pending.clear()
        self.uncount()
        self.worker.connections.discard(self)
        if self.writable is not None:
            self.writable.set()

    def eof_received(self):
        """A client that sends no more may still read: it gets the answer that it waits for."""
        self.keep_alive = False
        self.client_closed = True
        self.pending.clear()
        return self.is_busy

    def pause_writing(self):
        self.writable = asyncio.Event()
        self.transport.pause_reading()  # a client that does not read its answers gets no more of them

    def resume_writing(self):
        self.writable.set()
        self.writable = None
        self.next_request()

    def data_received(self, data):
        if self.is_broken:
            return
        self.last = time.monotonic()
        self.received += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.parse_again(data[upgrade.args[0] :])
        except httptools.HttpParserCallbackError:
            traceback.print_exc()
            self.refuse(500, b"the runtime failed\n")
        except httptools.HttpParserError as error:
            self.refuse(400, f"this is not HTTP: {error}\n".encode())
        else:
            if self.headers is not None and self.received > HEADER_LIMIT + OVERHEAD * self.body_bytes:
                if self.body is None:
                    self.refuse(431, b"the header is larger than %d bytes\n" % HEADER_LIMIT)
                else:
                    self.refuse(400, b"more framing than body\n")

    def parse_again(self, rest):
        """Parses a request for another protocol as HTTP/1.1, which is the only protocol here.

        The parser leaves out the body of such a request, so it gets the head again without the headers that ask.
        """
        if self.is_broken:
            return
        left_out = ("upgrade", "connection", "http2-settings")
        lines = [f"{name}: {value}" for name, value in self.headers.items() if name not in left_out]
        method = self.parser.get_method().decode("latin-1")
        head = "\r\n".join([f"{method} {self.target.decode(errors='surrogateescape')} HTTP/1.1", *lines, "", ""])
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(head.encode(errors="surrogateescape") + rest)

    # --- called by the parser

    def on_message_begin(self):
        self.headers = {}
        self.body = None
        self.body_bytes = 0
        self.target = b""
        self.began = self.last

    def on_url(self, url):
        self.target += url

    def on_header(self, name, value):
        if self.body is not None:
            return  # a trailer, which must not pass for a header
        name = name.decode("latin-1").lower()
        try:
            value = value.decode()
        except UnicodeDecodeError:  # each byte that is not UTF-8 is kept, and goes out again as it came
            value = value.decode(errors="surrogateescape")
        if name in self.headers:
            value = f"{self.headers[name]}{'; ' if name == 'cookie' else ', '}{value}"
        self.headers[name] = value

    def on_headers_complete(self):
        self.body = b""
        if self.is_broken:
            return
        headers = self.headers
        length = headers.get("content-length")
        size = len(self.target)
        for name, value in headers.items():
            size += len(name) + len(value) + len(": \r\n")
        if size > HEADER_LIMIT:
            self.refuse(431, b"the header is larger than %d bytes\n" % HEADER_LIMIT)
        elif length is not None and "transfer-encoding" in headers:
            self.refuse(400, b"content-length and transfer-encoding\n")
        elif length is not None and (len(length) > 18 or int(length) > self.worker.settings.body_limit_bytes):
            self.refuse(413, self.too_large())
        elif "expect" in headers and headers["expect"].lower() == "100-continue" and not self.is_busy:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data):
        if self.is_broken:
            return
        worker = self.worker
        self.body_bytes += len(data)
        self.counted_bytes += len(data)
        worker.body_bytes += len(data)
        if self.body_bytes > worker.settings.body_limit_bytes:
            self.refuse(413, self.too_large())
        elif worker.body_bytes > MOST_BODY_BYTES:
            self.refuse(503, b"too many large requests at once\n")
        elif not self.body:
            self.body = data
        elif isinstance(self.body, list):
            self.body.append(data)
        else:
            self.body = [self.body, data]

    def on_message_complete(self):
        if self.is_broken:
            return
        body = self.body
        if isinstance(body, list):
            body = b"".join(body)
        parser = self.parser
        headers = self.headers
        method = parser.get_method().decode("latin-1")
        if parser.should_upgrade() and method != "CONNECT":
            return  # parse_again follows
        request = Request(method, self.target.decode("latin-1"), headers, body)
        keep_alive = parser.should_keep_alive()
        if "connection" in headers and keep_alive and parser.get_http_version() == "1.0":
            keep_alive = False  # this server does not speak HTTP/1.0's way to keep a connection
        self.headers = None
        self.received = 0
        if method == "CONNECT":
            self.refuse(501, b"this is not a proxy\n")
        elif self.is_busy or self.writable is not None:
            self.pending.append((request, keep_alive))
            self.transport.pause_reading()
        else:
            self.begin(request, keep_alive)

    def too_large(self):
        limit = self.worker.settings.body_limit_bytes
        return b"the body is larger than %d bytes; the function's variable FUNC_BODY_LIMIT moves this limit\n" % limit

    # --- requests

    def begin(self, request, keep_alive):
        self.is_busy = True
        worker = self.worker
        self.keep_alive = keep_alive and self.keep_alive and not worker.is_stopping
        method = request.method
        self.is_head = method == "HEAD"
        # A call of the fabric is the handler's, whatever its path: a trigger shows nobody the runtime's own answers
        if method == "GET" and "kubeirq-attempt" not in request._headers and self.answer_own(request.path):
            return
        worker.calls.accept(self, request)

    def answer_own(self, path):
        """Answers /healthz and /metrics, which are the runtime's own; returns whether it did."""
        worker = self.worker
        if path == "/healthz":
            up = worker.is_ready and not worker.is_stopping
            self.respond(200 if up else 503, worker.health_headers(), TEXT_TYPE, b"OK" if up else b"not ready")
        elif path == "/metrics":
            self.respond(200, (), "text/plain; version=0.0.4", worker.metrics.text().encode())
        else:
            return False
        return True

    def next_request(self):
        """Goes on with the requests that came in the meantime, or reads on."""
        if self.transport is None or self.is_busy or self.writable is not None:
            return
        if self.pending:
            self.begin(*self.pending.pop(0))
        elif self.refusal is not None:
            (status, text), self.refusal = self.refusal, None
            self.keep_alive = self.is_head = False
            self.respond(status, (("retry-after", "1"),) if status == 503 else (), TEXT_TYPE, text)
            return
        if not self.pending and not self.is_broken:
            self.transport.resume_reading()

    def refuse(self, status, text):
        """Refuses the request, and ends the connection: the beginning of the next request is unknown."""
        if self.is_broken:
            return
        self.is_broken = True
        self.refusal = (status, text)
        self.next_request()  # after the answers to the requests before it

    # --- answers

    def respond(self, status, headers, content_type, body):
        transport = self.transport
        if transport is None:
            return
        if status == 200 and content_type == JSON_TYPE and not headers and self.keep_alive and not self.is_head:
            transport.write(_OK_JSON % (len(body), body))
        elif status in (204, 304):
            transport.write(self.head(status, headers, None) + b"\r\n")
        else:
            head = b"%bcontent-length: %d\r\n\r\n" % (self.head(status, headers, content_type), len(body))
            transport.write(head if self.is_head else head + body)
        self.answered()

    def head(self, status, headers, content_type):
        """Status line and headers, without the empty line at the end."""
        lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}\r\n"]
        for name, value in headers:
            if name == "content-type":
                content_type = None
            elif name in ("content-length", "transfer-encoding", "connection", "keep-alive"):
                continue  # this connection sets them itself
            lines.append(f"{name}: {value}\r\n")
        if content_type is not None:
            lines.append(f"content-type: {content_type}\r\n")
        if not self.keep_alive:
            lines.append("connection: close\r\n")
        return "".join(lines).encode(errors="surrogateescape")

    def answered(self):
        self.is_busy = False
        self.last = self.began = time.monotonic()
        if not self.pending:
            self.uncount()
        if not self.keep_alive:
            self.transport.close()
        elif self.pending or self.refusal is not None:
            self.worker.loop.call_soon(self.next_request)

    def uncount(self):
        self.worker.body_bytes -= self.counted_bytes
        self.counted_bytes = 0

    def begin_stream(self, status, headers, content_type):
        if self.transport is None:
            raise ClientGone("the client is gone")
        if self.parser.get_http_version() == "1.0":
            raise BadAnswer("a stream, which HTTP/1.0 does not have")
        self.transport.write(self.head(status, headers, content_type) + b"transfer-encoding: chunked\r\n\r\n")

    async def send_part(self, part):
        if isinstance(part, str):
            part = part.encode(errors="replace")
        elif isinstance(part, (dict, list)):
            part = json_text.dumps(part) + b"\n"
        elif not isinstance(part, (bytes, bytearray)):
            raise BadAnswer(f"a part that is a {type(part).__name__}")
        if self.writable is not None:
            try:
                async with asyncio.timeout(self.worker.settings.client_seconds):
                    await self.writable.wait()
            except TimeoutError:
                raise ClientGone("the client reads too slowly") from None
        if self.transport is None:
            raise ClientGone("the client is gone")
        if part and not self.is_head:
            self.transport.write(b"%x\r\n%b\r\n" % (len(part), part))
        await asyncio.sleep(0)  # other calls have their turn

    def end_stream(self):
        if self.transport is not None:
            if not self.is_head:
                self.transport.write(b"0\r\n\r\n")
            self.answered()

    def answer_from_outside(self, answer):
        """Called by the watchdog's thread, when the loop will not turn again."""
        transport = self.transport
        if transport is None or transport.get_write_buffer_size():
            return  # the client is gone, or half of an answer is before it
        try:
            os.write(self.fd, answer)
        except OSError:
            return  # the client is gone

    # --- the end

    def check(self, now):
        """Ends a connection that sends or reads too slowly, or that nobody uses."""
        if self.transport is None or self.is_busy:
            return
        seconds = self.worker.settings.client_seconds
        unsent = self.transport.get_write_buffer_size()
        if unsent:
            if unsent != self.unsent:
                self.last = now
            elif now - self.last > seconds:
                self.abort()
        elif self.headers is not None and not self.is_broken:
            if now - self.began > seconds + self.body_bytes / SLOWEST_BYTES_PER_SECOND:
                self.refuse(408, b"the request came too slowly\n")
        elif now - self.last > IDLE_SECONDS:
            self.close()
        self.unsent = unsent

    def is_idle(self, before):
        """Whether no request is on its way. The first one of a connection that was made after `before` may be."""
        if self.is_busy or self.headers is not None or self.transport.get_write_buffer_size():
            return False
        has_served = self.target != b""
        return has_served or self.last < before

    def close(self):
        if self.transport is not None:
            self.transport.close()

    def abort(self):
        if self.transport is not None:
            self.transport.abort()
