"""A durable pull consumer. The library's own `fetch` costs ten times what this does: pulls are published by hand."""

import asyncio
import contextlib
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import orjson
from nats.errors import Error as NatsError

from trigger_sources.context import SourceError
from trigger_sources.nats.connection import Connection, JetStreamError
from trigger_sources.nats.events import Delivered, delivered_from

log = logging.getLogger(__name__)

NANOSECONDS = 1_000_000_000
_PULL_SECONDS = 5.0
_HEARTBEAT_SECONDS = 1.0
_MOST_IN_A_PULL = 500
_CONFIRM_SECONDS = 0.05
_CLOSE_SECONDS = 1.0
_ACKNOWLEDGED_KEPT = 10_000
_LOOK_SECONDS = 0.1
_LONGEST_WAIT_SECONDS = 120.0  # for what another holds: longer than a replica may go on that is none any more

Place = tuple[int, int]  # of a message in its stream: sequence, time


class Pull:
    """One consumer's messages, from pulled to acknowledged.

    An acknowledgement that was lost, with the connection or by a server that was killed, is repeated when its message
    comes again: it is not handed out twice. `problem`: why the consumer has to be made anew, where it is gone.
    `in_order`: what another was handed out, or was lost on its way here, comes before anything newer.
    """

    def __init__(
        self, connection: Connection, stream: str, consumer: str, *, ack_wait_seconds: float, in_order: bool = False
    ) -> None:
        self.connection = connection
        self.stream = stream
        self.consumer = consumer
        self.problem: str | None = None
        self.newest = 0  # the last sequence that came
        self._ack_wait = ack_wait_seconds
        self._in_order = in_order
        self._older_until: float | None = None  # while older ones are waited for, of the loop's clock
        self._most_held: int | None = None  # the consumer's own bound, while it is lowered
        self._inbox = f"_INBOX.kubeirq.{secrets.token_hex(8)}"
        self._subscription: Any = None
        self._waiting: OrderedDict[Place, tuple[Any, Delivered]] = OrderedDict()
        self._news = asyncio.Event()
        self._asked: dict[str, int] = {}  # by pull: how many messages it may still bring
        self._pulls = 0
        self._heard = 0.0  # when anything came last, of the loop's clock
        self._read: set[Place] = set()  # and not settled
        self._unconfirmed: dict[Place, str] = {}  # acknowledged, and not known to have reached the server
        self._acknowledged: OrderedDict[Place, None] = OrderedDict()  # the last ones
        self._confirming: asyncio.Task[None] | None = None
        self._is_open = False

    async def open(self) -> None:
        self._subscription = await self.connection.client.subscribe(
            f"{self._inbox}.*", cb=self._came, pending_msgs_limit=-1, pending_bytes_limit=-1
        )
        self.connection.listeners.add(self._connected)
        self._confirming = asyncio.create_task(self._confirm())
        self._heard = asyncio.get_running_loop().time()
        self._is_open = True
        self._wait_for_older()

    async def read(self, room: Callable[[], int], timeout_seconds: float) -> list[tuple[Any, Delivered]]:
        """What came, at most the room; empty when nothing came in time. Asks for more when there is room for more."""
        if not self._is_open:
            return []
        if self._older_until is not None and not await self._older_are_here(timeout_seconds):
            return []
        self._ask(room())
        if not self._waiting:
            self._news.clear()
            try:
                async with asyncio.timeout(timeout_seconds):
                    await self._news.wait()
            except TimeoutError:
                return []
        if not self._is_open:
            return []
        if self._older_until is not None:
            return []  # the connection was lost meanwhile
        found = [self._waiting.popitem(last=False) for _ in range(min(room(), len(self._waiting)))]
        self._read.update(place for place, _ in found)
        self._ask(room())
        return [message for _, message in found]

    async def acknowledge(self, place: Place, reply: str) -> None:
        """Raises ConnectionError when it is closed: the message will come again."""
        if not self._is_open:
            raise ConnectionError("the consumer is closed")
        self._read.discard(place)
        if (again := self._waiting.pop(place, None)) is not None:
            reply = again[0].reply  # it was repeated meanwhile, and is not to be read once more
        self._unconfirmed[place] = reply
        self._acknowledged[place] = None
        if len(self._acknowledged) > _ACKNOWLEDGED_KEPT:
            self._acknowledged.popitem(last=False)
        await self._publish(reply, b"+ACK")

    async def give_back(self, place: Place, reply: str, after_seconds: float = 0) -> None:
        """It is handed out again, not sooner. Raises ConnectionError when this is closed."""
        if not self._is_open:
            raise ConnectionError("the consumer is closed")
        self._read.discard(place)
        delay = int(after_seconds * NANOSECONDS)
        await self._publish(reply, b'-NAK {"delay": %d}' % delay if delay else b"-NAK")

    async def extend(self, reply: str) -> None:
        """The server's time for it begins anew."""
        await self._publish(reply, b"+WPI")

    async def close(self, held: Iterable[str] = ()) -> None:
        """What was not read goes back, after what `held` says; acknowledgements are flushed."""
        client = self.connection.client
        self._is_open = False
        self._news.set()
        self.connection.listeners.discard(self._connected)
        if self._confirming is not None:
            self._confirming.cancel()
            await asyncio.gather(self._confirming, return_exceptions=True)
        with contextlib.suppress(SourceError, NatsError, TimeoutError, OSError):
            if self._subscription is not None and client.is_connected:
                # Also what is on its way has to go back
                await self.connection.drain(self._subscription, _CLOSE_SECONDS)
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self._forgotten()
            elif self._subscription is not None:
                await self._subscription.unsubscribe()
        with contextlib.suppress(NatsError, TimeoutError, OSError):
            # The server repeats them in the order in which it gets them back
            for reply in [*held, *(message.reply for message, _ in self._waiting.values())]:
                await self._publish(reply, b"-NAK")
            if client.is_connected:
                await self.connection.flush(_CLOSE_SECONDS)
        self._waiting.clear()

    async def _forgotten(self) -> None:
        """The server drops the pulls that nobody listens to: one of them would take the first message that comes back.

        It does when it is asked how the consumer is.
        """
        await self.connection.api(f"CONSUMER.INFO.{self.stream}.{self.consumer}")

    # --- order

    def _wait_for_older(self) -> None:
        if self._in_order:
            self._older_until = asyncio.get_running_loop().time() + _LONGEST_WAIT_SECONDS

    async def _older_are_here(self, timeout_seconds: float) -> bool:
        """Gathers what was handed out and is not here; lets newer messages come once all of it is."""
        assert self._older_until is not None
        until = self._older_until
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        try:
            async with asyncio.timeout_at(deadline):
                while not self.connection.client.is_connected:
                    self._news.clear()
                    await self._news.wait()
                while missing := await self._missing():
                    if asyncio.get_running_loop().time() > until:
                        log.warning("no longer waited for messages that another holds", extra=self._names())
                        break
                    if self._most_held is None:
                        # Over this bound the server hands out nothing but what was handed out before
                        self._most_held = await self._bound(1)
                    self._ask(len(self._waiting) + missing)
                    self._news.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_LOOK_SECONDS):
                            await self._news.wait()
                if self._most_held is not None:
                    await self._bound(self._most_held)
                    self._most_held = None
        except TimeoutError:
            return False
        except SourceError as error:
            if isinstance(error, JetStreamError) and error.not_found:
                self._is_gone(str(error))
            else:
                await asyncio.sleep(_CONFIRM_SECONDS)  # the servers start
            return False
        if self._older_until != until or not self._is_open:
            return False  # the connection was lost meanwhile
        self._older_until = None
        self._waiting = OrderedDict(sorted(self._waiting.items()))  # the server repeats them in any order
        return True

    async def _missing(self) -> int:
        """How many messages the server has handed out that are not here, or so it seems while it hears of the last."""
        info = await self.connection.api(f"CONSUMER.INFO.{self.stream}.{self.consumer}")
        # A server that was killed may have forgotten some of the last ones
        newest: int = info["delivered"]["stream_seq"]
        here = sum(sequence <= newest for sequence, _ in self._read | self._waiting.keys())
        pending: int = info["num_ack_pending"]
        return max(0, pending - here)

    async def _bound(self, most_held: int) -> int:
        """How many messages the consumer may hand out that are not settled; what it was before."""
        config = (await self.connection.api(f"CONSUMER.INFO.{self.stream}.{self.consumer}"))["config"]
        changed = {"stream_name": self.stream, "config": {**config, "max_ack_pending": most_held}}
        await self.connection.api(f"CONSUMER.CREATE.{self.stream}.{self.consumer}", changed)
        return int(config["max_ack_pending"])

    def _names(self) -> dict[str, str]:
        return {"stream": self.stream, "consumer": self.consumer}

    # --- messages

    async def _publish(self, subject: str, data: bytes) -> None:
        await self.connection.client.publish(subject, data)

    async def _came(self, message: Any) -> None:
        """Everything that comes to the inbox: messages, heartbeats, and how pulls end."""
        self._heard = asyncio.get_running_loop().time()
        reply = message.reply
        if reply and reply.startswith("$JS.ACK."):
            delivered = delivered_from(reply)
            self._count_down()
            place = delivered.place
            if place in self._acknowledged:
                self._unconfirmed[place] = reply
                await self._publish(reply, b"+ACK")
                return
            self.newest = max(self.newest, delivered.sequence)
            self._waiting[place] = (message, delivered)
            self._news.set()
            return
        headers = message.headers or {}
        status = headers.get("Status", "")
        if status == "100":
            return
        self._asked.pop(message.subject.rpartition(".")[2], None)
        text = headers.get("Description", "")
        if status == "409" and ("Consumer Deleted" in text or "Consumer is push based" in text):
            self._is_gone(text)
        elif status == "503":
            self.problem = "no responders"
        self._news.set()

    def _is_gone(self, problem: str) -> None:
        self.problem = problem
        self._acknowledged.clear()  # who makes it anew may want them all once more

    # --- pulling

    def _ask(self, room: int) -> None:
        """Asks for as many as there is room for, and nothing beyond."""
        client = self.connection.client
        now = asyncio.get_running_loop().time()
        if self._asked and now - self._heard > 2.5 * _HEARTBEAT_SECONDS:
            self._asked.clear()  # two heartbeats were missed: nobody works on these pulls
            self._heard = now
        asked = sum(self._asked.values())
        want = min(room - len(self._waiting) - asked, _MOST_IN_A_PULL)
        if want <= 0 or (asked and asked > want) or not client.is_connected:
            return
        self._pulls += 1
        name = str(self._pulls)
        self._asked[name] = want
        request = {
            "batch": want,
            "expires": int(_PULL_SECONDS * NANOSECONDS),
            "idle_heartbeat": int(_HEARTBEAT_SECONDS * NANOSECONDS),
        }
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self.stream}.{self.consumer}"
        task = asyncio.ensure_future(client.publish(subject, orjson.dumps(request), reply=f"{self._inbox}.{name}"))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _count_down(self) -> None:
        """Messages do not say which pull brought them: the oldest one is served first."""
        for name, left in self._asked.items():
            if left > 1:
                self._asked[name] = left - 1
            else:
                del self._asked[name]
            return

    # --- the connection

    def _connected(self, connected: bool) -> None:
        if connected:
            self._asked.clear()
            self._wait_for_older()
            self._news.set()

    async def _confirm(self) -> None:
        """An acknowledgement is remembered until the server has it; what waits to be read is kept from coming again."""
        client = self.connection.client
        generation = self.connection.generation
        clock = asyncio.get_running_loop().time
        extended_at = clock()
        while True:
            await asyncio.sleep(_CONFIRM_SECONDS)
            if not client.is_connected:
                continue
            try:
                if clock() - extended_at > self._ack_wait / 3:
                    extended_at = clock()
                    for message, _ in list(self._waiting.values()):
                        await self.extend(message.reply)
                if not self._unconfirmed:
                    continue
                if self.connection.generation != generation:
                    generation = self.connection.generation
                    for reply in list(self._unconfirmed.values()):
                        await self._publish(reply, b"+ACK")
                sent = dict(self._unconfirmed)
                await self.connection.flush(2)
            except (NatsError, TimeoutError, OSError):
                continue
            if self.connection.generation == generation:
                for place, reply in sent.items():
                    if self._unconfirmed.get(place) == reply:
                        del self._unconfirmed[place]
