"""An inbox on JetStream: a subject of a work queue, with its own durable consumer, which replicas share."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from trigger_sources.context import SourceError
from trigger_sources.delivery import STOPPING, Outcome
from trigger_sources.inbox import Kept
from trigger_sources.nats.connection import Connection
from trigger_sources.nats.consumer import consumer_info, create_consumer
from trigger_sources.nats.dead_letters import hash_of
from trigger_sources.nats.pull import NANOSECONDS, Place, Pull
from trigger_sources.nats.streams import check_publishing, ensure_stream

log = logging.getLogger(__name__)

_UNUSED_SECONDS = 7 * 86_400  # the server then forgets the consumer (of a deleted trigger), but not its records


class _Hold:
    """A record that is handed out, with the subject that settles it. Each repeat by the server has a new subject."""

    __slots__ = ("reply",)

    def __init__(self, reply: str) -> None:
        self.reply = reply


class JetStreamInbox:
    """An `inbox.Inbox`. This process takes records only while `may_take()`. `connection` may raise SourceError."""

    def __init__(
        self,
        connection: Callable[[], Awaitable[Connection]],
        uid: str,
        *,
        stream: str,
        replicas: int,
        ack_wait_seconds: float,
        may_take: Callable[[], bool],
    ) -> None:
        self.largest_bytes: int | None = None
        self._connection = connection
        self._stream = stream
        self._all = f"$KUBEIRQ.inbox.{stream}"
        self._subject = f"{self._all}.{hash_of(uid)}"
        self._consumer = hash_of(uid)
        self._replicas = replicas
        self._ack_wait = ack_wait_seconds
        self._may_take = may_take
        self._pull: Pull | None = None
        self._held: dict[Place, _Hold] = {}

    @property
    def must_give_back(self) -> bool:
        return self._pull is not None and not self._may_take()

    async def prepare(self) -> None:
        connection = await self._connection()
        config = {
            "name": self._stream,
            "subjects": [f"{self._all}.*"],
            "storage": "file",
            "retention": "workqueue",
            "discard": "new",  # a full stream refuses new records, and does not lose old ones
            "num_replicas": self._replicas,
            "description": "Accepted events of kubeirq",
        }
        found = await ensure_stream(connection, config)
        if (found["retention"], found["discard"]) != ("workqueue", "new"):
            raise SourceError(
                "StoreUnusable",
                f"{connection.place}: stream {self._stream}: retention {found['retention']} with discard"
                f" {found['discard']} loses accepted events; remove the stream, or make it workqueue with discard new",
            )
        await check_publishing(connection, self._subject)
        if await consumer_info(connection, self._stream, self._consumer) is None:
            await self._configure(connection)
        self._bound(connection)

    async def check_room(self, size: int) -> None:
        connection = await self._connection()
        await check_publishing(connection, self._subject)
        info = await connection.api(f"STREAM.INFO.{self._stream}")
        state, config = info["state"], info["config"]
        for kind, limit, more in (("messages", config["max_msgs"], 1), ("bytes", config["max_bytes"], size)):
            if 0 <= limit < state[kind] + more:
                raise SourceError(
                    "StoreFull",
                    f"{connection.place}: stream {self._stream} has {state[kind]} {kind} of at most {limit}",
                )

    async def append_all(self, records: Sequence[bytes], batch: str = "") -> None:
        connection = await self._connection()
        self._bound(connection)
        await connection.publish(self._subject, records, batch=batch)

    async def take(self, limit: int, timeout_seconds: float, *, in_order: bool = False) -> list[Kept]:
        if not self._may_take():
            await asyncio.sleep(timeout_seconds)
            return []
        pull = await self._opened(in_order)
        found = await pull.read(lambda: limit if self._may_take() else 0, timeout_seconds)
        kept = []
        for message, delivered in found:
            place = delivered.place
            if (hold := self._held.get(place)) is not None:
                hold.reply = message.reply  # the server repeated it while it is held: the newer subject settles it
                continue
            hold = self._held[place] = _Hold(message.reply)
            kept.append(
                Kept(
                    f"{self._stream}/{delivered.sequence}@{delivered.timestamp_ns}",
                    message.data,
                    partial(self._settle, pull, place, hold),
                    partial(self._extend, pull, hold),
                    delivered.handed_out,
                )
            )
        return kept

    async def count(self) -> int:
        connection = await self._connection()
        info = await connection.api(f"STREAM.INFO.{self._stream}", {"subjects_filter": self._subject})
        return int((info["state"].get("subjects") or {}).get(self._subject, 0))

    async def give_back(self) -> None:
        pull, self._pull = self._pull, None
        self._held = {}
        if pull is not None:
            await pull.close(everything=True)

    # --- one record

    async def _settle(self, pull: Pull, place: Place, hold: _Hold, outcome: Outcome) -> None:
        if self._held.get(place) is not hold:
            if outcome.final:
                raise ConnectionError("the record was given back")  # the fabric keeps the outcome until it comes again
            return
        del self._held[place]
        if outcome.final:
            await pull.acknowledge(place, hold.reply)
            return
        if outcome.reason == STOPPING:
            await pull.stop_asking()  # until `give_back`
        await pull.give_back(place, hold.reply, outcome.after_seconds)

    async def _extend(self, pull: Pull, hold: _Hold) -> None:
        await pull.extend(hold.reply)

    # --- the consumer

    async def _opened(self, in_order: bool) -> Pull:
        connection = await self._connection()
        pull = self._pull
        if pull is not None and pull.connection is not connection:
            await self.give_back()
            pull = None
        if pull is not None and pull.problem is not None:
            log.warning("consumer is created again", extra={"consumer": self._consumer, "problem": pull.problem})
            pull.problem = None
            await self.prepare()
        if pull is None:
            info = await self._configure(connection)
            pull = Pull(
                connection,
                self._stream,
                self._consumer,
                ack_wait_seconds=self._ack_wait,
                in_order=in_order,
                config=info["config"],
            )
            await pull.open()
            self._pull = pull
        return pull

    async def _configure(self, connection: Connection) -> dict[str, Any]:
        config = {
            "name": self._consumer,
            "durable_name": self._consumer,
            "ack_policy": "explicit",
            "ack_wait": int(self._ack_wait * NANOSECONDS),
            "max_deliver": -1,
            "max_ack_pending": -1,
            "filter_subject": self._subject,
            "inactive_threshold": _UNUSED_SECONDS * NANOSECONDS,
        }
        return await create_consumer(connection, self._stream, config)

    def _bound(self, connection: Connection) -> None:
        """Bounds the records' size. A quarter of a message is left for a dead letter's metadata."""
        self.largest_bytes = connection.client.max_payload * 3 // 4
