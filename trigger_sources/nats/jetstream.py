"""The deliveries of a JetStream trigger: the messages of its consumer."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from trigger_sources.context import Context, SourceError
from trigger_sources.delivery import Delivery, Outcome
from trigger_sources.encoding.header_text import bytes_of_header
from trigger_sources.kept_state import Damaged
from trigger_sources.nats.connection import Connection
from trigger_sources.nats.consumer import (
    Config,
    consumer_info,
    consumer_of,
    create_consumer,
    create_missing,
    drifted,
    event_ids_of,
    filter_of,
    is_marked,
    is_of_another_function,
    keeps_metadata,
    may_write,
    pause_of,
    unsettled,
    updated,
    with_event_ids,
    withheld,
)
from trigger_sources.nats.events import Delivered, event_from_message, unread_after
from trigger_sources.nats.headers import header_pairs
from trigger_sources.nats.losses import Count, Look, Tally, begun, counted, may_hide, resumed, stopped
from trigger_sources.nats.place import (
    DAMAGED,
    Beginning,
    KeptPlace,
    Place,
    beginning,
    beginning_of_damaged,
    consumer_in,
)
from trigger_sources.nats.pull import NANOSECONDS, Pull
from trigger_sources.nats.pull import Place as MessagePlace
from trigger_sources.nats.source_stream import ABOUT_STREAMS, SourceStream, find_stream, look_at
from trigger_sources.nats.spec import NATSSpec
from trigger_sources.nats.streams import messages_by_subject
from trigger_sources.nats.subjects import covers
from trigger_sources.source import Lag

log = logging.getLogger(__name__)

_READ_SECONDS = 0.5
_LEAST_UNACKNOWLEDGED = 1_000
_MOST_NAMED = 3
_SECOND = "_2"  # no function's name has an underscore
_REPEATED_SECONDS = 6.0  # a pull that got no answer is repeated sooner
_KNOWN_SECONDS = 1.0  # after that time, the consumer knows of the messages that its stream has


class Consumption:
    """A trigger's consumer. It is created if it is missing, and created again if it is deleted."""

    def __init__(self, trigger: NATSSpec, context: Context) -> None:
        self._trigger = trigger
        self._context = context
        self._consumer = trigger.name_in(context)
        self._taken_over = False
        self._kept = KeptPlace(context.state, trigger.subject)
        self._connection: Connection
        self._stream: SourceStream
        self._pull: Pull | None = None
        self._position = ""  # the first part of positions: the stream and the time of its creation
        self._ids = ""  # the first part of the ids of events
        self._source = ""
        self._note = ("", "")  # the reason and the message of a source that is connected
        self._damage = ("", "")  # the same, since this start, of a place that could not be read
        self._refusals: dict[str, float] = {}  # subjects to which it may not publish, with the time to forget them
        self._pause = ""  # the message for a consumer that somebody paused
        self._failure: SourceError | None = None  # the finding of `look`; the next read raises it
        self._pending = 0  # messages that the consumer had not handed out when it was last looked at
        self._lost: int | None = None  # unread messages of the stream, once it is gone
        self._tally = Tally()
        self._server = ""  # the identity of the server, when the consumer was looked at
        self._ends: list[tuple[float, int]] = []  # times with the stream's last sequences: a known one, the newest
        self._removed = 0  # messages that the stream lost before they were read, since this start
        self._removal = ("", "")  # the reason and the message for them
        self._draining: asyncio.Task[None] | None = None

    async def start(self) -> None:
        trigger, context = self._trigger, self._context
        connection = self._connection = await trigger.connection(context)
        found_place = await self._kept.load()
        kept = found_place if isinstance(found_place, Place) else None
        self._consumer = consumer_in(kept, trigger, context)
        self._taken_over = kept is not None and kept.consumer == self._consumer
        self._stream = await find_stream(connection, trigger.wish(context, self._consumer))
        if isinstance(found_place, Damaged) and trigger.durable is None:
            mine = await consumer_of(connection, self._stream.name, trigger.owner(context))
            self._consumer = mine or self._consumer
        info = await consumer_info(connection, self._stream.name, self._consumer)
        if (
            info is not None
            and trigger.durable is None
            and not self._taken_over
            and is_of_another_function(info, trigger.owner(context))
        ):
            self._consumer += _SECOND  # the other function took over the consumer that has this one's name
            info = await consumer_info(connection, self._stream.name, self._consumer)
        begin: Beginning | None = None
        if info is not None or (info := await self._rest_of(kept)) is not None:
            found, info = info, await self._continue(info)
            await self._tell_left_out(found, info)
        else:
            begin = self._beginning(found_place)
            self._tell(begin)
            info = await self._create(begin.config, begin.ids)
        stream = self._stream
        self._position = stream.place
        self._source = f"/nats/{stream.name}"
        if isinstance(found_place, Damaged):
            self._tell_damage(found_place, info, is_new=begin is not None)
        self._kept.is_at(stream.place, info, self._ids)
        tally = kept.tally if kept is not None else Tally()
        if tally.given_back == 0:
            tally = replace(tally, sure=True)  # an earlier start had the uncertain ones
        await self._begin_to_count(info, tally)
        if kept is not None and begin is not None and begin.reason == "ConsumerRecreated":
            self._tell_hidden(info, tally, kept.floor + 1)
        await self._kept.begin()
        if begin is not None and begin.lost:
            context.report_lost(begin.lost, begin.reason)
        self._pause = pause_of(info)
        self._pending = info["num_pending"]
        if not self._note[0] and trigger.durable is None and self._consumer != trigger.name_in(context):
            self._note = ("", f"reads with consumer {self._consumer}, which an earlier function of the trigger had")
        if not self._note[0] and not stream.problem and not stream.has_all(trigger.subject):
            self._note = ("PartlyInStream", f"stream {stream.text} has only a part of {trigger.subject!r}")
        self._pull = Pull(
            connection,
            stream.name,
            self._consumer,
            ack_wait_seconds=trigger.ack_wait_seconds,
            in_order=trigger.lanes != "none",
            config=info["config"],
            read_ahead=lambda: context.read_ahead_bytes,
        )
        await self._pull.open()
        connection.listeners.add(self._report)
        connection.refusal_listeners.add(self._refused)
        _RUNNING[id(context)] = self
        self._draining = asyncio.create_task(self._stop_asking_when_it_drains())
        self._report(connection.client.is_connected)

    async def read(self) -> list[Delivery]:
        """The messages that came, at most as many as there is room for."""
        pull = self._pull
        assert pull is not None
        if self._failure is not None:
            raise self._failure
        if pull.problem is not None and self._connection.client.is_connected:
            problem, pull.problem = pull.problem, None
            try:
                await self._recover(problem)
            except SourceError:
                if self._connection.client.is_connected:
                    raise
                pull.problem = problem  # the connection was lost meanwhile: the next look is once it is back
        found = await pull.read(lambda: self._context.room, _READ_SECONDS)
        return [self._delivery(message, delivered) for message, delivered in found]

    async def close(self) -> None:
        """Gives back the messages that were not settled, flushes acknowledgements, and keeps the place."""
        _RUNNING.pop(id(self._context), None)
        if self._draining is not None:
            self._draining.cancel()
        if self._pull is None:
            return
        self._connection.listeners.discard(self._report)
        self._connection.refusal_listeners.discard(self._refused)
        # After a failure the fabric still has the messages that it took: they stay with it
        await self._pull.close(everything=self._context.stopping.is_set())
        self._kept.moved(self._pull.last_info)
        self._stop_counting()
        if self._lost is not None:
            self._kept.ended(self._lost)
        await self._kept.save(at_once=True)

    async def look(self) -> Lag | None:
        """The lag. Also notices changes of the stream and the consumer that the server does not report."""
        if not self._connection.client.is_connected or self._failure is not None:
            return None
        await self._look_at_stream()
        stream = self._stream
        info = await consumer_info(self._connection, stream.name, self._consumer)
        if info is None:
            assert self._pull is not None
            self._pull.problem = self._pull.problem or "the consumer is missing"
            return None
        if problem := drifted(info, self._trigger.owner(self._context), self._trigger.subject):
            self._failure = SourceError("Taken", f"consumer {self._consumer} of stream {stream.name}: {problem}")
        elif problem := withheld(info, self._config()):
            await self._restore(info, problem)
        before = (self._pause, bool(self._refusals))
        self._pause = pause_of(info)
        self._forgive()
        if before != (self._pause, bool(self._refusals)):
            self._report(self._connection.client.is_connected)
        assert self._pull is not None
        self._pending, self._pull.newest_reply = info["num_pending"], ""
        self._kept.moved(info)
        await self._count_lost(info)
        await self._kept.save()
        return Lag(unsettled(info))

    @property
    def uncommitted(self) -> int:
        """How many messages are acknowledged while the server may not know it."""
        return self._pull.unconfirmed if self._pull is not None else 0

    # --- losses

    def _look(self, info: Mapping[str, Any]) -> Look:
        return Look.of(self._stream, self._trigger.subject, info)

    async def _begin_to_count(self, info: Mapping[str, Any], tally: Tally) -> None:
        """Counts the losses while no replica ran, and begins to count those that come."""
        look = self._look(info)
        after = await look_at(self._connection, self._stream.name)
        last = max(after.last_sequence if after is not None else 0, self._stream.last_sequence)
        self._server, self._ends = self._connection.server_id, []
        await self._take(look, resumed(tally, look, last), lambda kept: resumed(kept, look, last))

    def _tell_hidden(self, info: Mapping[str, Any], tally: Tally, first: int) -> None:
        """Tells of messages that may have been lost with the consumer that this one replaces."""
        look = self._look(info)
        if may_hide(tally, look, first):
            self._tell_removed(look, Count(self._tally, unknown=True))

    async def _count_lost(self, info: Mapping[str, Any]) -> None:
        """Counts the messages that the stream lost before the consumer handed them out."""
        look, tally, pull = self._look(info), self._tally, self._pull
        assert pull is not None
        if self._server != self._connection.server_id or not tally.follows(look):
            pull.forget_repetitions()  # a server that was killed may hand out what it handed out before
            after = await look_at(self._connection, self._stream.name)
            last = max(after.last_sequence if after is not None else 0, look.last)
            self._server, self._ends = self._connection.server_id, []
            await self._take(look, Count(begun(tally, look, last)), None)
            return
        repeated, known = pull.repetitions(tally.calls, look.calls), self._known_end(look.last)
        await self._take(
            look,
            counted(tally, look, repeated, known),
            lambda kept: counted(tally.with_counts_of(kept), look, repeated, known),
        )

    async def _take(self, look: Look, count: Count, again: Callable[[Tally], Count] | None) -> None:
        """Takes a count, and reports its losses if no other replica has reported them."""
        if count.lost and again is not None:
            count = await self._kept.claim(again, alone=self._trigger.lanes != "none")
        self._tally = count.tally
        self._kept.tallied(count.tally)
        if count.lost or count.unknown:
            self._tell_removed(look, count)

    def _tell_removed(self, look: Look, count: Count) -> None:
        stream, limits = self._stream, self._stream.limits
        self._removed += count.lost
        cause = "somebody purged or deleted them" + (f", or a limit ({limits}) removed them" if limits else "")
        if self._removed:
            exact = look.whole and count.tally.sure
            number = f"{self._removed} messages" if exact else f"at least {self._removed} messages"
            text = f"{number} of stream {stream.name} were lost before they were read: {cause}"
        else:
            why = "the stream has other subjects, too" if not look.whole else "the consumer was deleted, too"
            text = (
                f"somebody deleted messages of stream {stream.name}, perhaps unread ones: their number is not known,"
                f" because {why}"
            )
        # A limit and a person leave the same gap in a stream
        reason = "RetentionOrDeletion" if limits else "MessagesDeleted"
        if (reason, text) != self._removal and not count.lost:
            where = {"trigger": f"{self._context.namespace}/{self._context.name}", "stream": stream.name}
            log.warning("messages may be lost", extra={**where, "reason": reason, "problem": text})
        self._removal = (reason, text)
        if count.lost:
            self._context.report_lost(count.lost, reason)
        if self._pull is not None:
            self._report(self._connection.client.is_connected)

    def _known_end(self, last: int) -> int:
        """A last sequence of the stream that the consumer surely knows; 0 if none is known yet.

        The server tells its consumers of a new message a moment after the stream has it.
        """
        now = time.monotonic()
        if not self._ends:
            self._ends = [(now, 0), (now, last)]
        elif now - self._ends[1][0] >= _KNOWN_SECONDS:
            self._ends = [self._ends[1], (now, last)]
        return self._ends[0][1]

    def _stop_counting(self) -> None:
        pull = self._pull
        assert pull is not None
        look = self._look(pull.last_info) if pull.last_info is not None else None
        if self._server != self._connection.server_id:
            look = None
        repeated = pull.repetitions(self._tally.calls, look.calls) if look is not None else 0
        self._kept.tallied(stopped(self._tally, look, repeated, pull.returned))

    # --- messages

    def _delivery(self, message: Any, delivered: Delivered) -> Delivery:
        assert self._pull is not None
        sequence = delivered.sequence
        trigger = self._trigger
        key: bytes | None = None
        if trigger.key is None:
            key = bytes_of_header(message.subject)
        elif trigger.key.header is not None:
            text = (message.headers or {}).get(trigger.key.header)
            key = bytes_of_header(text) if text is not None else None
        elif trigger.key.subject_token is not None:
            tokens = message.subject.split(".")
            if len(tokens) >= trigger.key.subject_token:
                key = bytes_of_header(tokens[trigger.key.subject_token - 1])
        event = event_from_message(
            message.subject, message.data, message.headers, f"{self._ids}/{sequence}", self._source,
            _rfc3339(delivered.timestamp_ns),
        ).with_extensions(natssequence=str(sequence))  # fmt: skip
        return Delivery(
            event,
            partial(self._settle, delivered.place, message.reply),
            f"{self._position}/{sequence}",
            key,
            None,
            extend=partial(self._pull.extend, message.reply),
            handed_out=delivered.handed_out,
            headers=header_pairs(message.headers),
        )

    async def _settle(self, place: MessagePlace, reply: str, outcome: Outcome) -> None:
        assert self._pull is not None
        if outcome.final:
            await self._pull.acknowledge(place, reply)
            return
        if self._context.draining.is_set():
            await self._pull.stop_asking()
        await self._pull.give_back(place, reply, outcome.after_seconds)

    async def _stop_asking_when_it_drains(self) -> None:
        await self._context.draining.wait()
        assert self._pull is not None
        await self._pull.stop_asking()

    # --- the consumer

    async def _tell_left_out(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """Tells of the messages that the consumer has passed, and whose subjects it takes only since an edit."""
        former = filter_of(before["config"])
        if former == filter_of(now["config"]) or self._trigger.start == "new":
            return
        present = messages_by_subject(self._connection, self._stream.name, self._trigger.subject)
        added = {
            subject: count
            async for subject, count in present
            if not any(covers(pattern, subject) for pattern in former)
        }
        to_come = max(0, now["num_pending"] - before["num_pending"])
        if (left_out := sum(added.values()) - to_come) > 0:
            names = ", ".join(sorted(added)[:_MOST_NAMED]) + (", …" if len(added) > _MOST_NAMED else "")
            self._note = (
                "OlderNotRead",
                f"spec.subject was {', '.join(sorted(former))}: about {left_out} older messages of"
                f" stream {self._stream.name} are not read ({names}); a trigger of another name with"
                " these subjects reads them",
            )

    def _beginning(self, kept: Place | Damaged | None) -> Beginning:
        """The beginning of a new consumer: where the trigger stopped if it read this stream before."""
        trigger, stream = self._trigger, self._stream
        if stream.is_work_queue and trigger.start != "all":
            raise SourceError(
                "StartRefused",
                f"spec.start: stream {stream.name} is a work queue, of which each message is delivered: leave out"
                " spec.start",
            )
        if isinstance(kept, Damaged):
            return beginning_of_damaged(stream)
        return beginning(trigger.start, trigger.subject, stream, kept)

    async def _rest_of(self, kept: Place | None) -> dict[str, Any] | None:
        """If another stream has the subject now: the consumer of the former stream until it is read to its end."""
        if kept is None or self._trigger.stream is not None or kept.subject != self._trigger.subject:
            return None
        former = await look_at(self._connection, kept.stream_name)
        if former is None or former.place != kept.stream or former.place == self._stream.place:
            return None
        info = await consumer_info(self._connection, former.name, self._consumer)
        if info is None or unsettled(info) == 0:
            return None
        self._note = ("StreamMoved", f"reads the rest of stream {former.name} before it reads {self._stream.name}")
        self._stream = former
        return info

    async def _continue(self, info: dict[str, Any]) -> dict[str, Any]:
        """Uses an existing consumer, and brings its configuration up to date if it is the trigger's."""
        self._ids = event_ids_of(info) or self._stream.name
        wanted = self._config()
        if keeps_metadata(self._connection):
            owner = self._trigger.owner(self._context)
            chosen, in_order = self._trigger.durable is not None, self._trigger.lanes != "none"
            may = may_write(info, wanted, owner, chosen=chosen, in_order=in_order, taken_over=self._taken_over)
            if may == "use":
                return info
        written = await create_consumer(self._connection, self._stream.name, updated(info["config"], wanted))
        # A server that was killed before answers with an old state and another time of creation (nats-server 2.15)
        return await consumer_info(self._connection, self._stream.name, self._consumer) or written

    async def _create(self, place: Mapping[str, Any], ids: str) -> dict[str, Any]:
        self._ids = ids if keeps_metadata(self._connection) else self._stream.name
        config = self._config()
        if "metadata" in config and ids != self._stream.name:
            config["metadata"] = with_event_ids(config["metadata"], ids)
        stream = self._stream
        return await create_missing(self._connection, stream.name, {**config, **place}, stream.last_sequence)

    def _config(self) -> Config:
        trigger = self._trigger
        config: Config = {
            "name": self._consumer,
            "durable_name": self._consumer,
            "ack_policy": "explicit",
            "ack_wait": int(trigger.ack_wait_seconds * NANOSECONDS),
            "max_deliver": -1,  # attempts are counted by the fabric; the server's count is of crashes
            "max_ack_pending": max(_LEAST_UNACKNOWLEDGED, 4 * self._context.limit),
            "filter_subject": trigger.subject,
            "replay_policy": "instant",
        }
        if keeps_metadata(self._connection):
            config["metadata"] = trigger.owner(self._context).mark()
        return config

    async def _recover(self, problem: str) -> None:
        """Creates a lost consumer again, after the last acknowledged message."""
        assert self._pull is not None
        stream = await look_at(self._connection, self._stream.name)
        if stream is None:
            raise self._gone("StreamMissing", problem)
        if stream.place != self._stream.place:
            raise self._recreated(stream)
        self._stream = stream = stream.with_problem(self._stream.reason, self._stream.problem)
        info = await consumer_info(self._connection, stream.name, self._consumer)
        first: int | None = None
        if info is None:
            first = min(self._first_unacknowledged(), stream.last_sequence + 1)
            self._tell(Beginning({}, self._ids, "ConsumerRecreated", f"from sequence {first}: {problem}"))
            info = await self._create(stream.policy_from(first), self._ids)
        else:
            if not is_marked(info):
                self._pull.forget_acknowledged()  # somebody may have made it to have messages delivered again
            info = await self._continue(info)
            await asyncio.sleep(_READ_SECONDS)  # nothing was missing: do not ask the server again and again
        self._kept.is_at(stream.place, info, self._ids)
        tally = self._tally
        await self._begin_to_count(info, tally)
        if first is not None:
            self._tell_hidden(info, tally, first)
        await self._kept.save(at_once=True)
        self._pull.configure(info["config"])
        self._report(self._connection.client.is_connected)

    async def _restore(self, info: dict[str, Any], problem: str) -> None:
        """Sets the consumer's settings back if it is the trigger's. Otherwise the trigger cannot go on."""
        assert self._pull is not None
        try:
            restored = await self._continue(info)
        except SourceError as error:
            self._failure = error
            return
        where = {"trigger": f"{self._context.namespace}/{self._context.name}", "stream": self._stream.name}
        log.warning("consumer was changed and is set back", extra={**where, "problem": problem})
        self._pull.configure(restored["config"])

    def _first_unacknowledged(self) -> int:
        """The sequence at which a consumer that was deleted continues."""
        assert self._pull is not None
        after_floor = self._kept.floor + 1
        if self._trigger.lanes == "none":
            return after_floor  # other replicas may hold messages that came before those of this one
        here = self._pull.first_unsettled
        return max(after_floor, here if here is not None else self._pull.newest + 1)

    # --- the stream

    async def _look_at_stream(self) -> None:
        """Notices that the stream was replaced, or that it no longer has what the trigger asks for."""
        mine = self._stream
        try:
            now = await find_stream(self._connection, self._trigger.wish(self._context, self._consumer))
        except SourceError as error:
            if error.reason not in ABOUT_STREAMS:
                raise
            if await look_at(self._connection, mine.name) is None:
                self._failure = self._gone("StreamMissing", "it was deleted")
                raise
            self._stream = mine.with_problem(error.reason, str(error))
        else:
            if now.name != mine.name:
                await self._look_at_successor(now)
            elif now.place != mine.place:
                self._failure = self._recreated(now)
                raise self._failure
            else:
                self._stream = now
        self._report(self._connection.client.is_connected)

    async def _look_at_successor(self, now: SourceStream) -> None:
        mine = self._stream
        info = await consumer_info(self._connection, mine.name, self._consumer)
        text = f"spec.subject: {self._trigger.subject!r} is in stream {now.name} now"
        if info is None or unsettled(info) == 0:
            self._failure = SourceError("StreamMoved", f"{text}, and stream {mine.name} is read to its end")
            raise self._failure
        self._note = ("StreamMoved", f"{text}; the rest of stream {mine.name} is read first")

    def _recreated(self, now: SourceStream) -> SourceError:
        return self._gone("StreamRecreated", f"it was deleted and created again at {now.created}")

    def _gone(self, reason: str, problem: str) -> SourceError:
        """The error for a stream that does not exist any more, with the number of messages that nobody has read."""
        pull = self._pull
        assert pull is not None
        unread = unread_after(pull.newest_reply) if pull.newest_reply else self._pending
        self._lost = unread + pull.waiting
        return SourceError(reason, f"stream {self._stream.name!r}: {problem}; at least {self._lost} messages are lost")

    # --- rights

    def _refused(self, problem: str) -> None:
        """Takes a refusal of the server, if it is of this consumer. The client gives its text in lower case."""
        consumer = f"{self._stream.name}.{self._consumer}"
        if f'publish to "$js.api.consumer.msg.next.{consumer}"'.lower() in problem:
            subject, waited = f"$JS.API.CONSUMER.MSG.NEXT.{consumer}", _REPEATED_SECONDS
        elif 'publish to "$js.ack.' in problem and f".{consumer}.".lower() in problem:
            subject, waited = "$JS.ACK.>", _REPEATED_SECONDS + 2 * self._trigger.ack_wait_seconds
        else:
            return
        is_new = subject not in self._refusals
        self._refusals[subject] = time.monotonic() + waited
        if is_new:
            self._report(self._connection.client.is_connected)

    def _forgive(self) -> None:
        """Forgets refusals once the server takes the same again: the fabric repeats a refused request by itself."""
        for subject, until in list(self._refusals.items()):
            if time.monotonic() > until:
                del self._refusals[subject]

    # --- reports

    def _tell_damage(self, damaged: Damaged, info: Mapping[str, Any], *, is_new: bool) -> None:
        """Tells where the trigger goes on. `is_new`: the consumer was gone, too."""
        stream, count = self._stream, info["num_pending"]
        goes_on = (
            f"its consumer is gone, too: all {count} messages that stream {stream.name} has of"
            f" {self._trigger.subject!r} are read, up to sequence {stream.last_sequence}, also those that were read"
            " before"
            if is_new
            else f"it goes on at its consumer {self._consumer}, after sequence {info['ack_floor']['stream_seq']}"
        )
        text = f"{damaged}; {goes_on}. The number of messages that were lost before this start is not known"
        where = {"trigger": f"{self._context.namespace}/{self._context.name}", "stream": stream.name}
        log.warning("place is damaged", extra={**where, "reason": DAMAGED, "problem": text})
        self._damage = (DAMAGED, text)

    def _tell(self, begin: Beginning) -> None:
        if begin.message:
            self._note = (begin.reason, begin.message)
            where = {"trigger": f"{self._context.namespace}/{self._context.name}", "stream": self._stream.name}
            log.warning("consumer is created again", extra={**where, "reason": begin.reason, "place": begin.message})

    def _report(self, connected: bool) -> None:
        stream = self._stream
        if not connected:
            lost = self._connection.lost
            self._context.report(connected=False, reason=lost.reason, message=str(lost))
        elif stream.problem:
            self._context.report(connected=False, reason=stream.reason, message=stream.problem)
        elif self._refusals:
            subjects = " and ".join(sorted(self._refusals))
            message = f"{self._connection.place}: the server lets this identity not publish to {subjects}"
            self._context.report(connected=False, reason="Unauthorized", message=message)
        elif self._pause:
            self._context.report(connected=False, reason="ConsumerPaused", message=self._pause)
        else:
            notes = [note for note in (self._damage, self._removal, self._note) if any(note)]
            reason = notes[0][0] if notes else ""
            self._context.report(connected=True, reason=reason, message="; ".join(text for _, text in notes))


_RUNNING: dict[int, Consumption] = {}  # by the identity of their contexts, which they keep


def running(context: Context) -> Consumption | None:
    """The consumption of this context, while its generator is open."""
    return _RUNNING.get(id(context))


def _rfc3339(timestamp_ns: int) -> str:
    seconds, rest = divmod(timestamp_ns, NANOSECONDS)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest // 1000:06}Z"
