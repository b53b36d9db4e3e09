"""A core NATS subject: delivered at most once. The function answers requests."""

import asyncio
import contextlib
from collections import deque
from functools import partial
from typing import Any

from nats.errors import Error as NatsError
from nats.nuid import NUID

from trigger_sources.context import Context
from trigger_sources.delivery import Delivery, Outcome
from trigger_sources.nats.connection import Connection
from trigger_sources.nats.events import event_from_message, header_pairs
from trigger_sources.nats.spec import NATSSpec

_READ_SECONDS = 0.5
_LEAST_BUFFER = 1_000
_AT_MOST_ONCE = "core subject: at most once; messages that come while the fabric is away are lost"


class CoreSubscription:
    """One queue group's messages. None can be given back: those that do not fit are lost, counted and reported."""

    def __init__(self, trigger: NATSSpec, context: Context) -> None:
        self._trigger = trigger
        self._context = context
        self._connection: Connection | None = None
        self._subscription: Any = None
        self._waiting: deque[Any] = deque()
        self._news = asyncio.Event()
        self._ids = NUID()

    async def start(self) -> None:
        trigger, context = self._trigger, self._context
        connection = await trigger.connection(context)
        self._connection = connection
        connection.listeners.add(self._connected)
        self._subscription = await connection.subscribe(trigger.subject, self._came, queue=trigger.name_in(context))
        context.report(connected=True, reason="AtMostOnce", message=_AT_MOST_ONCE)

    async def read(self) -> list[Delivery]:
        if not self._waiting:
            self._news.clear()
            try:
                async with asyncio.timeout(_READ_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                return []
        room = self._context.room
        return [self._delivery(self._waiting.popleft()) for _ in range(min(room, len(self._waiting)))]

    async def close(self) -> None:
        connection = self._connection
        if connection is None:
            return
        connection.listeners.discard(self._connected)
        with contextlib.suppress(NatsError, OSError):
            if self._subscription is not None:
                await self._subscription.unsubscribe()
        if self._waiting:
            self._context.report_lost(len(self._waiting), "Stopping")

    async def _came(self, message: Any) -> None:
        if len(self._waiting) >= max(_LEAST_BUFFER, self._context.limit):
            self._context.report_lost(1, "SlowConsumer")
            return
        self._waiting.append(message)
        self._news.set()

    def _delivery(self, message: Any) -> Delivery:
        event = event_from_message(
            message.subject, message.data, message.headers, self._ids.next().decode(), "/nats", None
        )
        if message.reply:
            event = event.with_extensions(natsreply=message.reply)
        return Delivery(
            event, partial(self._settle, message.reply), None, message.subject.encode(),
            headers=header_pairs(message.headers),
        )  # fmt: skip

    async def _settle(self, reply: str, outcome: Outcome) -> None:
        if not reply or outcome.kind == "filtered":
            return
        assert self._connection is not None
        answer = outcome.answer
        headers = {}
        if answer is not None and (content_type := answer.header("content-type")):
            headers["Content-Type"] = content_type
        if outcome.kind != "delivered":
            headers["Nats-Service-Error-Code"] = str(answer.status if answer is not None else 500)
            headers["Nats-Service-Error"] = outcome.reason
        await self._connection.client.publish(
            reply, answer.body if answer is not None else b"", headers=headers or None
        )

    def _connected(self, connected: bool) -> None:
        if connected:
            self._context.report(connected=True, reason="AtMostOnce", message=_AT_MOST_ONCE)
        else:
            assert self._connection is not None
            lost = self._connection.lost
            self._context.report(connected=False, reason=lost.reason, message=str(lost))
