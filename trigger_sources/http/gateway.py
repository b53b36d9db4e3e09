"""One HTTP server for all HTTP triggers of a process. A trigger has a route in it, and pulls the route's requests."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.http_writer import StreamWriter

from trigger_sources.budget import Account, Budget
from trigger_sources.context import SourceError
from trigger_sources.delivery import Answer
from trigger_sources.descriptors import most_files
from trigger_sources.encoding.header_text import bytes_of_header, header_text
from trigger_sources.http.routes import (
    BadTarget,
    Found,
    Missing,
    RouteTable,
    Taken,
    claims_of,
    cors_headers,
    host_of,
    preflight,
    refusal,
    segments_of,
)
from trigger_sources.http_requests import Headers, Route
from trigger_sources.light_event import LightEvent

log = logging.getLogger(__name__)

_NOT_UTF_8 = re.compile("[\udc80-\udcff]")
_RETRY_SOON = ("retry-after", "1")
_MOST_CONNECTIONS = 2_000
_CLOSE = ("connection", "close")
_MOST_BODIES_BYTES = 256 * 1024 * 1024
_QUIET_SECONDS = 1.0  # without a request: then every client knows that this gateway ends
_TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nserver: kubeirq\r\nretry-after: 1\r\nconnection: close\r\n"
    b'content-type: application/json\r\n\r\n{"status":503,"error":"too many connections are open"}\n'
)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits for callers. Times in seconds, sizes in bytes."""

    connections: int = _MOST_CONNECTIONS
    head_seconds: float = 75  # for a request's headers, from the connection's start or the last answer's end
    body_seconds: float = 30  # for a body
    answer_seconds: float = 30  # for the caller to read an answer
    line_bytes: int = 8_190  # the request line, each header
    headers: int = 100
    bodies_bytes: int = _MOST_BODIES_BYTES  # of all requests that are in the process
    waiting: int = 256  # requests of one route that its trigger has not taken yet
    waiting_seconds: float = 10  # how long each of them waits
    vacant_seconds: float = 10  # how long a route that is not held is answered 503, not 404: it may be restarting

    @classmethod
    def within(cls, memory_limit: int) -> "Bounds":
        """The bounds of a process that may use so many bytes: bodies get a quarter of them at most.

        Callers get a quarter of the files that the process may open.
        """
        return cls(
            connections=min(_MOST_CONNECTIONS, most_files() // 4),
            bodies_bytes=min(_MOST_BODIES_BYTES, memory_limit // 4),
        )


class Gateway:
    """Answers 404 if no trigger serves a request, 503 with Retry-After if its trigger cannot take it now.

    Lives in one event loop.
    """

    def __init__(self, bounds: Bounds | None = None) -> None:
        self.bounds = bounds or Bounds()
        self._routes: RouteTable[RouteRequests] = RouteTable()
        self._held: dict[str, tuple[Route, ...]] = {}  # the routes that each trigger owns, by its uid
        self._next_held: dict[str, Sequence[Route]] = {}  # of triggers that still serve their former routes
        self._vacant: dict[Route, asyncio.TimerHandle] = {}  # routes whose trigger has just left
        self._serving: dict[str, dict[Route, _Serving]] = {}  # by the trigger's uid
        self._pending: set[GatewayRequest] = set()
        self.memory = Budget(self.bounds.bodies_bytes)  # for bodies: each route has an account
        self._nobody = self.memory.open()  # of requests that only wait for their 503
        self._nobody.close()  # without a floor
        self._in_flight = 0
        self._seen = 0  # requests, ever
        self._quiet = asyncio.Event()
        self._leaving = False  # it serves requests, but its clients have to go elsewhere
        self._closing = False
        self._runner: web.ServerRunner | None = None

    @property
    def port(self) -> int:
        """The port on which it listens."""
        if self._runner is None:
            raise RuntimeError("the gateway is not started")
        port: int = self._runner.addresses[0][1]
        return port

    async def start(self, host: str, port: int) -> None:
        """Listens; port 0 takes a free one. Raises SourceError if the port is not available."""
        bounds = self.bounds
        server = _Server(
            self._answer,
            bounds,
            handler_cancellation=True,  # the request of a caller that leaves is cancelled
            access_log=None,
            auto_decompress=False,  # keeps bodies as they were signed, and a small one cannot become a large one
            keepalive_timeout=bounds.head_seconds,
            max_line_size=bounds.line_bytes,
            max_field_size=bounds.line_bytes,
            max_headers=bounds.headers,
            lingering_time=1.0,  # reads and drops the rest of a refused body, so that the caller sees the answer
            logger=log,
        )
        runner = web.ServerRunner(server, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            await runner.cleanup()
            raise SourceError(
                "PortTaken", f"gateway {host}:{port}: {error.strerror or error}; choose another port"
            ) from error
        self._runner = runner

    async def serve_late_requests(self, most_seconds: float = 10.0) -> None:
        """Serves requests until none came for a moment. Call this first where clients learn late that it closes.

        Each answer ends its connection, so that the client connects again, to another replica.
        """
        if self._runner is None:
            return
        self._leaving = True
        clock = asyncio.get_running_loop().time
        now = quiet_since = clock()
        last, seen = now + most_seconds, self._seen
        while now < last and now - quiet_since < _QUIET_SECONDS:
            await asyncio.sleep(0.02)
            now = clock()
            if seen != self._seen:
                seen, quiet_since = self._seen, now

    async def close(self, grace_seconds: float = 10.0) -> None:
        """Refuses new requests, lets running ones end within the grace, refuses the rest, and stops listening."""
        self._closing = True
        self._quiet.clear()
        if self._in_flight:
            try:
                async with asyncio.timeout(grace_seconds):
                    await self._quiet.wait()
            except TimeoutError:
                log.info("gateway closes with requests under way", extra={"requests": self._in_flight})
        for request in list(self._pending):
            request.refuse("the gateway is closing")
        for route in list(self._vacant):
            self._remove_vacant(route)
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def hold(self, uid: str, routes: Sequence[Route]) -> None:
        """Keeps these routes for the trigger with that uid, instead of those that it had before.

        While the trigger does not serve them, their callers get a 503, and no other trigger gets their requests. The
        routes of an edited trigger count from the moment at which it serves them or stops. A request that a route of
        the trigger serves goes there, even if a held one is more specific.
        """
        self._next_held.pop(uid, None)
        serving = [route for route, found in self._serving.get(uid, {}).items() if not found.superseded]
        served = frozenset().union(*map(claims_of, serving))
        if serving and any(not claims_of(route) <= served for route in routes):
            self._next_held[uid] = routes
        else:
            self._hold(uid, routes)

    def _hold_next(self, uid: str) -> None:
        if (routes := self._next_held.pop(uid, None)) is not None:
            self._hold(uid, routes)

    def _hold(self, uid: str, routes: Sequence[Route]) -> None:
        for route in self._held.pop(uid, ()):
            self._routes.remove(route)
        held = tuple(replace(route, trigger=route.trigger or uid) for route in routes)
        if not held:
            return
        self._held[uid] = held
        nobody = RouteRequests(self.bounds, self._nobody, uid)
        nobody._close()
        for route in held:
            self._routes.add_behind(route, nobody)

    @asynccontextmanager
    async def requests(
        self,
        uid: str,
        route: Route,
        *,
        flow: int = 0,
        supersedes: bool = False,
        refused: Callable[[int], None] | None = None,
    ) -> AsyncIterator["RouteRequests"]:
        """The requests of that route, for the trigger with that uid, while the context is open.

        `flow` is the number of the trigger's flow. If it supersedes the trigger's earlier flows, their routes end at
        the moment at which this one begins. `refused` hears how many requests got a 503 because the trigger did not
        take them. Raises SourceError if another trigger serves the same route. Requests that are left at the end get a
        503.
        """
        route = replace(route, trigger=route.trigger or uid)
        requests = RouteRequests(self.bounds, self.memory.open(), uid, refused)
        serving = _Serving(uid, flow, requests, supersedes=supersedes, superseded=self._is_late(uid, flow))
        if not serving.superseded:
            earlier = self._supersede(uid, flow) if supersedes else []
            try:
                self._add(uid, route, requests)
            except SourceError:
                self._reinstate(earlier)
                raise
            self._hold_next(uid)
        self._serving.setdefault(uid, {})[route] = serving
        try:
            yield requests
        finally:
            requests._close()
            del self._serving[uid][route]
            if not self._serving[uid]:
                del self._serving[uid]
            if not serving.superseded:
                self._vacant[route] = asyncio.get_running_loop().call_later(
                    self.bounds.vacant_seconds, self._remove_vacant, route
                )
                self._hold_next(uid)

    async def until_taken(self, uid: str, flow: int) -> None:
        """Returns once that flow of the trigger has taken all requests that came before its routes were superseded."""
        serving = self._serving.get(uid, {}).values()
        superseded = [found for found in serving if found.flow == flow and found.superseded]
        await asyncio.gather(*(found.requests._until_taken() for found in superseded))

    def _is_late(self, uid: str, flow: int) -> bool:
        """Whether a later flow of the trigger serves in this one's place."""
        return any(found.supersedes and found.flow > flow for found in self._serving.get(uid, {}).values())

    def _supersede(self, uid: str, flow: int) -> list[tuple[Route, "_Serving"]]:
        """Takes the routes of the trigger's earlier flows out of the table. Returns them."""
        earlier = [
            (route, found)
            for route, found in self._serving.get(uid, {}).items()
            if found.flow < flow and not found.superseded
        ]
        for route, found in earlier:
            self._routes.remove(route)
            found.superseded = True
        return earlier

    def _reinstate(self, earlier: Sequence[tuple[Route, "_Serving"]]) -> None:
        for route, found in earlier:
            self._routes.add(route, found.requests, over=self._held.get(found.uid, ()))
            found.superseded = False

    def _add(self, uid: str, route: Route, requests: "RouteRequests") -> None:
        while True:
            try:
                return self._routes.add(route, requests, over=self._held.get(uid, ()))
            except Taken as taken:
                if taken.other in self._vacant:
                    self._remove_vacant(taken.other)
                    continue
                raise SourceError(
                    "RouteTaken",
                    f"spec.path: {taken} is served by {taken.other.trigger}; choose another path, host or methods",
                ) from taken

    def _remove_vacant(self, route: Route) -> None:
        self._vacant.pop(route).cancel()
        self._routes.remove(route)

    # --- one request

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self._in_flight += 1
        self._seen += 1
        try:
            answer, found = await self._answered(request)
        except web.RequestPayloadError as error:
            answer, found = refusal(400, f"the body is incomplete or not a valid chunked body: {error}", _CLOSE), None
        except Exception:
            log.exception("request failed")
            answer, found = refusal(500, "internal error", _CLOSE), None
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._quiet.set()
        return await self._sent(request, _response(request, answer, found))

    async def _sent(self, request: web.BaseRequest, response: web.Response) -> web.Response:
        """Writes the response. It does not wait for a caller that does not read."""
        if self._leaving or self._closing:
            response.force_close()
        try:
            async with asyncio.timeout(self.bounds.answer_seconds):
                await response.prepare(request)
                await response.write_eof()
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
        return response

    async def _answered(self, request: web.BaseRequest) -> tuple[Answer, Found["RouteRequests"] | None]:
        """The answer, and the route that it is from."""
        if self._closing:
            return refusal(503, "the gateway is closing", _RETRY_SOON, _CLOSE), None
        try:
            headers = _headers_of(request)
            target, host = _target_and_host(request.raw_path, headers)
            path, _, query = target.partition("?")
            segments = segments_of(path)
        except BadTarget as error:
            return refusal(400, str(error), _CLOSE), None
        first = dict(reversed(headers))
        found = self._match(host, request.method, segments)
        if request.method == "OPTIONS" and isinstance(found, Missing):
            return self._options(host, segments, found, first)
        if isinstance(found, Missing):
            if not found.allow:
                return refusal(404, f"no trigger serves {path}"), None
            allow = ", ".join(sorted(found.allow | {"OPTIONS"}))
            return refusal(405, f"{path} serves {allow}", ("allow", allow)), None
        route = found.route
        if route.admit is not None and (refused := route.admit(first)) is not None:
            return refused, found
        expects = first.get("expect", "").lower()
        if expects not in ("", "100-continue"):
            return refusal(417, "expect: only 100-continue is known", _CLOSE), found
        if (request.content_length or 0) > route.body_limit_bytes:
            return _too_large(route), found
        body, size = bytearray(), 0
        memory = found.value._memory
        try:
            found.value._reading += 1
            try:
                if expects and request.version >= (1, 1):
                    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                    request.writer.output_size = 0  # aiohttp must not count these bytes as part of the answer
                refused = await self._read(request, body, route, memory)
                if refused is not None and refused.status == 503:
                    found.value._count_refused()
            finally:
                found.value._reading -= 1
                found.value._taken.set()
            if refused is None:
                content, size = bytes(body), len(body)
                body.clear()  # the memory of a body counts once, and is used once
                incoming = GatewayRequest(
                    request.method, path, target, query, headers, content, found.path_parameters, request.remote
                )
                refused = await self._waited(incoming, found.value)
            return refused, found
        finally:
            memory.use(memory.used - size - len(body))

    def _match(self, host: str, method: str, segments: Sequence[str]) -> Found["RouteRequests"] | Missing:
        found = self._routes.match(host, method, segments)
        if isinstance(found, Missing) or not found.value.is_closed:
            return found
        keeper = found.value.uid
        own = self._routes.match(host, method, segments, lambda value: value.uid == keeper and not value.is_closed)
        return own if isinstance(own, Found) else found

    def _options(
        self, host: str, segments: Sequence[str], missing: Missing, headers: Mapping[str, str]
    ) -> tuple[Answer, Found["RouteRequests"] | None]:
        """The answer to OPTIONS that no trigger serves itself: the allowed methods, and a browser's rights."""
        if not missing.allow:
            return refusal(404, "no trigger serves this path"), None
        wanted, origin = headers.get("access-control-request-method"), headers.get("origin")
        if wanted and origin:
            found = self._match(host, wanted, segments)
            if isinstance(found, Found) and found.route.cors is not None:
                return preflight(found.route, origin, headers.get("access-control-request-headers", "")), None
        return Answer(204, (("allow", ", ".join(sorted(missing.allow | {"OPTIONS"}))),)), None

    async def _read(self, request: web.BaseRequest, body: bytearray, route: Route, memory: Account) -> Answer | None:
        """Reads the body, at most the route's limit and one more chunk. None: it is complete, else the refusal."""
        if not request.can_read_body:
            return None
        try:
            async with asyncio.timeout(self.bounds.body_seconds):
                while chunk := await request.content.readany():
                    if memory.allowance(memory.used) < len(chunk):
                        return refusal(503, "too many large requests at once", _RETRY_SOON, _CLOSE)
                    body += chunk
                    memory.use(memory.used + len(chunk))
                    if len(body) > route.body_limit_bytes:
                        return _too_large(route)
        except TimeoutError:
            return refusal(408, f"the body was not complete after {self.bounds.body_seconds:g} s", _CLOSE)
        return None

    async def _waited(self, incoming: "GatewayRequest", requests: "RouteRequests") -> Answer:
        self._pending.add(incoming)
        try:
            requests._put(incoming)
            return await incoming._answered
        finally:
            incoming.gone = True
            self._pending.discard(incoming)
            requests._forget(incoming)
            if incoming._answered.cancelled() and incoming.on_left is not None:
                incoming.on_left()


class GatewayRequest:
    """An `http_requests.IncomingRequest`: a request whose caller waits for `answer`."""

    def __init__(
        self,
        method: str,
        path: str,
        target: str,
        query: str,
        headers: Headers,
        body: bytes,
        path_parameters: Mapping[str, str],
        remote: str | None,
    ) -> None:
        self.method = method
        self.path = path
        self.target = target
        self.query = query
        self.headers = headers
        self.body = body
        self.path_parameters = path_parameters
        self.remote = remote  # the peer's address
        self.gone = False  # answered, or the caller has left
        self.on_left: Callable[[], None] | None = None  # called when the caller leaves before it is answered
        self._answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def answer(self, status: int, headers: Headers = (), body: bytes = b"") -> None:
        """Answers the caller. The first answer counts; one for a caller that has left has no effect."""
        if not self._answered.done():
            self._answered.set_result(Answer(status, headers, body))

    def refuse(self, why: str) -> None:
        """Answers 503 with Retry-After."""
        refused = refusal(503, why, _RETRY_SOON)
        self.answer(refused.status, refused.headers, refused.body)


@dataclass(slots=True)
class _Serving:
    """A route that a trigger serves."""

    uid: str
    flow: int
    requests: "RouteRequests"
    supersedes: bool
    superseded: bool  # a later flow of the trigger serves; this one answers the requests that it has


class RouteRequests:
    """The requests of one route that its trigger has not taken yet, bounded in number and time."""

    def __init__(self, bounds: Bounds, memory: Account, uid: str, refused: Callable[[int], None] | None = None) -> None:
        self.uid = uid  # of the trigger
        self._tell_refused = refused
        self._bounds = bounds
        self._memory = memory  # of the bodies that are in the process
        self._waiting: dict[GatewayRequest, asyncio.TimerHandle] = {}  # oldest first
        self._reading = 0  # requests whose body is under way
        self._taken = LightEvent()  # a body has come, or a request has been taken or refused
        self._arrived = LightEvent()
        self._closed = False

    @property
    def is_closed(self) -> bool:
        """Whether nobody takes requests any more."""
        return self._closed

    async def next(self, limit: int, timeout_seconds: float | None = None) -> list[GatewayRequest]:
        """The oldest requests, at most `limit`, which the caller must answer. Empty: none came in time, or `wake`."""
        if not self._waiting and limit > 0:
            self._arrived.clear()
            if timeout_seconds is None:
                await self._arrived.wait()
            else:
                try:
                    async with asyncio.timeout(timeout_seconds):
                        await self._arrived.wait()
                except TimeoutError:
                    return []
        taken: list[GatewayRequest] = []
        while self._waiting and len(taken) < limit:
            request = next(iter(self._waiting))
            self._waiting.pop(request).cancel()
            taken.append(request)
        self._taken.set()
        return taken

    def wake(self) -> None:
        """Ends a `next` that waits."""
        self._arrived.set()

    async def _until_taken(self) -> None:
        """Returns once no request waits or arrives. None must come any more."""
        while self._reading or self._waiting:
            self._taken.clear()
            await self._taken.wait()

    def _put(self, request: GatewayRequest) -> None:
        if self._closed:
            request.refuse("the trigger of this path does not run at the moment")
            return
        if len(self._waiting) >= self._bounds.waiting:
            self._refuse(request, "too many requests are waiting already")
            return
        loop = asyncio.get_running_loop()
        self._waiting[request] = loop.call_later(self._bounds.waiting_seconds, self._give_up, request)
        self._arrived.set()

    def _give_up(self, request: GatewayRequest) -> None:
        self._waiting.pop(request, None)
        self._taken.set()
        self._refuse(request, "busy: the request was not taken in time")

    def _refuse(self, request: GatewayRequest, why: str) -> None:
        self._count_refused()
        request.refuse(why)

    def _count_refused(self) -> None:
        if self._tell_refused is not None:
            self._tell_refused(1)

    def _forget(self, request: GatewayRequest) -> None:
        timer = self._waiting.pop(request, None)
        if timer is not None:
            timer.cancel()
            self._taken.set()

    def _close(self) -> None:
        self._closed = True
        self._memory.close()
        for request, timer in self._waiting.items():
            timer.cancel()
            self._refuse(request, "the trigger is being stopped")
        self._waiting.clear()
        self._taken.set()


class _Connection(web.RequestHandler):
    """A connection that answers broken requests with the gateway's own messages, and does not log them as errors."""

    refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        server = self._manager
        assert isinstance(server, _Server)
        if len(server.connections) >= server.bounds.connections:
            stream = cast("asyncio.Transport", transport)  # uvloop's class does not inherit from it
            self.refused = True
            stream.write(_TOO_MANY)
            stream.close()
            return
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if not self.refused:
            super().data_received(data)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        log.debug("request refused", extra={"status": status, "error": repr(exc)})
        text = (message or "bad request").strip().partition("\n")[0]
        if isinstance(exc, LineTooLong):
            text = "a line of the request is too long"  # without the line, which may hold anything
        return _response(request, refusal(status, text, _CLOSE), None)


class _Response(web.Response):
    """A response that keeps the bytes of its headers. The writer leaves out those that are not UTF-8."""

    async def _write_headers(self) -> None:
        await super()._write_headers()  # it refuses line breaks
        request, writer = self._req, self._payload_writer
        if request is None or not any(_NOT_UTF_8.search(value) for value in self.headers.values()):
            return
        assert isinstance(writer, StreamWriter)
        version = request.version
        lines = [f"HTTP/{version[0]}.{version[1]} {self.status} {self.reason}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        writer._headers_buf = bytes_of_header("\r\n".join([*lines, "", ""]))


class _Server(web.Server):
    def __init__(
        self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], bounds: Bounds, **options: Any
    ) -> None:
        super().__init__(handler, **options)
        self.bounds = bounds

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


def _response(request: web.BaseRequest, answer: Answer, found: Found[RouteRequests] | None) -> web.Response:
    headers = [(name, value) for name, value in answer.headers if name != "connection"]
    if found is not None and found.route.cors is not None:
        shared = cors_headers(found.route.cors, request.headers.get("origin", ""))
        headers = [header for header in headers if not header[0].startswith("access-control-")] + shared
    if not any(name == "server" for name, _ in headers):
        headers.append(("server", "kubeirq"))
    response = _Response(status=answer.status, headers=headers, body=answer.body or None)
    if _CLOSE in answer.headers:
        response.force_close()
    return response


def _too_large(route: Route) -> Answer:
    return refusal(413, f"the body is larger than {route.body_limit_bytes} bytes", _CLOSE)


def _headers_of(request: web.BaseRequest) -> list[tuple[str, str]]:
    try:
        return [(name.decode("ascii").lower(), header_text(value)) for name, value in request.raw_headers]
    except UnicodeDecodeError:
        raise BadTarget("the name of a header is not ASCII") from None


def _target_and_host(raw: str, headers: Headers) -> tuple[str, str]:
    """Path with query, and the host without its port, of a request in origin or absolute form. Raises BadTarget."""
    if not (raw.isascii() and raw.isprintable()) or "#" in raw or " " in raw:
        raise BadTarget("the target has characters that must be percent-encoded")
    scheme, found, rest = raw.partition("://")
    if raw.startswith("/") or not found:
        return raw, host_of(next((value for name, value in headers if name == "host"), ""))
    if scheme.lower() not in ("http", "https"):
        raise BadTarget("the target is not an http address")
    authority = re.split(r"[/?]", rest, maxsplit=1)[0]
    path = rest[len(authority) :]
    return path if path.startswith("/") else f"/{path}", host_of(authority)
