"""A durable pull consumer. It publishes pull requests itself: the library's `fetch` costs ten times as much."""

import asyncio
import contextlib
import logging
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import orjson
from nats.errors import Error as NatsError

from trigger_sources.context import SourceError
from trigger_sources.nats.connection import INBOX, Connection, JetStreamError
from trigger_sources.nats.events import Delivered, call_of, delivered_from

log = logging.getLogger(__name__)

NANOSECONDS = 1_000_000_000
_PULL_SECONDS = 5.0
_HEARTBEAT_SECONDS = 1.0
_MOST_IN_A_PULL = 500
_MOST_PULLS = 4
_MOST_BYTES = 16 * 1024 * 1024  # that all pulls of one consumer may bring
_MOST_BYTES_OF_ALL = 48 * 1024 * 1024  # of one connection: a server cuts it when 64 MiB wait to be sent
_OVERHEAD_BYTES = 64 * 1024  # the server counts the subjects of a message, too
_CONFIRM_SECONDS = 0.05
_CLOSE_SECONDS = 4.0  # for a busy server: without its answer, a record that goes back comes after its deadline only
_ACKNOWLEDGED_KEPT = 10_000
_REPETITIONS_KEPT = 10_000
_LOOK_SECONDS = 0.1
_LONGEST_WAIT_SECONDS = 120.0  # for another process' messages: longer than a replica may act after it lost its role

Place = tuple[int, int]  # of a message in its stream: sequence, time

_pulls_of: "WeakKeyDictionary[Connection, int]" = WeakKeyDictionary()  # how many share the connection


class Pull:
    """One consumer's messages, from the pull to the acknowledgement.

    If an acknowledgement is lost, with the connection or in a killed server, the message comes again: it is then
    acknowledged again, and not handed out twice. `problem` says why the consumer must be created again, if it is gone.
    `in_order`: messages that another process got, or that were lost on the way here, come before newer ones.
    `config`: the consumer's, which bounds pulls. `read_ahead`: the bytes that pulls may bring now; one message in any
    case.
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        consumer: str,
        *,
        ack_wait_seconds: float,
        in_order: bool = False,
        config: Mapping[str, Any],
        read_ahead: Callable[[], int] = lambda: _MOST_BYTES,
    ) -> None:
        self.connection = connection
        self.stream = stream
        self.consumer = consumer
        self.problem: str | None = None
        self.newest = 0  # the last sequence that came
        self.newest_reply = ""  # of the message that came last, until somebody knows a newer state of the consumer
        self.last_info: dict[str, Any] | None = None  # the consumer's state when it was asked for the last messages
        self.returned = 0  # the number of messages that went back when it stopped
        self._repetitions: deque[int] = deque(maxlen=_REPETITIONS_KEPT)  # their consumer sequences
        self._newest_at = 0  # that message's time
        self._ack_wait = ack_wait_seconds
        self._in_order = in_order
        self._read_ahead = read_ahead
        self._older_until: float | None = None  # the deadline for older messages while it waits, by the loop's clock
        self._most_held: int | None = None  # the consumer's own bound while it is lowered
        self._inbox = f"{INBOX}.{secrets.token_hex(8)}"
        self._subscription: Any = None
        self._waiting: OrderedDict[Place, tuple[Any, Delivered]] = OrderedDict()
        self._news = asyncio.Event()
        self._asked: dict[str, int] = {}  # by pull: how many messages it may still bring
        self._pulls = 0
        self._heard = 0.0  # the time of the last message of any kind, by the loop's clock
        self._largest = connection.client.max_payload + _OVERHEAD_BYTES
        self._read: dict[Place, str] = {}  # read and not settled
        self._unconfirmed: dict[Place, str] = {}  # acknowledged, but perhaps not at the server yet
        self._acknowledged: OrderedDict[Place, None] = OrderedDict()  # the last acknowledged ones
        self._confirming: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._is_open = False
        self._gave_all_back = False
        self.configure(config)

    def configure(self, config: Mapping[str, Any]) -> None:
        """Takes the bounds that the consumer sets for each pull. 0 or nothing: there is none."""
        self._most_in_a_pull = min(_MOST_IN_A_PULL, config.get("max_batch") or _MOST_IN_A_PULL)
        self._most_bytes_in_a_pull: int = config.get("max_bytes") or 2**31 - 1
        self._expires = min(int(_PULL_SECONDS * NANOSECONDS), config.get("max_expires") or 2**63)
        self._heartbeat = min(int(_HEARTBEAT_SECONDS * NANOSECONDS), self._expires // 2)

    @property
    def first_unsettled(self) -> int | None:
        """The lowest sequence that is here and not settled."""
        return min((sequence for sequence, _ in self._read.keys() | self._waiting.keys()), default=None)

    @property
    def waiting(self) -> int:
        """The number of messages that are here and not read."""
        return len(self._waiting)

    @property
    def unconfirmed(self) -> int:
        """The number of messages that are acknowledged, but perhaps not at the server yet."""
        return len(self._unconfirmed)

    def repetitions(self, after: int, until: int) -> int:
        """The number of messages that came again within these consumer sequences. It forgets those before."""
        while self._repetitions and self._repetitions[0] <= after:
            self._repetitions.popleft()
        return sum(after < call <= until for call in self._repetitions)

    def forget_repetitions(self) -> None:
        """Forgets which messages came again: another server may count from an earlier state."""
        self._repetitions.clear()

    def forget_acknowledged(self) -> None:
        """Lets acknowledged messages be handed out again: somebody means that with a new consumer."""
        self._acknowledged.clear()

    async def open(self) -> None:
        self._subscription = await self.connection.subscribe(f"{self._inbox}.*", self._came)
        self.connection.listeners.add(self._connected)
        self._confirming = asyncio.create_task(self._confirm())
        self._heard = asyncio.get_running_loop().time()
        self._is_open = True
        _pulls_of[self.connection] = _pulls_of.get(self.connection, 0) + 1
        self._wait_for_older()

    async def read(self, room: Callable[[], int], timeout_seconds: float) -> list[tuple[Any, Delivered]]:
        """The messages that came, at most `room()`; empty if none came in time. Pulls more if there is room."""
        if not self._is_open:
            return []
        if self._stopping is not None:
            await asyncio.sleep(min(timeout_seconds, _LOOK_SECONDS))
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
        if not self._is_open or self._stopping is not None or self.problem is not None:
            return []
        if self._older_until is not None:
            return []  # the connection was lost meanwhile
        found = [self._waiting.popitem(last=False) for _ in range(min(room(), len(self._waiting)))]
        self._read.update((place, message.reply) for place, (message, _) in found)
        self._ask(room())
        return [message for _, message in found]

    async def acknowledge(self, place: Place, reply: str) -> None:
        """Acknowledges a message. Raises ConnectionError if it is closed: the message will come again."""
        if not self._is_open:
            raise ConnectionError("the consumer is closed")
        self._read.pop(place, None)
        if (again := self._waiting.pop(place, None)) is not None:
            reply = again[0].reply  # the server repeated it meanwhile: it must not be read again
        self._unconfirmed[place] = reply
        self._acknowledged[place] = None
        if len(self._acknowledged) > _ACKNOWLEDGED_KEPT:
            self._acknowledged.popitem(last=False)
        try:
            await self._publish(reply, b"+ACK")
        except (NatsError, OSError):
            return  # it is repeated once the connection is back

    async def give_back(self, place: Place, reply: str, after_seconds: float = 0) -> None:
        """Lets the server hand a message out again, after that time. Raises ConnectionError if it is closed."""
        if self._gave_all_back:
            return
        if not self._is_open:
            raise ConnectionError("the consumer is closed")
        self._read.pop(place, None)
        self.returned += self._stopping is not None
        delay = int(after_seconds * NANOSECONDS)
        await self._publish(reply, b'-NAK {"delay": %d}' % delay if delay else b"-NAK")

    async def extend(self, reply: str) -> None:
        """Restarts the server's deadline for a message."""
        await self._publish(reply, b"+WPI")

    async def stop_asking(self) -> None:
        """Takes no more. Returns once the server hands nothing out here, so that what goes back does not return."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop_asking())
        await asyncio.shield(self._stopping)

    async def _stop_asking(self) -> None:
        subscription, self._subscription = self._subscription, None
        self._news.set()
        with contextlib.suppress(SourceError, NatsError, TimeoutError, OSError):
            if subscription is not None and self.connection.client.is_connected:
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self.connection.drain(subscription, _CLOSE_SECONDS)  # messages on their way must go back too
                    await self._forgotten()
            elif subscription is not None:
                await subscription.unsubscribe()
        self._asked.clear()
        back = {place: message.reply for place, (message, _) in self._waiting.items()}
        self._waiting.clear()
        await self._return(back)

    async def close(self, *, everything: bool = False) -> None:
        """Gives back the messages that were not read, flushes acknowledgements, and takes no more.

        `everything`: also those that were read and not settled.
        """
        if not self._is_open:
            return
        self._is_open = False
        _pulls_of[self.connection] -= 1
        self.connection.listeners.discard(self._connected)
        if self._confirming is not None:
            self._confirming.cancel()
            await asyncio.gather(self._confirming, return_exceptions=True)
        self._gave_all_back = everything
        await self.stop_asking()
        await self._return({})
        with contextlib.suppress(NatsError, TimeoutError, OSError):
            if self.connection.client.is_connected:
                await self.connection.flush(_CLOSE_SECONDS)

    async def _return(self, back: dict[Place, str]) -> None:
        if self._gave_all_back:
            back |= self._read
            self._read.clear()
        self.returned += len(back)
        with contextlib.suppress(NatsError, TimeoutError, OSError):
            for _, reply in sorted(back.items()):  # the server repeats them in the order in which it gets them back
                await self._publish(reply, b"-NAK")

    async def _forgotten(self) -> None:
        """Makes the server drop pulls without a subscriber: such a pull would take the first message that goes back.

        The server drops them when it is asked for the consumer's state.
        """
        self.last_info = await self.connection.api(f"CONSUMER.INFO.{self.stream}.{self.consumer}")

    # --- order

    def _wait_for_older(self) -> None:
        if self._in_order:
            self._older_until = asyncio.get_running_loop().time() + _LONGEST_WAIT_SECONDS

    async def _older_are_here(self, timeout_seconds: float) -> bool:
        """Collects messages that were handed out and are not here. Returns whether newer ones may follow."""
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
                        log.warning("no longer waiting for messages of another process", extra=self._names())
                        break
                    if self._most_held is None:
                        # Beyond this bound, the server hands out only messages that it handed out before
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
                self.problem = str(error)
            else:
                await asyncio.sleep(_CONFIRM_SECONDS)  # the servers are starting
            return False
        if self._older_until != until or not self._is_open:
            return False  # the connection was lost meanwhile
        self._older_until = None
        self._waiting = OrderedDict(sorted(self._waiting.items()))  # the server repeats them in any order
        return True

    async def _missing(self) -> int:
        """The number of messages that the server handed out and that are not here.

        It may be too high until the server has the last acknowledgements.
        """
        info = await self.connection.api(f"CONSUMER.INFO.{self.stream}.{self.consumer}")
        # A server that was killed may have forgotten some of the last ones
        newest: int = info["delivered"]["stream_seq"]
        here = sum(sequence <= newest for sequence, _ in self._read | self._waiting.keys())
        pending: int = info["num_ack_pending"]
        return max(0, pending - here)

    async def _bound(self, most_held: int) -> int:
        """Sets the number of unsettled messages that the consumer may hand out; returns the previous number."""
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
        """Handles everything that comes to the inbox: messages, heartbeats and the ends of pulls."""
        self._heard = asyncio.get_running_loop().time()
        reply = message.reply
        if reply and reply.startswith("$JS.ACK."):
            delivered = delivered_from(reply)
            self.newest_reply = reply
            if delivered.handed_out > 1:
                self._repetitions.append(call_of(reply))
            self._count_down()
            place = delivered.place
            if place in self._acknowledged:
                self._unconfirmed[place] = reply
                await self._publish(reply, b"+ACK")
                return
            if place[0] > self.newest:
                self.newest, self._newest_at = place
            elif place[1] > self._newest_at:
                self._newest_at = place[1]
                self.problem = "a message is newer than one with a higher sequence"  # perhaps of another stream
            self._waiting[place] = (message, delivered)
            self._news.set()
            return
        headers = message.headers or {}
        status = headers.get("Status", "")
        if status == "100":
            return
        self._asked.pop(message.subject.rpartition(".")[2], None)
        text = headers.get("Description", "")
        if status == "409":
            self._refused(text, headers)
        elif status in ("400", "503"):  # the consumer asks for more than a pull says; it is missing
            self.problem = text or "no responders"
        self._news.set()

    def _refused(self, text: str, headers: Mapping[str, str]) -> None:
        """Handles a pull that the server ended or did not accept."""
        if text == "Message Size Exceeds MaxBytes":
            if int(headers.get("Nats-Pending-Bytes", 0)) >= self._bytes_of_a_pull()[1]:
                self._largest *= 2  # it could not bring even one message
        elif text.startswith(("Consumer Deleted", "Consumer is push based", "Exceeded Max")):
            self.problem = text

    # --- pulling

    def _ask(self, room: int) -> None:
        """Pulls as many messages as there is room for."""
        client = self.connection.client
        now = asyncio.get_running_loop().time()
        if self._asked and now - self._heard > 2.5 * _HEARTBEAT_SECONDS:
            self._asked.clear()  # two heartbeats are missing: no server works on these pulls
            self._heard = now
        asked = sum(self._asked.values())
        want = min(room - len(self._waiting) - asked, self._most_in_a_pull)
        if want <= 0 or (asked and asked > want) or not client.is_connected or self._stopping is not None:
            return
        most_pulls, most_bytes = self._bytes_of_a_pull()
        if len(self._asked) >= most_pulls:
            return
        if most_bytes < self._largest:  # the consumer's own bound may be too small for one message
            want = 1
        self._pulls += 1
        name = str(self._pulls)
        self._asked[name] = want
        request = {
            "batch": want,
            "expires": self._expires,
            "idle_heartbeat": self._heartbeat,
        }
        if most_bytes >= self._largest:
            request["max_bytes"] = most_bytes
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self.stream}.{self.consumer}"
        task = asyncio.ensure_future(client.publish(subject, orjson.dumps(request), reply=f"{self._inbox}.{name}"))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _bytes_of_a_pull(self) -> tuple[int, int]:
        """The number of pulls that may be under way, and the bytes of each: at least those of the largest message."""
        share = min(_MOST_BYTES, _MOST_BYTES_OF_ALL // max(1, _pulls_of.get(self.connection, 1)), self._read_ahead())
        pulls = max(1, min(_MOST_PULLS, share // self._largest))
        return pulls, min(max(self._largest, share // pulls), self._most_bytes_in_a_pull)

    def _count_down(self) -> None:
        """Counts a message for the oldest pull: messages do not name their pull, and the oldest is served first."""
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
        """Repeats acknowledgements until the server has them, and extends messages that wait to be read."""
        generation = self.connection.generation
        clock = asyncio.get_running_loop().time
        extended_at = clock()
        while True:
            await asyncio.sleep(_CONFIRM_SECONDS)
            if not self.connection.client.is_connected:
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
