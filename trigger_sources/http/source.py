"""HTTP requests as events: answered by the function, or accepted durably and delivered later."""

import asyncio
import re
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

import orjson
from pydantic import Field, field_validator, model_validator

from trigger_sources.context import Context, SourceError
from trigger_sources.delivery import Delivery, HttpRequest, Outcome
from trigger_sources.encoding.attributes import key_extension
from trigger_sources.encoding.header_text import bytes_of_header
from trigger_sources.events import Event, InvalidEvent
from trigger_sources.http.answers import answer_to
from trigger_sources.http.auth import Credentials, credentials, users_of
from trigger_sources.http.events import UNREADABLE_TYPE, UnknownFormat, events_of, forwarded, from_record, record_from
from trigger_sources.http.expose import Exposure, problems_of
from trigger_sources.http.inbox_health import InboxHealth
from trigger_sources.http.routes import METHODS, claims_of, problem_of, refusal
from trigger_sources.http_requests import BODY_LIMIT_BYTES, Cors, IncomingRequest, Requests, Route
from trigger_sources.inbox import STORE_AWAY, Inbox, Kept
from trigger_sources.request_head import problem_of_head
from trigger_sources.source import Lag, Sharing, TriggerSource
from trigger_sources.spec import SecretRef, Spec

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

_READ_SECONDS = 1.0
_NO_ROOM_SECONDS = 0.05
_ACCEPTED_AT_ONCE = 256
_LOOK_SECONDS = 0.25
_HAND_OVER_SECONDS = 30.0  # for running calls to end before another replica gets their events
_STORE_SECONDS = 10.0  # a request waits so long for a store that is away, as a request that its trigger does not take
_STORE_LOOK_SECONDS = 0.1
_LAST_KEEP_SECONDS = _STORE_SECONDS  # for a write to the inbox that is under way when the trigger stops
_COUNT_SECONDS = 5.0  # other replicas accept too
_COUNT_FULL_SECONDS = 1.0


class BasicAuth(Spec):
    """Names and passwords: one user, or a Secret with one `name:password` a line."""

    username: str | None = Field(None, min_length=1, description="One user; it goes with password")
    password: SecretRef | None = Field(None, description="That user's password")
    users: SecretRef | None = Field(None, description="Several users: a text with one name:password a line, not hashed")

    @model_validator(mode="after")
    def _one_way(self) -> "BasicAuth":
        if (self.users is None) == (self.username is None) or (self.username is None) != (self.password is None):
            raise ValueError("either username and password, or users is needed")
        if self.username is not None and ":" in self.username:
            raise ValueError("username: a name cannot contain :, because the password follows it")
        return self


class BearerAuth(Spec):
    """Tokens in the Authorization header; several, so that one can be replaced without a gap."""

    tokens: list[SecretRef] = Field(min_length=1, description="Each of these tokens is accepted")


class HTTPAuth(Spec):
    """The callers that are admitted: those with one of these credentials."""

    basic: BasicAuth | None = Field(None, description="Users with passwords")
    bearer: BearerAuth | None = Field(None, description="Tokens in the Authorization header")

    @model_validator(mode="after")
    def _some(self) -> "HTTPAuth":
        if self.basic is None and self.bearer is None:
            raise ValueError("at least one of basic, bearer is needed")
        return self


class HTTPTrigger(TriggerSource):
    """Calls a function for each HTTP request that comes to its path on the fabric's gateway."""

    sharing: ClassVar[Sharing] = "partitioned"  # every replica serves; the load balancer distributes the requests
    fan_out: ClassVar[bool] = False  # a caller has one answer

    host: str | None = Field(
        None, min_length=1, description="Only requests to this host; unset: requests to every host"
    )
    path: str | None = Field(
        None,
        max_length=1024,
        description="Literal segments, {name} for one segment, {name...} at the end for all that follow; unset: /"
        " and the trigger's name",
    )
    methods: list[Method] = Field(
        default=["POST"],
        min_length=1,
        max_length=len(METHODS),
        description="The methods that the trigger serves; with GET it serves HEAD, too",
    )
    answer: Literal["function", "accepted"] = Field(
        "function",
        description="function: the caller gets the function's answer; accepted: the caller gets 202 once the event is"
        " durable, and the event is delivered later",
    )
    cors: Cors | None = Field(None, description="The rights of pages from other origins; unset: none")
    auth: HTTPAuth | None = Field(None, description="The credentials that are accepted; unset: everyone may call")
    body_limit_bytes: int = Field(
        BODY_LIMIT_BYTES, ge=0, le=256 * 1024 * 1024, description="Larger bodies are answered 413"
    )
    key_header: str | None = Field(
        None, pattern=r"^[A-Za-z0-9-]+$", description="The header that has the event's key, for ordering: key"
    )
    max_backlog: int = Field(
        1_000_000, ge=1, description="With answer: accepted, the most undelivered events; further ones are answered 503"
    )
    expose: Exposure | None = Field(
        None,
        description="An Ingress or HTTPRoute of a cluster sends requests straight to the function; unset: the gateway"
        " does",
    )

    @model_validator(mode="before")
    @classmethod
    def _one_attempt_while_a_caller_waits(cls, data: Any) -> Any:
        """A caller that waits can repeat its request itself, so there is one attempt unless the spec asks for more."""
        if not isinstance(data, dict) or data.get("answer", "function") != "function":
            return data
        delivery = data.get("delivery", {})
        if not isinstance(delivery, dict) or "attempts" in delivery:
            return data
        return {**data, "delivery": {**delivery, "attempts": 1}}

    @field_validator("methods", mode="before")
    @classmethod
    def _upper_case(cls, methods: Any) -> Any:
        for method in methods if isinstance(methods, list) else []:
            if isinstance(method, str) and method not in METHODS and method.upper() in METHODS:
                raise ValueError(f"{method!r}: methods are written in upper case: {method.upper()}")
        return methods

    @field_validator("path")
    @classmethod
    def _is_a_path(cls, path: str | None) -> str | None:
        if path is not None and (problem := problem_of(path)):
            raise ValueError(problem)
        return path

    @field_validator("host")
    @classmethod
    def _is_a_host(cls, host: str | None) -> str | None:
        if host is not None and re.search(r"[/:*@?#,\[\]\s]", host):
            raise ValueError(f"{host!r}: a name without scheme, port, path or * is needed: shop.example")
        return host

    @model_validator(mode="after")
    def _url_is_an_origin(self) -> "HTTPTrigger":
        url = self.target.url if self.target is not None else None
        if url is not None:
            parts = urlsplit(url)
            if parts.path not in ("", "/") or parts.query:
                raise ValueError(
                    f"url: {url!r}: the function gets each request at the path that the caller asked for, so only"
                    f" {parts.scheme}://{parts.netloc} is possible here"
                )
        return self

    @model_validator(mode="after")
    def _can_be_exposed(self) -> "HTTPTrigger":
        if self.expose is None:
            return self
        problems = list(problems_of(self, self.expose, path=self.path, methods=self.methods, host=self.host))
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def served_methods(self) -> Sequence[str]:
        """All methods if an Ingress exposes the trigger, because an Ingress does not distinguish methods."""
        return METHODS if self.expose is not None and self.expose.ingress is not None else self.methods

    @property
    def callers_wait(self) -> bool:
        """Always true: callers that get a 202 need the route too while the function is down."""
        return True

    @property
    def needs_dead_letters(self) -> bool:
        """A caller that waits gets the failure as its answer, so only accepted events become dead letters."""
        return self.answer == "accepted" and super().needs_dead_letters

    async def prepare(self, context: Context) -> None:
        """Prepares the inbox for accepted events."""
        if self.answer == "accepted":
            await context.inbox().prepare()

    async def deliveries(self, context: Context) -> AsyncIterator[Sequence[Delivery]]:
        """Serves the route while the generator is open."""
        admitted = await self._credentials(context)
        route = replace(
            self._route(context.name),
            trigger=f"{context.namespace}/{context.name}",
            admit=None if admitted is None else admitted.admit,
        )
        async with context.requests(route) as requests:
            context.report(connected=True)
            serve = self._answered if self.answer == "function" else self._accepted
            async with aclosing(serve(context, requests)) as found:
                async for deliveries in found:
                    yield deliveries

    @property
    def has_lag(self) -> bool:
        return self.answer == "accepted"

    async def lag(self, context: Context) -> Lag | None:
        """The accepted events that are not delivered yet."""
        return Lag(await context.inbox().count()) if self.answer == "accepted" else None

    def claims(self, name: str) -> frozenset[str]:
        route = self.route(name)
        return frozenset() if route is None else claims_of(route)

    def route(self, name: str) -> Route | None:
        return self._route(name) if self.expose is None else None

    def _route(self, name: str) -> Route:
        return Route(
            path=self.path or f"/{name}",
            methods=tuple(self.served_methods),
            host=self.host,
            cors=self.cors,
            body_limit_bytes=self.body_limit_bytes,
        )

    # --- the caller waits for the function

    async def _answered(self, context: Context, requests: Requests) -> AsyncGenerator[list[Delivery], None]:
        withdrawing: set[asyncio.Task[None]] = set()

        def deliver(request: IncomingRequest) -> Delivery | None:
            delivery = self._delivery_of(request, context)
            if delivery is not None:
                request.on_left = lambda: withdraw(delivery)
            return delivery

        def withdraw(delivery: Delivery) -> None:
            """Withdraws the event of a caller that left. A running call may end."""
            task = asyncio.create_task(context.withdraw(lambda held: held is delivery, self.delivery.timeout_seconds))
            withdrawing.add(task)
            task.add_done_callback(withdrawing.discard)

        # Thousands of triggers without requests cost nothing: each of them waits for a request or for its stop alone
        stopping = asyncio.create_task(context.stopping.wait())
        stopping.add_done_callback(lambda _: requests.wake())
        try:
            while not context.stopping.is_set():
                if context.room <= 0:
                    await asyncio.sleep(_NO_ROOM_SECONDS)
                    continue
                taken = await requests.next(context.room)
                deliveries = [delivery for request in taken if (delivery := deliver(request))]
                if deliveries:
                    yield deliveries
        finally:
            stopping.cancel()
            for task in withdrawing:
                task.cancel()
            await asyncio.gather(*withdrawing, return_exceptions=True)

    def _delivery_of(self, request: IncomingRequest, context: Context) -> Delivery | None:
        """The request as a delivery; None if it is not an event, in which case it is answered here."""
        events = self._events_of(request, context)
        if events is None:
            return None
        if len(events) != 1:
            _refuse(request, 400, "a batch has many answers; send its events one by one, or set spec.answer: accepted")
            return None

        async def settle(outcome: Outcome) -> None:
            answer = answer_to(outcome)
            request.answer(answer.status, answer.headers, answer.body)

        forward = self._forwarded(request)
        if problem := problem_of_head(forward):
            _refuse(request, 431, problem)
            return None
        return _delivery(events[0], forward, settle, caller_waits=True)

    # --- the caller is answered once the event is durable

    async def _accepted(self, context: Context, requests: Requests) -> AsyncGenerator[list[Delivery], None]:
        inbox = context.inbox()
        backlog = _Backlog(inbox, self.max_backlog)
        # Tasks of their own: they also run while there is no room and the generator is not asked for more
        health = InboxHealth(context)
        tasks = [
            asyncio.create_task(self._accept(context, requests, inbox, backlog, health)),
            asyncio.create_task(self._hand_over(context, inbox)),
            asyncio.create_task(self._look_for_room(inbox, backlog, health)),
        ]
        try:
            while not context.stopping.is_set():
                if context.room <= 0:
                    await asyncio.sleep(_NO_ROOM_SECONDS)
                    continue
                try:
                    kept = await inbox.take(context.room, _READ_SECONDS, in_order=self.lanes != "none")
                except SourceError as error:
                    # The route stays: callers get a 503 with Retry-After, not a 404
                    health.failed("take", error)
                    await asyncio.sleep(_READ_SECONDS)
                    continue
                health.worked("take")
                if kept:
                    yield [_delivery_from(record, backlog, context) for record in kept]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await inbox.give_back()

    async def _hand_over(self, context: Context, inbox: Inbox) -> None:
        """Withdraws all events once another replica is about to take over the inbox."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if inbox.must_give_back:
                await context.withdraw(lambda _: True, min(self.delivery.timeout_seconds, _HAND_OVER_SECONDS))
                await inbox.give_back()

    async def _look_for_room(self, inbox: Inbox, backlog: "_Backlog", health: InboxHealth) -> None:
        """Finds out that a full inbox has room again, also while no request comes."""
        while True:
            await asyncio.sleep(_COUNT_FULL_SECONDS)
            if not health.fails("keep"):
                continue
            try:
                if not await backlog.is_full(time.monotonic()):
                    await inbox.check_room(health.largest)
                    health.worked("keep")
            except Exception as error:  # noqa: BLE001  it is told there
                health.failed("keep", error)

    async def _accept(
        self, context: Context, requests: Requests, inbox: Inbox, backlog: "_Backlog", health: InboxHealth
    ) -> None:
        """Takes requests as they come, makes their events durable and answers them with 202."""
        while True:
            taken = await requests.next(_ACCEPTED_AT_ONCE)
            if not taken:
                continue
            keeping = asyncio.create_task(self._keep_or_refuse(taken, context, inbox, backlog, health))
            try:
                await asyncio.shield(keeping)
            except asyncio.CancelledError:  # the trigger stops: these callers still get their 202
                await asyncio.wait({keeping}, timeout=_LAST_KEEP_SECONDS)
                keeping.cancel()
                raise

    async def _keep_or_refuse(
        self,
        taken: Sequence[IncomingRequest],
        context: Context,
        inbox: Inbox,
        backlog: "_Backlog",
        health: InboxHealth,
    ) -> None:
        try:
            if await self._keep(taken, context, inbox, backlog, health):
                health.worked("keep")
        except Exception as error:  # noqa: BLE001  it is told there
            health.failed("keep", error)
        finally:
            for request in taken:
                request.refuse("the event could not be kept")  # no effect on those that are answered

    async def _keep(
        self,
        taken: Sequence[IncomingRequest],
        context: Context,
        inbox: Inbox,
        backlog: "_Backlog",
        health: InboxHealth,
    ) -> bool:
        """Whether events were kept. Requests that have no valid event are answered, and say nothing of the inbox."""
        kept: list[tuple[IncomingRequest, list[Event]]] = []
        records: list[bytes] = []
        largest = inbox.largest_bytes
        for request in taken:
            events = self._events_of(request, context)
            if events is None:
                continue
            forward = self._forwarded(request)
            if problem := problem_of_head(forward):
                _refuse(request, 431, problem)
                continue
            found = [record_from(event, forward) for event in events]
            if largest is not None and any(len(record) > largest for record in found):
                _refuse(request, 413, f"an event with its headers is limited to {largest} bytes by its store")
                continue
            records += found
            kept.append((request, events))
        health.largest = max(map(len, records), default=0)
        has_kept = False
        try:
            has_kept = not records or await _has_kept(inbox, backlog, records)
        finally:
            if not has_kept:
                context.report_refused(len(kept))
        if not has_kept:
            for request, _ in kept:
                _refuse(request, 503, "too many events wait for delivery", ("retry-after", "5"))
            raise SourceError("BacklogFull", f"{backlog.limit} accepted events wait for delivery: callers get a 503")
        for request, events in kept:
            body = orjson.dumps({"ids": [event.id for event in events]}) + b"\n"
            request.answer(202, (("content-type", "application/json"),), body)
        return bool(records)

    # --- helpers

    def _events_of(self, request: IncomingRequest, context: Context) -> list[Event] | None:
        """The request's events; None if it is not a valid CloudEvent, in which case it is answered here."""
        try:
            events = events_of(
                request.headers,
                request.body,
                subject=request.path,
                source=f"/http/{context.namespace}/{context.name}",
                id=uuid.uuid4().hex,
                time=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            )
        except UnknownFormat as error:
            _refuse(request, 415, str(error))
            return None
        except InvalidEvent as error:
            _refuse(request, 400, f"CloudEvent: {error}")
            return None
        if self.key_header is None:
            return events
        name = self.key_header.lower()
        key = next((value for found, value in request.headers if found == name), None)
        return events if key is None else [_with_key(event, bytes_of_header(key)) for event in events]

    def _forwarded(self, request: IncomingRequest) -> HttpRequest:
        return forwarded(
            request.method,
            request.target,
            request.headers,
            request.path_parameters,
            remote=request.remote,
            with_authorization=self.auth is None,  # the function does not get credentials for the fabric
        )

    async def _credentials(self, context: Context) -> Credentials | None:
        """The accepted credentials, read once: when a Secret changes, the fabric restarts the source."""
        if self.auth is None:
            return None
        users: list[tuple[str, str]] = []
        basic, bearer = self.auth.basic, self.auth.bearer
        if basic is not None and basic.users is not None:
            try:
                users = users_of(await context.secret(basic.users))
            except ValueError as error:
                raise SourceError("SecretUnusable", f"spec.auth.basic.users: {error}") from None
        elif basic is not None and basic.username is not None and basic.password is not None:
            users = [(basic.username, await _text_of(context, basic.password))]
        tokens = [await _text_of(context, token) for token in bearer.tokens] if bearer is not None else []
        return credentials(users, tokens)


@dataclass(slots=True)
class _Backlog:
    """The approximate number of accepted events in an inbox, and its limit."""

    inbox: Inbox
    limit: int
    count: int = 0
    counted_at: float = float("-inf")

    async def is_full(self, now: float) -> bool:
        """Whether it accepts no more events. It counts every few seconds; while it is full, every second."""
        if now - self.counted_at >= (_COUNT_FULL_SECONDS if self.count >= self.limit else _COUNT_SECONDS):
            self.counted_at = now
            self.count = await self.inbox.count()
        return self.count >= self.limit


async def _has_kept(inbox: Inbox, backlog: _Backlog, records: Sequence[bytes]) -> bool:
    """Whether the inbox has the records now. Otherwise it is full. Raises SourceError.

    It waits for a store that is away, such as the chart's single server while an upgrade replaces its pod. A write that
    the loss of the connection interrupts, or that takes too long, is repeated under the same name.
    """
    last, batch = time.monotonic() + _STORE_SECONDS, uuid.uuid4().hex
    while True:
        try:
            if await backlog.is_full(time.monotonic()):
                return False
            await inbox.append_all(records, batch)
        except SourceError as error:
            if error.reason != STORE_AWAY or time.monotonic() >= last:
                raise
            await asyncio.sleep(_STORE_LOOK_SECONDS)
        else:
            backlog.count += len(records)
            return True


def _delivery_from(kept: Kept, backlog: _Backlog, context: Context) -> Delivery:
    async def settle(outcome: Outcome) -> None:
        await kept.settle(outcome)
        if outcome.final:
            backlog.count -= 1

    try:
        delivery = _delivery(*from_record(kept.record), settle, position=kept.position)
    except ValueError as error:
        source = f"/http/{context.namespace}/{context.name}"
        event = Event(
            f"{context.uid}/{kept.position}", source, UNREADABLE_TYPE, kept.record, "application/octet-stream"
        )
        delivery = Delivery(
            event, settle, position=kept.position, unreadable=f"the kept record is not an event: {error}"
        )
    return replace(delivery, extend=kept.extend, handed_out=kept.handed_out)


def _delivery(
    event: Event, request: HttpRequest, settle: Any, *, position: str | None = None, caller_waits: bool = False
) -> Delivery:
    return Delivery(
        event,
        settle,
        position=position,
        key=_key_of(event),
        headers=tuple((name, bytes_of_header(value)) for name, value in request.headers),
        request=request,
        caller_waits=caller_waits,
    )


def _with_key(event: Event, key: bytes) -> Event:
    others = {name: value for name, value in event.extensions.items() if not name.startswith("partitionkey")}
    name, text = key_extension(key)
    return replace(event, extensions={**others, name: text})


def _key_of(event: Event) -> bytes | None:
    key = event.extensions.get("partitionkey")
    if key is not None:
        return key.encode()
    try:
        return bytes.fromhex(event.extensions["partitionkeyhex"])
    except (KeyError, ValueError):  # a producer may use the name for a text of its own
        return None


async def _text_of(context: Context, reference: SecretRef) -> str:
    text = (await context.secret(reference)).rstrip("\r\n")  # files and here-documents end with a line break
    if not text:
        raise SourceError("SecretUnusable", f"secret {reference.name!r}: key {reference.key!r} is empty")
    return text


def _refuse(request: IncomingRequest, status: int, why: str, *headers: tuple[str, str]) -> None:
    answer = refusal(status, why, *headers)
    request.answer(answer.status, answer.headers, answer.body)
