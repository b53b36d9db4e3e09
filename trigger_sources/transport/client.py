"""The dispatcher's HTTP/1.1 client: a pool of kept connections to one origin, with bounds for sizes and times.

It is the hot path: a request costs about a tenth of one with a general client. All other code uses a library for HTTP.
"""

import asyncio
import random
import re
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from urllib.parse import urlsplit

from trigger_sources.backoff import Backoff
from trigger_sources.budget import Budget
from trigger_sources.delivery import Answer
from trigger_sources.descriptors import function_connections
from trigger_sources.transport.connection import Answered, Connection, ConnectionLost, NoAnswer, Stale, tls_context

__all__ = ["Connection", "ConnectionLost", "Endpoint", "NoAnswer", "Resolve", "Stale", "Unreachable"]

Resolve = Callable[[str], Awaitable[Sequence[str]]]  # from a host to its addresses; raises OSError

_METHOD = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_TARGET = re.compile(rb"[\x21-\x7e\x80-\xff]+")
_SWEEP_SECONDS = 0.25
_NEW_CONNECTIONS = 2  # on which a request is sent that nobody has read
_CONNECT_AGAIN_SECONDS = 0.05  # at first
_CONNECT_AGAIN_MAX_SECONDS = 0.5
_BODY_METHODS = frozenset({b"POST", b"PUT", b"PATCH"})


class Unreachable(Exception):
    """The function is down: no connection could be made, so the request was not processed at all."""


class Endpoint:
    """Kept connections to one origin, each for one request at a time. Belongs to one event loop.

    A connection that is older than `max_age_seconds` gets no further request, because only new connections reach new
    replicas behind the address of a Service. The age varies by up to a fifth, so that connections do not end together.

    `resolve` returns the addresses to connect to, tried in order; unset: the system's resolver. `connections` is the
    budget that all endpoints of the process share. A caller of an endpoint that has used up its part waits until one of
    these connections is free, or until other endpoints leave more of the budget.

    `serves` tells whether somebody is known to serve the address. While it does, a connection that cannot be made is
    tried again until the time-out: the name server and the proxy of a node hear of a new server later than the watcher.
    The tries of a caller become rarer, because a thousand callers may try at once.
    """

    def __init__(
        self,
        url: str,
        *,
        max_connections: int = 1024,
        connect_timeout_seconds: float = 5,
        max_header_bytes: int = 65_536,
        max_body_bytes: int = 8 * 1024 * 1024,
        idle_seconds: float = 30,
        max_age_seconds: float = 60,
        tls: ssl.SSLContext | None = None,
        resolve: Resolve | None = None,
        serves: Callable[[], bool] | None = None,
        connections: Budget | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r}: an http:// or https:// address is needed")
        self._host = parts.hostname
        self._resolve = resolve
        self._serves = serves
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = (tls or tls_context()) if parts.scheme == "https" else None
        self.path = (parts.path or "/").encode() + (b"?" + parts.query.encode() if parts.query else b"")
        name = f"[{self._host}]" if ":" in self._host else self._host
        default = 443 if self._tls else 80
        self._authority = name.encode("idna") if not name.isascii() else name.encode()
        if self._port != default:
            self._authority += b":%d" % self._port
        self._max_connections = max_connections
        self._account = (connections or function_connections()).open()
        self._connect_timeout_seconds = connect_timeout_seconds
        self._max_header_bytes = max_header_bytes
        self._max_body_bytes = max_body_bytes
        self._idle_seconds = idle_seconds
        self._max_age_seconds = max_age_seconds
        self._idle: list[Connection] = []  # the most recently used one is last
        self._connections: set[Connection] = set()
        self._open = 0  # connections, and connects in progress
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()
        self._sweeper: asyncio.TimerHandle | None = None
        self._sweep_seconds = _SWEEP_SECONDS
        self._checked = (b"", b"")  # the last method and target that passed the check
        self._request_line = b""  # their request line, and the host header
        self._closing = False
        self._clock = time.monotonic  # the loop's clock once there is a connection

    async def send(
        self,
        method: bytes,
        target: bytes,
        headers: bytes,
        body: bytes,
        *,
        timeout_seconds: float,
        fresh: bool = False,
        before_sent: Callable[[], Awaitable[None]] | None = None,
    ) -> Answer:
        """Sends one request and returns its whole answer.

        `headers` are lines that each end in CRLF, without host, content-length and connection. `timeout_seconds` bounds
        everything after the connection is made; it is exact to an eighth of itself or a quarter of a second. `fresh`:
        use a new connection. `before_sent` is awaited once the connection is made, before any byte of the request is
        sent; with `fresh` that holds for the only sending.

        Raises Unreachable, NoAnswer, or ValueError for a method or target that would break the request line. A request
        is sent again only if the other side closed or reset the connection without having read it: on two new
        connections at most, and not with `before_sent`.
        """
        head = self._head(method, target, headers, body)
        connection = (None if fresh else self._kept()) or await self._connection(fresh=fresh)
        if before_sent is not None:
            await self._prepared(connection, before_sent)
        loop = asyncio.get_running_loop()
        deadline = self._clock() + timeout_seconds
        left = 0 if before_sent is not None else _NEW_CONNECTIONS - (not connection.used)
        while True:
            waiter: asyncio.Future[Answer | NoAnswer | Stale] = loop.create_future()
            answered = partial(_tell, waiter)
            self._start(connection, answered, head, body, method, deadline, timeout_seconds)
            try:
                found = await waiter
            except asyncio.CancelledError:
                connection.abort_for(answered)
                raise
            if isinstance(found, Answer):
                return found
            if isinstance(found, NoAnswer):
                raise found
            if left == 0:
                raise ConnectionLost("the connection was lost before an answer came")
            left -= 1
            connection = await self._connection(fresh=True)

    def start(
        self,
        method: bytes,
        target: bytes,
        headers: bytes,
        body: bytes,
        answered: Answered,
        *,
        timeout_seconds: float,
    ) -> Connection | None:
        """The same without a task, on a kept connection. None: there is no kept one, and only `send` makes one.

        `answered` is called once with the result. If that is Stale, the caller sends the request again, by `send` with
        `fresh`. Before that, the connection's `abort` gives the request up. Raises ValueError as `send` does.
        """
        head = self._head(method, target, headers, body)
        connection = self._kept()
        if connection is not None:
            deadline = self._clock() + timeout_seconds
            self._start(connection, answered, head, body, method, deadline, timeout_seconds)
        return connection

    def _head(self, method: bytes, target: bytes, headers: bytes, body: bytes) -> bytes:
        if (method, target) != self._checked:
            self._check(method, target)
        if body or method in _BODY_METHODS:
            return b"%b%bcontent-length: %d\r\n\r\n" % (self._request_line, headers, len(body))
        return b"%b%b\r\n" % (self._request_line, headers)

    def _start(
        self,
        connection: Connection,
        answered: Answered,
        head: bytes,
        body: bytes,
        method: bytes,
        deadline: float,
        timeout_seconds: float,
    ) -> None:
        if timeout_seconds / 8 < self._sweep_seconds:
            self._sweep_seconds = max(0.01, timeout_seconds / 8)
            self._sweep_again()
        elif self._sweeper is None:
            self._sweep_again()
        connection.timeout_seconds = timeout_seconds
        connection.start(answered, head, body, method == b"HEAD", deadline)

    async def close(self) -> None:
        """Ends idle connections. Busy ones end with their answers; callers that wait for one get Unreachable."""
        self._closing = True
        self._account.close()
        for connection in self._idle:
            connection.abort()
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_exception(Unreachable("the client is closed"))
        if len(self._idle) == len(self._connections) and self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        await asyncio.sleep(0)  # lets the transports report that they are closed

    # --- connections

    async def _prepared(self, connection: Connection, before_sent: Callable[[], Awaitable[None]]) -> None:
        """Awaits it while the connection waits. Raises Unreachable if the other side closes that meanwhile."""
        try:
            await before_sent()
        except BaseException:
            connection.abort()
            raise
        if not connection.is_open:
            raise Unreachable(f"{self._host}:{self._port} closed the connection before the request was sent")

    def _kept(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        return None

    async def _connection(self, *, fresh: bool = False) -> Connection:
        """A connection for this caller alone. Raises Unreachable."""
        if self._closing:
            raise Unreachable("the client is closed")
        if not self._may_open:
            waiter: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                connection = await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                    self._pass_on(waiter.result())  # this caller had it already
                raise
            if connection is not None:
                if connection.is_open and not fresh:
                    return connection
                connection.abort()
                self._opens()  # the slot of the closed one, or one over the limit for a moment
        else:
            self._opens()
        try:
            return await self._connect()
        except BaseException:
            self._freed()
            raise

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        self._clock = loop.time
        last, again = "", Backoff(_CONNECT_AGAIN_SECONDS, _CONNECT_AGAIN_MAX_SECONDS)
        try:
            async with asyncio.timeout(self._connect_timeout_seconds):
                while True:
                    try:
                        connection = await self._connected()
                        break
                    except OSError as error:
                        if isinstance(error, PermissionError) or self._serves is None or not self._serves():
                            raise
                        last = f": {_reason(error)}"
                    await asyncio.sleep(again.next())
        except TimeoutError:
            raise Unreachable(
                f"{self._host}:{self._port} accepts no connection within {self._connect_timeout_seconds:g} s{last}"
            ) from None
        except OSError as error:
            raise Unreachable(f"no connection to {self._host}:{self._port}: {_reason(error)}") from error
        if connection.transport is not None:
            self._connections.add(connection)
        connection.retire_at = loop.time() + self._max_age_seconds * (1 - random.random() / 5)
        return connection

    async def _connected(self) -> Connection:
        """A connection to the first address that accepts one. Raises the OSError of the last address."""
        hosts = (self._host,) if self._resolve is None else await self._resolve(self._host)
        problem = OSError("the host has no address")
        for host in hosts:
            try:
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(self._max_header_bytes, self._max_body_bytes, self._released, self._lost),
                    host,
                    self._port,
                    ssl=self._tls,
                    server_hostname=self._host if self._tls else None,
                )
                return connection
            except OSError as error:
                problem = error
        raise problem

    def _released(self, connection: Connection) -> None:
        """Takes back a connection whose answer is complete, for the next request."""
        if self._closing:
            connection.abort()
            return
        connection.idle_since = self._clock()
        if connection.idle_since >= connection.retire_at:
            connection.abort()
            return
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        self._idle.append(connection)

    def _lost(self, connection: Connection) -> None:
        """Forgets a closed connection."""
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._freed()

    @property
    def _may_open(self) -> bool:
        return self._open < self._max_connections and self._account.allowance(self._open) > 0

    def _opens(self) -> None:
        self._open += 1
        self._account.use(self._open)

    def _freed(self) -> None:
        self._open -= 1
        self._account.use(self._open)
        self._admit_waiting()

    def _admit_waiting(self) -> None:
        """Gives free slots to the callers that wait: each of them connects."""
        while self._waiting and self._may_open:
            waiter = self._waiting.popleft()
            if not waiter.done():
                self._opens()
                waiter.set_result(None)

    def _pass_on(self, connection: Connection | None) -> None:
        """Passes on a connection, or the slot for one, of a caller that was cancelled."""
        if connection is None:
            self._freed()
        elif connection.is_open:
            self._released(connection)

    # --- time

    def _sweep_again(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._sweeper = asyncio.get_running_loop().call_later(self._sweep_seconds, self._sweep)

    def _sweep(self) -> None:
        """One timer for all deadlines: a timer for each request would cost as much as sending it."""
        self._sweeper = None
        now = asyncio.get_running_loop().time()
        for connection in [found for found in self._connections if found.deadline <= now]:
            connection.fail(f"timed out: no answer within {connection.timeout_seconds:g} s")
        for connection in [
            found for found in self._idle if now - found.idle_since > self._idle_seconds or now >= found.retire_at
        ]:
            connection.abort()
        self._admit_waiting()  # other endpoints may have left some of the budget: they do not know who waits
        if self._connections:
            self._sweep_again()

    def _check(self, method: bytes, target: bytes) -> None:
        if not _METHOD.fullmatch(method):
            raise ValueError(f"{method!r} is not an HTTP method")
        if not _TARGET.fullmatch(target):
            raise ValueError(f"{target!r} is not a request target: it has a space or a control character")
        self._checked = (method, target)
        self._request_line = b"%b %b HTTP/1.1\r\nhost: %b\r\n" % (method, target, self._authority)


def _tell(waiter: "asyncio.Future[Answer | NoAnswer | Stale]", found: Answer | NoAnswer | Stale) -> None:
    if not waiter.done():
        waiter.set_result(found)


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not trusted: {error.verify_message}"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"  # the text differs between event loops
    return error.strerror or str(error)
