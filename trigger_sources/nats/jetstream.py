"""The deliveries of a JetStream trigger: the messages of its consumer."""

import logging
import time
from datetime import UTC, datetime
from functools import partial
from typing import Any

from trigger_sources.context import Context, SourceError
from trigger_sources.delivery import Delivery, Outcome
from trigger_sources.encoding.header_text import bytes_of_header
from trigger_sources.nats.connection import Connection, JetStreamError
from trigger_sources.nats.events import Delivered, event_from_message
from trigger_sources.nats.headers import header_pairs
from trigger_sources.nats.pull import NANOSECONDS, Place, Pull
from trigger_sources.nats.spec import NATSSpec

log = logging.getLogger(__name__)

_READ_SECONDS = 0.5


class Consumption:
    """A trigger's consumer. It is created if it is missing, and created again if it is deleted."""

    def __init__(self, trigger: NATSSpec, context: Context) -> None:
        self._trigger = trigger
        self._context = context
        self._connection: Connection | None = None
        self._pull: Pull | None = None
        self._stream = ""
        self._place = ""  # the prefix of positions: the stream and the time of its creation
        self._consumer = trigger.name_in(context)
        self._held: dict[int, None] = {}  # sequences that are handed out and not settled

    async def start(self) -> None:
        trigger, context = self._trigger, self._context
        connection = await trigger.connection(context)
        self._connection = connection
        self._stream = await trigger.stream_in(context)
        info = await connection.api(f"STREAM.INFO.{self._stream}")
        created = datetime.fromisoformat(info["created"][:19] + "+00:00")
        self._place = f"{self._stream}@{int(created.timestamp())}{info['created'][19:].strip('.Z')}"
        await self._create_consumer()
        self._pull = Pull(
            connection,
            self._stream,
            self._consumer,
            ack_wait_seconds=trigger.ack_wait_seconds,
            in_order=trigger.lanes != "none",
        )
        await self._pull.open()
        connection.listeners.add(self._connected)
        context.report(connected=connection.client.is_connected)

    async def read(self) -> list[Delivery]:
        """The messages that came, at most as many as there is room for."""
        pull = self._pull
        assert pull is not None
        if pull.problem is not None:
            problem, pull.problem = pull.problem, None
            await self._recover(problem)
        found = await pull.read(lambda: self._context.room, _READ_SECONDS)
        return [self._delivery(message, delivered) for message, delivered in found]

    async def close(self) -> None:
        """Gives back the messages that were pulled and not handed out, and flushes acknowledgements."""
        if self._connection is not None:
            self._connection.listeners.discard(self._connected)
        if self._pull is not None:
            await self._pull.close()

    # --- messages

    def _delivery(self, message: Any, delivered: Delivered) -> Delivery:
        assert self._pull is not None
        sequence = delivered.sequence
        self._held[sequence] = None
        trigger = self._trigger
        key: bytes | None = None
        if trigger.key is None:
            key = message.subject.encode()
        elif trigger.key.header is not None:
            text = (message.headers or {}).get(trigger.key.header)
            key = bytes_of_header(text) if text is not None else None
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
            partial(self._settle, delivered.place, message.reply),
            f"{self._place}/{sequence}",
            key,
            None,
            extend=partial(self._pull.extend, message.reply),
            handed_out=delivered.handed_out,
            headers=header_pairs(message.headers),
        )

    async def _settle(self, place: Place, reply: str, outcome: Outcome) -> None:
        assert self._pull is not None
        if outcome.final:
            await self._pull.acknowledge(place, reply)
        else:
            await self._pull.give_back(place, reply, outcome.after_seconds)
        self._held.pop(place[0], None)

    async def _recover(self, problem: str) -> None:
        """Creates a lost consumer again, after the last acknowledged message."""
        assert self._connection is not None
        assert self._pull is not None
        try:
            await self._connection.api(f"STREAM.INFO.{self._stream}")
        except JetStreamError as error:
            raise SourceError("StreamMissing", f"stream {self._stream!r}: {error}") from error
        first = min(self._held, default=self._pull.newest + 1)
        log.warning("consumer re-created", extra={"trigger": self._context.name, "problem": problem, "from": first})
        await self._create_consumer(first)
        self._context.report(connected=True, reason="ConsumerRecreated", message=f"from sequence {first}: {problem}")

    async def _create_consumer(self, first: int | None = None) -> None:
        """Creates or updates the durable consumer. An existing one keeps its place."""
        assert self._connection is not None
        trigger = self._trigger
        config: dict[str, Any] = {
            "name": self._consumer,
            "durable_name": self._consumer,
            "ack_policy": "explicit",
            "ack_wait": int(trigger.ack_wait_seconds * NANOSECONDS),
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
            assert self._connection is not None
            lost = self._connection.lost
            self._context.report(connected=False, reason=lost.reason, message=str(lost))
            return
        self._context.report(connected=True)


def _beginning(start: str) -> dict[str, Any]:
    """A new consumer's deliver policy."""
    if start in ("all", "new"):
        return {"deliver_policy": start}
    if start.isdigit():
        return {"deliver_policy": "by_start_sequence", "opt_start_seq": int(start)}
    moment = datetime.fromisoformat(start).astimezone(UTC)
    return {"deliver_policy": "by_start_time", "opt_start_time": moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")}


def _rfc3339(timestamp_ns: int) -> str:
    seconds, rest = divmod(timestamp_ns, NANOSECONDS)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest // 1000:06}Z"
