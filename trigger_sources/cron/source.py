"""The CronTrigger resource: ticks as events, each with its own id, which stays the same over restarts."""

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, ClassVar, Literal, Protocol

import orjson
from pydantic import Field, field_validator, model_validator

from trigger_sources.context import Context
from trigger_sources.cron.schedule import Schedule, checked, zone_of
from trigger_sources.delivery import Delivery, Outcome
from trigger_sources.events import Event
from trigger_sources.source import Ordering, TriggerSource

log = logging.getLogger(__name__)

_STATE = "ticks"
_LONGEST_SLEEP_SECONDS = 0.5  # to notice a stop, and a clock that jumps
_PAST_DUE_SECONDS = 1.0
_MOST_CAUGHT_UP = 1_000


class Clock(Protocol):
    """Wall-clock seconds since the epoch, and waiting."""

    def now(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...


class WallClock:
    """The clock of the machine."""

    def now(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class CronTrigger(TriggerSource):
    """Calls a function at times: by a cron expression in a time zone, or once."""

    default_ordering: ClassVar[Ordering] = "key"
    printer_columns: ClassVar[Mapping[str, str]] = {"Schedule": "schedule"}

    schedule: str | None = Field(
        None, description="A cron expression: five fields, six with seconds first, or an alias such as @hourly"
    )
    at: str | None = Field(None, description="One RFC 3339 time, in place of schedule")
    time_zone: str = Field("UTC", description="The time zone of the schedule, as an IANA name such as Europe/Berlin")
    jitter_seconds: float = Field(
        0, ge=0, le=3_600, description="Each tick comes later by up to this; after a restart by the same amount"
    )
    concurrency_policy: Literal["Allow", "Forbid", "Replace", "Queue"] = Field(
        "Allow",
        description="While an earlier tick is not settled, a new one runs beside it (Allow), is left out (Forbid),"
        " takes its place (Replace) or waits for it (Queue)",
    )
    starting_deadline_seconds: float | None = Field(
        None, gt=0, description="A tick that is later than this is left out and counted; unset: no limit"
    )
    catch_up: Literal["none", "latest", "all"] = Field(
        "latest", description="Which of the ticks that came due during downtime run; of all, the last 1 000 at most"
    )
    payload: Any = Field(None, description="The event's data, sent as JSON; unset: none")
    attributes: dict[str, str] = Field(
        default_factory=dict,
        description="Further attributes of the event; their names are lower-case letters and digits",
    )

    @field_validator("attributes")
    @classmethod
    def _attribute_names(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not (name.isascii() and name.isalnum() and name == name.lower()):
                raise ValueError(f"{name!r}: attribute names are lower-case letters and digits")
        return value

    @field_validator("time_zone")
    @classmethod
    def _is_a_zone(cls, value: str) -> str:
        zone_of(value)
        return value

    @model_validator(mode="after")
    def _has_times(self) -> "CronTrigger":
        if (self.schedule is None) == (self.at is None):
            raise ValueError("schedule, at: exactly one of them is needed")
        if self.schedule is not None:
            try:
                checked(self.schedule, self.time_zone)
            except ValueError as error:
                raise ValueError(f"schedule: {error}") from None
        if self.at is not None:
            try:
                found = datetime.fromisoformat(self.at)
            except ValueError:
                raise ValueError(f"at: {self.at!r} is not an RFC 3339 time") from None
            if found.tzinfo is None:
                raise ValueError(f"at: {self.at!r} has no time zone; end it with Z or an offset")
            try:
                found.astimezone(UTC)
            except OverflowError:
                raise ValueError(f"at: {self.at!r} is outside of the years 1 to 9999 in UTC") from None
        return self

    def next_runs(self, count: int, after: datetime) -> list[datetime]:
        """The next times after that moment, in UTC: `count` of them, or all if there are fewer."""
        found: list[datetime] = []
        moment: datetime | None = after
        while moment is not None and len(found) < count:
            moment = self._next_after(moment)
            if moment is not None:
                found.append(moment)
        return found

    async def deliveries(self, context: Context) -> AsyncIterator[Sequence[Delivery]]:
        async for deliveries in self.ticks(context, WallClock()):
            yield deliveries

    async def ticks(self, context: Context, clock: Clock) -> AsyncIterator[Sequence[Delivery]]:
        """`deliveries` with a given clock."""
        book = await _Book.read(context, clock)
        context.report(connected=True)
        repeated = list(book.open)
        while not context.stopping.is_set():
            again, book.returned = [*repeated, *book.returned], []
            repeated = []
            due = [(tick, True) for tick in again if tick in book.open]
            due += await self._due(context, clock, book)
            room = context.room
            if due:
                due, rest = due[:room], due[room:]
                book.returned += [tick for tick, _ in rest]
                if due:
                    yield [self._delivery(context, book, tick, late) for tick, late in due]
                    continue
            if self.at is not None and not book.open and not book.returned and self._next_of(book) is None:
                return  # its only time has passed and is settled
            await clock.sleep(self._wait(context, book, clock))

    async def _due(self, context: Context, clock: Clock, book: "_Book") -> list[tuple[datetime, bool]]:
        """New ticks that are due, after the policies. They are stored as started before they are handed out."""
        now = clock.now()
        found: list[datetime] = []
        moment, tick = book.considered, self._next_of(book)
        while tick is not None and self._fires_at(context, tick) <= now:
            found.append(tick)
            moment = tick
            if len(found) > 100_000:
                break  # the clock jumped by years: the rest comes in the next round
            tick = self._next_after(moment)
        if not found:
            return []
        book.considered = moment
        missed = len(found) > 1
        if missed and self.catch_up == "none":
            found = [tick for tick in found if now - self._fires_at(context, tick) <= _PAST_DUE_SECONDS]
        elif missed and self.catch_up == "latest":
            found = found[-1:]
        elif len(found) > _MOST_CAUGHT_UP:
            context.report_lost(len(found) - _MOST_CAUGHT_UP, "CatchUpBound")
            found = found[-_MOST_CAUGHT_UP:]
        started: list[tuple[datetime, bool]] = []
        for tick in found:
            late = now - self._fires_at(context, tick)
            if self.starting_deadline_seconds is not None and late > self.starting_deadline_seconds:
                context.report_lost(1, "StartingDeadline")
                continue
            if book.open and self.concurrency_policy == "Forbid":
                log.info("tick left out", extra={"trigger": context.name, "tick": _text(tick), "policy": "Forbid"})
                continue
            if book.open and self.concurrency_policy == "Replace":
                gone = {_text(open_) for open_ in book.open}
                await context.withdraw(lambda delivery, gone=gone: delivery.position in gone, 0)  # type: ignore[misc]
                book.open.clear()
                started.clear()
            book.open[tick] = None
            started.append((tick, late > _PAST_DUE_SECONDS))
        await book.write()
        return started

    def _delivery(self, context: Context, book: "_Book", tick: datetime, late: bool) -> Delivery:
        text = _text(tick)
        extensions: Mapping[str, str] = {
            "scheduledtime": text,
            **({"pastdue": "true"} if late else {}),
            **self.attributes,
        }
        event = Event(
            id=f"{context.uid}/{text}",
            source=f"/cron/{context.namespace}/{context.name}",
            type="dev.kubeirq.cron.tick",
            data=None if self.payload is None else orjson.dumps(self.payload),
            datacontenttype=None if self.payload is None else "application/json",
            time=text,
            extensions=extensions,
        )
        key = b"queue" if self.concurrency_policy == "Queue" else None
        return Delivery(event, partial(book.settle, tick), text, key)

    def _next_of(self, book: "_Book") -> datetime | None:
        """The first tick that was not considered. It is needed in every round, and computed once."""
        if book.next is None or book.next[0] != book.considered:
            book.next = (book.considered, self._next_after(book.considered))
        return book.next[1]

    def _next_after(self, moment: datetime) -> datetime | None:
        if self.at is not None:
            found = datetime.fromisoformat(self.at).astimezone(UTC)
            return found if found > moment else None
        return self._schedule.next_after(moment)

    @property
    def _schedule(self) -> Schedule:
        assert self.schedule is not None
        from zoneinfo import ZoneInfo

        return Schedule(self.schedule, ZoneInfo(self.time_zone))

    def _fires_at(self, context: Context, tick: datetime) -> float:
        """Seconds since the epoch, with the tick's own jitter: the same after every restart."""
        if not self.jitter_seconds:
            return tick.timestamp()
        digest = hashlib.sha256(f"{context.uid}/{_text(tick)}".encode()).digest()
        return tick.timestamp() + int.from_bytes(digest[:8], "big") / 2**64 * self.jitter_seconds

    def _wait(self, context: Context, book: "_Book", clock: Clock) -> float:
        tick = self._next_of(book)
        if tick is None:
            return _LONGEST_SLEEP_SECONDS
        # Timers may fire early: a short further round then waits for the rest of the time
        left = self._fires_at(context, tick) - clock.now()
        return min(_LONGEST_SLEEP_SECONDS, max(left, 0.001))


class _Book:
    """The durable state of a trigger's ticks: the last one considered, and those that are started and not settled."""

    def __init__(self, context: Context, considered: datetime, open_: Sequence[datetime]) -> None:
        self._context = context
        self.considered = considered
        self.open: dict[datetime, None] = dict.fromkeys(open_)
        self.returned: list[datetime] = []
        self.next: tuple[datetime, datetime | None] | None = None  # a tick, and the one that follows it

    @classmethod
    async def read(cls, context: Context, clock: Clock) -> "_Book":
        """The stored state; a trigger that never ran begins now."""
        now = datetime.fromtimestamp(clock.now(), UTC)
        text = await context.state.get(_STATE)
        if text is None:
            book = cls(context, now, ())
            await book.write()
            return book
        found = orjson.loads(text)
        considered = min(_time(found["considered"]), now + timedelta(days=1))
        return cls(context, considered, [_time(tick) for tick in found["open"]])

    async def write(self) -> None:
        value = {"considered": _text(self.considered), "open": [_text(tick) for tick in self.open]}
        await self._context.state.put(_STATE, orjson.dumps(value))

    async def settle(self, tick: datetime, outcome: Outcome) -> None:
        if not outcome.final:
            self.returned.append(tick)
        elif tick in self.open:
            del self.open[tick]
            await self.write()


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
