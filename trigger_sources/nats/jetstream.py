"""A JetStream pull consumer. The library's own `fetch` costs ten times what this does: pulls are published by hand."""

import asyncio
import contextlib
import logging
import secrets
import time
from collections import deque
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
from nats.errors import Error as NatsError

from trigger_sources.delivery import Delivery, Outcome
from trigger_sources.nats.connection import Connection, JetStreamError, connection_to, servers_of
from trigger_sources.nats.events import Delivered, delivered_from, event_from_message, header_pairs
from trigger_sources.source import Context, SourceError

if TYPE_CHECKING:
    from trigger_sources.nats.trigger import NATSTrigger

log = logging.getLogger(__name__)

_READ_SECONDS = 0.5
_PULL_SECONDS = 5.0
_HEARTBEAT_SECONDS = 1.0
_MOST_IN_A_PULL = 500
_CONFIRM_SECONDS = 0.05
_NS = 1_000_000_000


class Consumption:
    """One consumer's messages, from pulled to acknowledged."""

    def __init__(self, trigger: "NATSTrigger", context: Context) -> None:
        self._trigger = trigger
        self._context = context
        self._connection: Connection | None = None
        self._stream = ""
        self._place = ""  # what positions begin with: the stream, and when it was created
        self._consumer = trigger.name_in(context)
        self._inbox = f"_INBOX.kubeirq.{secrets.token_hex(8)}"
        self._subscription: Any = None
        self._waiting: deque[tuple[Any, Delivered]] = deque()
        self._news = asyncio.Event()
        self._asked: dict[str, int] = {}  # by pull: how many messages it may still bring
        self._pulls = 0
        self._heard = 0.0  # when anything came last, of the loop's clock
        self._held: dict[int, None] = {}  # sequences that are handed out and not settled
        self._newest = 0
        self._unconfirmed: dict[int, str] = {}  # acknowledged, and not known to have reached the server
        self._confirming: asyncio.Task[None] | None = None
        self._problem: str | None = None
        self._alive = True

    async def start(self) -> None:
        trigger, context = self._trigger, self._context
        connection = await connection_to(servers_of(trigger.servers, context), trigger.security, context)
        self._connection = connection
        self._stream = await trigger.stream_in(context)
        info = await connection.api(f"STREAM.INFO.{self._stream}")
        created = datetime.fromisoformat(info["created"][:19] + "+00:00")
        self._place = f"{self._stream}@{int(created.timestamp())}{info['created'][19:].strip('.Z')}"
        await self._create_consumer()
        self._subscription = await connection.client.subscribe(
            f"{self._inbox}.*", cb=self._came, pending_msgs_limit=-1, pending_bytes_limit=-1
        )
        connection.listeners.add(self._connected)
        self._confirming = asyncio.create_task(self._confirm())
        self._heard = asyncio.get_running_loop().time()
        context.report(connected=connection.client.is_connected)

    async def read(self) -> list[Delivery]:
        """What came, at most the room; asks for more when there is room for more."""
        if self._problem is not None:
            problem, self._problem = self._problem, None
            await self._recover(problem)
        self._pull()
        if not self._waiting:
            self._news.clear()
            try:
                async with asyncio.timeout(_READ_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                return []
        room = self._context.room
        deliveries: list[Delivery] = []
        while self._waiting and len(deliveries) < room:
            message, delivered = self._waiting.popleft()
            deliveries.append(self._delivery(message, delivered))
        self._pull()
        return deliveries

    async def close(self) -> None:
        """What was pulled and not handed out goes back; acknowledgements are flushed."""
        connection = self._connection
        if connection is None:
            return
        connection.listeners.discard(self._connected)
        if self._confirming is not None:
            self._confirming.cancel()
            await asyncio.gather(self._confirming, return_exceptions=True)
        with contextlib.suppress(NatsError, TimeoutError, OSError):
            if self._subscription is not None:
                await self._subscription.unsubscribe()
            for message, _ in self._waiting:
                await connection.client.publish(message.reply, b"-NAK")
            async with asyncio.timeout(1):
                if connection.client.is_connected:
                    await connection.client.flush()
        self._waiting.clear()
        self._alive = False

    # --- messages

    def _delivery(self, message: Any, delivered: Delivered) -> Delivery:
        sequence = delivered.sequence
        self._held[sequence] = None
        trigger = self._trigger
        key: bytes | None = None
        if trigger.key is None:
            key = message.subject.encode()
        elif trigger.key.header is not None:
            text = (message.headers or {}).get(trigger.key.header)
            key = text.encode() if text is not None else None
        elif trigger.key.subject_token is not None:
            tokens = message.subject.split(".")
            if len(tokens) >= trigger.key.subject_token:
                key = tokens[trigger.key.subject_token - 1].encode()
        event = event_from_message(
            message.subject, message.data, message.headers, f"{self._stream}/{sequence}", f"/nats/{self._stream}",
            _rfc3339(delivered.timestamp_ns),
        ).with_extensions(natssequence=str(sequence))  # fmt: skip
        return Delivery(
            event,
            partial(self._settle, sequence, message.reply),
            f"{self._place}/{sequence}",
            key,
            None,
            extend=partial(self._publish, message.reply, b"+WPI"),
            handed_out=delivered.handed_out,
            headers=header_pairs(message.headers),
        )

    async def _settle(self, sequence: int, reply: str, outcome: Outcome) -> None:
        if not self._alive:
            raise ConnectionError("the consumer is closed")
        if outcome.final:
            self._held.pop(sequence, None)
            self._unconfirmed[sequence] = reply
            await self._publish(reply, b"+ACK")
        else:
            self._held.pop(sequence, None)
            delay = int(outcome.after_seconds * _NS)
            await self._publish(reply, b'-NAK {"delay": %d}' % delay if delay else b"-NAK")

    async def _publish(self, subject: str, data: bytes) -> None:
        assert self._connection is not None
        await self._connection.client.publish(subject, data)

    async def _came(self, message: Any) -> None:
        """Everything that comes to the inbox: messages, heartbeats, and how pulls end."""
        self._heard = asyncio.get_running_loop().time()
        reply = message.reply
        if reply and reply.startswith("$JS.ACK."):
            delivered = delivered_from(reply)
            self._count_down()
            if delivered.sequence in self._unconfirmed:
                # Acknowledged before, and that was lost on the way: once more, without a second call
                self._unconfirmed[delivered.sequence] = reply
                await self._publish(reply, b"+ACK")
                return
            self._newest = max(self._newest, delivered.sequence)
            self._waiting.append((message, delivered))
            self._news.set()
            return
        headers = message.headers or {}
        status = headers.get("Status", "")
        if status == "100":
            return
        pull = message.subject.rpartition(".")[2]
        self._asked.pop(pull, None)
        text = headers.get("Description", "")
        if status == "409" and ("Consumer Deleted" in text or "Consumer is push based" in text):
            self._problem = text
        elif status == "503":
            self._problem = "no responders"
        self._news.set()

    # --- pulling

    def _pull(self) -> None:
        """Asks for as many as there is room for, and nothing beyond."""
        connection = self._connection
        assert connection is not None
        now = asyncio.get_running_loop().time()
        if self._asked and now - self._heard > 2.5 * _HEARTBEAT_SECONDS:
            self._asked.clear()  # two heartbeats were missed: nobody works on these pulls
            self._heard = now
        asked = sum(self._asked.values())
        want = min(self._context.room - len(self._waiting) - asked, _MOST_IN_A_PULL)
        if want <= 0 or (asked and asked > want) or not connection.client.is_connected:
            return
        self._pulls += 1
        name = str(self._pulls)
        self._asked[name] = want
        request = {"batch": want, "expires": int(_PULL_SECONDS * _NS), "idle_heartbeat": int(_HEARTBEAT_SECONDS * _NS)}
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
        task = asyncio.ensure_future(
            connection.client.publish(subject, orjson.dumps(request), reply=f"{self._inbox}.{name}")
        )
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _count_down(self) -> None:
        """Messages do not say which pull brought them: the oldest one is served first."""
        for name, left in self._asked.items():
            if left > 1:
                self._asked[name] = left - 1
            else:
                del self._asked[name]
            return

    async def _recover(self, problem: str) -> None:
        """The consumer is gone: it is made anew after the last acknowledged message."""
        assert self._connection is not None
        try:
            await self._connection.api(f"STREAM.INFO.{self._stream}")
        except JetStreamError as error:
            raise SourceError("StreamMissing", f"stream {self._stream!r}: {error}") from error
        first = min(self._held, default=self._newest + 1)
        log.warning("consumer re-created", extra={"trigger": self._context.name, "problem": problem, "from": first})
        await self._create_consumer(first)
        self._context.report(connected=True, reason="ConsumerRecreated", message=f"from sequence {first}: {problem}")

    async def _create_consumer(self, first: int | None = None) -> None:
        """Creates or updates the durable consumer. One that exists keeps the place where it is."""
        assert self._connection is not None
        trigger = self._trigger
        config: dict[str, Any] = {
            "name": self._consumer,
            "durable_name": self._consumer,
            "ack_policy": "explicit",
            "ack_wait": int(trigger.ack_wait_seconds * _NS),
            "max_deliver": -1,  # attempts are counted by the fabric; the server's count is of crashes
            "max_ack_pending": max(1_000, 4 * self._context.limit),
            "filter_subject": trigger.subject,
            "replay_policy": "instant",
        }
        path = f"{self._stream}.{self._consumer}"
        try:
            found = (await self._connection.api(f"CONSUMER.INFO.{path}"))["config"]
        except JetStreamError as error:
            if not error.not_found:
                raise
            found = _beginning(trigger.start) if first is None else _beginning(str(first))
        for name in ("deliver_policy", "opt_start_seq", "opt_start_time"):
            if name in found:
                config[name] = found[name]
        await self._connection.api(f"CONSUMER.CREATE.{path}", {"stream_name": self._stream, "config": config})

    # --- the connection

    def _connected(self, connected: bool) -> None:
        if not connected:
            self._context.report(connected=False, reason="NotConnected", message="the connection was lost")
            return
        self._context.report(connected=True)
        self._asked.clear()
        self._news.set()

    async def _confirm(self) -> None:
        """An acknowledgement is remembered until the server has it: a lost one must not cause a second call."""
        assert self._connection is not None
        connection = self._connection
        generation = connection.generation
        while True:
            await asyncio.sleep(_CONFIRM_SECONDS)
            if not self._unconfirmed or not connection.client.is_connected:
                continue
            try:
                if connection.generation != generation:
                    generation = connection.generation
                    for reply in list(self._unconfirmed.values()):
                        await self._publish(reply, b"+ACK")
                sent = dict(self._unconfirmed)
                await connection.client.flush(timeout=2)
            except (NatsError, TimeoutError, OSError):
                continue
            if connection.generation == generation:
                for sequence, reply in sent.items():
                    if self._unconfirmed.get(sequence) == reply:
                        del self._unconfirmed[sequence]


def _beginning(start: str) -> dict[str, Any]:
    """A new consumer's deliver policy."""
    if start in ("all", "new"):
        return {"deliver_policy": start}
    if start.isdigit():
        return {"deliver_policy": "by_start_sequence", "opt_start_seq": int(start)}
    moment = datetime.fromisoformat(start).astimezone(UTC)
    return {"deliver_policy": "by_start_time", "opt_start_time": moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")}


def _rfc3339(timestamp_ns: int) -> str:
    seconds, rest = divmod(timestamp_ns, _NS)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest // 1000:06}Z"
