"""One HTTP/1.1 connection of the dispatcher: it sends a request, takes one bounded answer and refuses the rest."""

import asyncio
import fcntl
import math
import ssl
import termios
from collections.abc import Callable
from typing import cast

import httptools

from trigger_sources.delivery import Answer
from trigger_sources.encoding.header_text import header_text


class NoAnswer(Exception):
    """The function is failing: the request was sent, and no whole answer came. The text says why."""


class ConnectionLost(NoAnswer):
    """The connection was lost while the request was under way: its process may have ended."""


class Stale(Exception):
    """The other side closed or reset the connection before it read the request: nothing of it was processed.

    It closed a kept connection that was idle, or it stopped before it accepted a new one.
    """


Answered = Callable[[Answer | NoAnswer | Stale], None]


class Connection(asyncio.Protocol):
    """Idle, or busy with one request. It calls `released` when it is idle again, and `closed` when it is closed."""

    __slots__ = (
        "_answer_begun", "_answered", "_body", "_body_bytes", "_closed", "_complete", "_garbage", "_head_bytes",
        "_head_only", "_headers", "_headers_complete", "_keep", "_max_body_bytes", "_max_header_bytes", "_parser",
        "_problem", "_released", "_status", "_until_close", "_was_taken", "deadline", "idle_since", "retire_at",
        "timeout_seconds", "transport", "used",
    )  # fmt: skip

    def __init__(
        self,
        max_header_bytes: int,
        max_body_bytes: int,
        released: Callable[["Connection"], None],
        closed: Callable[["Connection"], None],
    ) -> None:
        self._max_header_bytes = max_header_bytes
        self._max_body_bytes = max_body_bytes
        self._released = released
        self._closed = closed
        self._answered: Answered | None = None  # while busy
        self._parser = httptools.HttpResponseParser(self)
        self.transport: asyncio.Transport | None = None
        self.used = False  # whether it has answered a request
        self.deadline = math.inf  # of the running request, by the loop's clock
        self.timeout_seconds = 0.0
        self.idle_since = 0.0
        self.retire_at = 0.0
        self._headers: list[tuple[str, str]] = []
        self._body: list[bytes] = []
        self._begin()

    def _begin(self) -> None:
        self._headers = []
        self._body = []
        self._body_bytes = 0
        self._head_bytes = 0
        self._headers_complete = False
        self._answer_begun = False
        self._complete = False
        self._garbage = False
        self._until_close = False
        self._head_only = False
        self._keep = False
        self._status = 0
        self._problem = ""
        self._was_taken = False

    def start(self, answered: Answered, head: bytes, body: bytes, head_only: bool, deadline: float) -> None:
        """Sends a request. `answered` is called once with the result, unless the request is aborted."""
        if self.transport is None:
            answered(NoAnswer("the connection was closed at once"))
            return
        self._begin()
        self._answered = answered
        self._head_only = head_only
        self.deadline = deadline
        if len(body) < 65_536:
            self.transport.write(head + body)
        else:
            self.transport.writelines((head, body))

    @property
    def is_open(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    def fail(self, problem: str) -> None:
        """Ends the request with NoAnswer, and closes the connection."""
        self._end(NoAnswer(problem))

    def abort(self) -> None:
        """Drops the request without a result, and closes the connection."""
        self._answered = None
        self._drop()

    def abort_for(self, answered: Answered) -> None:
        """The same, unless the request is complete and another one uses the connection now."""
        if self._answered is answered:
            self.abort()

    # --- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._answered is None:
            # Unexpected bytes must not become the next request's answer
            self._drop()
            return
        self._answer_begun = True
        if not self._headers_complete:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._problem = self._problem or "the answer switches protocols"
        except httptools.HttpParserError as error:
            if not self._complete:
                self._problem = self._problem or f"the answer is not HTTP: {error}"
            self._garbage = True
        if self._problem:
            self.fail(self._problem)
        elif self._complete:
            self._finish()
        elif not self._headers_complete and self._head_bytes > self._max_header_bytes:
            self.fail(f"the answer's header is over {self._max_header_bytes} bytes")

    def eof_received(self) -> bool:
        if self._answered is not None and self.transport is not None:
            self._was_taken = _has_taken_all(self.transport)
        return False  # the transport closes, and connection_lost decides about the request

    def connection_lost(self, error: Exception | None) -> None:
        if self._answered is not None:
            if self._until_close and self._headers_complete and error is None:
                self._garbage = True
                self._finish()
            elif not self._answer_begun and not self._was_taken:
                self._end(Stale())
            elif self._answer_begun:
                self._end(ConnectionLost("the connection was lost in the middle of the answer"))
            else:
                self._end(ConnectionLost("the connection was lost before an answer came"))
        self.transport = None
        self._closed(self)

    # --- the parser's side; the parser would hide the reason of an exception, so problems are stored

    def on_message_begin(self) -> None:
        if self._complete:
            self._garbage = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._complete:
            return
        try:
            text = value.decode()
        except UnicodeDecodeError:
            text = header_text(value)
        self._headers.append((name.decode("latin-1").lower(), text))

    def on_headers_complete(self) -> None:
        if self._complete:
            return
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            if status == 101:
                self._problem = "the answer switches protocols"
            return
        self._headers_complete = True
        self._status = status
        if self._head_bytes > self._max_header_bytes and self._headers_bytes() > self._max_header_bytes:
            self._problem = f"the answer's header is over {self._max_header_bytes} bytes"
            return
        names = dict(self._headers)  # of several, the last one counts
        if self._head_only:
            self._garbage = True  # the parser waits for a body that will not come
            self._complete = True
        elif "transfer-encoding" not in names:
            length = names.get("content-length")
            if length is None:
                self._until_close = status not in (204, 304)
            elif length.isdigit() and int(length) > self._max_body_bytes and status not in (204, 304):
                self._problem = _too_large(self._max_body_bytes)

    def on_body(self, data: bytes) -> None:
        if self._complete:
            return
        self._body_bytes += len(data)
        if self._body_bytes > self._max_body_bytes:
            self._problem = _too_large(self._max_body_bytes)
        else:
            self._body.append(data)

    def on_message_complete(self) -> None:
        if self._complete:
            return
        if not self._headers_complete:  # 100 Continue or 103 Early Hints: the answer is still to come
            self._headers.clear()
            return
        if self._until_close and self._status not in (204, 304):
            return
        self._complete = True
        self._keep = self._parser.should_keep_alive()  # asked now, because the parser goes on to the next message

    # --- helpers

    def _headers_bytes(self) -> int:
        return sum(len(name) + len(value) + len(": \r\n") for name, value in self._headers)

    def _finish(self) -> None:
        answered, self._answered = self._answered, None
        body = self._body
        answer = Answer(self._status, self._headers, body[0] if len(body) == 1 else b"".join(body))
        transport = self.transport
        self.deadline = math.inf
        self.used = True
        if (
            self._garbage
            or transport is None
            or transport.is_closing()
            or not self._keep
            or transport.get_write_buffer_size()  # the request is not sent completely
        ):
            self._drop()
        else:
            self._released(self)
        if answered is not None:
            answered(answer)

    def _end(self, error: NoAnswer | Stale) -> None:
        answered, self._answered = self._answered, None
        self._drop()
        if answered is not None:
            answered(error)

    def _drop(self) -> None:
        self.deadline = math.inf
        if self.transport is not None:
            self.transport.abort()


def _has_taken_all(transport: asyncio.Transport) -> bool:
    """Whether the other side had taken the whole request when it closed the connection in order.

    A server that closes an idle connection while a request is on its way never acknowledges that request, and a process
    that ends with a request unread resets the connection. So what is acknowledged, and not reset, was read: the process
    may have ended because of it. Where the system does not tell what is acknowledged, the request counts as read.
    """
    if transport.get_write_buffer_size():
        return False
    unacknowledged = bytearray(4)
    try:
        fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, unacknowledged)
    except OSError:
        return True
    return not any(unacknowledged)


def tls_context() -> ssl.SSLContext:
    """A TLS context that verifies certificates and names."""
    return ssl.create_default_context()


def _too_large(limit: int) -> str:
    """A hint for the author: the handler has done its work, and its log says nothing."""
    return f"the answer's body is over {limit} bytes; return less, or store it and return where it is"
