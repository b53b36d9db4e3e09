"""A core NATS subject: delivered at most once. The function answers requests."""

import asyncio
import contextlib
from collections import deque
from functools import partial
from typing import Any

from nats.errors import Error as NatsError
from nats.nuid import NUID

from trigger_sources.context import Context, SourceError
from trigger_sources.delivery import AnswerRefused, Delivery, Outcome
from trigger_sources.encoding.header_text import bytes_of_header, text_without_surrogates
from trigger_sources.nats.connection import Connection
from trigger_sources.nats.events import event_from_message
from trigger_sources.nats.headers import header_pairs
from trigger_sources.nats.spec import NATSSpec

_READ_SECONDS = 0.5
_DRAIN_SECONDS = 4.0
_FLUSH_SECONDS = 5.0
_LEAST_BUFFER = 1_000
_MESSAGE_BYTES = 500  # of a buffered message, beside its data and headers
_LOSSES_SECONDS = 5.0  # losses of so long are one report
_AT_MOST_ONCE = "core subject: at most once; messages that come while the fabric is away are lost"


class CoreSubscription:
    """One queue group's messages. None can be given back: those that do not fit are lost, counted and reported."""

    def __init__(self, trigger: NATSSpec, context: Context) -> None:
        self._trigger = trigger
        self._context = context
        self._connection: Connection | None = None
        self._subscription: Any = None
        self._waiting: deque[Any] = deque()
        self._bytes = 0  # of the messages that wait
        self._lost = 0  # and not reported yet
        self._reporting: asyncio.TimerHandle | None = None
        self._news = asyncio.Event()
        self._failure: SourceError | None = None  # the next read raises it
        self._ids = NUID()

    async def start(self) -> None:
        trigger, context = self._trigger, self._context
        connection = await trigger.connection(context)
        self._connection = connection
        connection.listeners.add(self._connected)
        connection.refusal_listeners.add(self._refused)
        self._subscription = await connection.subscribe(trigger.subject, self._came, queue=trigger.name_in(context))
        with contextlib.suppress(NatsError, TimeoutError, OSError):  # the listeners hear of a lost connection
            await connection.flush(_FLUSH_SECONDS)  # a refusal comes before the answer
        if self._failure is not None:
            raise self._failure
        context.report(connected=True, reason="AtMostOnce", message=_AT_MOST_ONCE)

    async def read(self) -> list[Delivery]:
        if self._failure is not None:
            raise self._failure
        if not self._waiting:
            self._news.clear()
            try:
                async with asyncio.timeout(_READ_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                return []
        room = self._context.room
        found = [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]
        self._bytes -= sum(map(_size_of, found))
        return [self._delivery(message) for message in found]

    async def close(self) -> None:
        connection = self._connection
        if connection is None:
            return
        connection.listeners.discard(self._connected)
        connection.refusal_listeners.discard(self._refused)
        with contextlib.suppress(NatsError, TimeoutError, OSError):
            if self._subscription is not None and connection.client.is_connected:
                await connection.drain(self._subscription, _DRAIN_SECONDS)  # messages on their way are counted, too
            elif self._subscription is not None:
                await self._subscription.unsubscribe()
        if self._reporting is not None:
            self._reporting.cancel()
            self._report_losses()
        if self._waiting:
            self._context.report_lost(len(self._waiting), "Stopping")

    async def _came(self, message: Any) -> None:
        size = _size_of(message)
        is_full = self._bytes + size > self._context.read_ahead_bytes or len(self._waiting) >= max(
            _LEAST_BUFFER, self._context.limit
        )
        if is_full and self._waiting:
            self._lost += 1
            if self._reporting is None:
                self._reporting = asyncio.get_running_loop().call_later(_LOSSES_SECONDS, self._report_losses)
            return
        self._waiting.append(message)
        self._bytes += size
        self._news.set()

    def _report_losses(self) -> None:
        self._reporting = None
        lost, self._lost = self._lost, 0
        self._context.report_lost(lost, "SlowConsumer")

    def _delivery(self, message: Any) -> Delivery:
        event = event_from_message(
            message.subject, message.data, message.headers, self._ids.next().decode(), "/nats", None
        )
        if message.reply:
            event = event.with_extensions(natsreply=text_without_surrogates(message.reply))
        return Delivery(
            event, partial(self._settle, message.reply), None, bytes_of_header(message.subject),
            headers=header_pairs(message.headers),
        )  # fmt: skip

    async def _settle(self, reply: str, outcome: Outcome) -> None:
        if not reply or outcome.kind == "filtered":
            return
        connection, answer = self._connection, outcome.answer
        assert connection is not None
        body, headers = b"" if answer is None else answer.body, {}
        if answer is not None and (content_type := answer.header("content-type")):
            headers["Content-Type"] = text_without_surrogates(content_type)
        status = 500 if answer is None else answer.status
        if outcome.kind != "delivered":
            headers |= _failure(status, outcome.reason)
        excess = connection.excess(body, headers)
        if not excess:
            await connection.client.publish(reply, body, headers=headers or None)
            return
        if outcome.kind != "delivered":  # the sender gets the failure, without the function's answer
            await connection.client.publish(reply, headers=_failure(status, outcome.reason))
            return
        problem = f"the answer has {len(body)} bytes; with its headers {excess}"
        await connection.client.publish(reply, headers=_failure(500, f"AnswerTooLarge: {problem}"))
        raise AnswerRefused("AnswerTooLarge", problem)

    def _refused(self, problem: str) -> None:
        assert self._connection is not None
        if f'subscription to "{self._trigger.subject}"'.lower() in problem.lower():
            self._failure = self._connection.refused(problem)

    def _connected(self, connected: bool) -> None:
        if connected:
            self._context.report(connected=True, reason="AtMostOnce", message=_AT_MOST_ONCE)
        else:
            assert self._connection is not None
            lost = self._connection.lost
            self._context.report(connected=False, reason=lost.reason, message=str(lost))


def _failure(status: int, reason: str) -> dict[str, str]:
    """The headers of an error answer, as NATS services have them."""
    return {"Nats-Service-Error-Code": str(status), "Nats-Service-Error": reason}


def _size_of(message: Any) -> int:
    headers = message.headers or {}
    return len(message.data) + sum(len(name) + len(value) for name, value in headers.items()) + _MESSAGE_BYTES
