"""The CronTrigger resource: ticks as events, each with its own id, which stays the same over restarts."""

import asyncio
import hashlib
import json
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, ClassVar, Literal

import orjson
from pydantic import Field, field_validator, model_validator

from trigger_sources.context import Context
from trigger_sources.cron.book import Book, text_of
from trigger_sources.cron.clock import Clock, WallClock
from trigger_sources.cron.schedule import Timetable, checked, zone_of
from trigger_sources.delivery import Delivery
from trigger_sources.encoding.attributes import check_attributes
from trigger_sources.events import Event, event_from_attributes
from trigger_sources.source import Ordering, TriggerSource

log = logging.getLogger(__name__)

_ANY_EVENT = {"specversion": "1.0", "id": "1", "source": "/", "type": "t"}
_OWN_ATTRIBUTES = frozenset({*_ANY_EVENT, "time", "datacontenttype"})

_LONGEST_SLEEP_SECONDS = 86_400.0
_PAST_DUE_SECONDS = 1.0
_MOST_CAUGHT_UP = 1_000
_MOST_COUNTED = 10_000  # of missed ticks; of more, some are not counted
_TICKS_AT_A_TIME = 1_000  # between two of them, other tasks run
_CLOCK_STEP_SECONDS = 5.0  # a smaller one is a busy machine, or a correction of milliseconds


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
            if name in _OWN_ATTRIBUTES:
                raise ValueError(f"{name!r}: each tick has its own")
        event_from_attributes({**value, **_ANY_EVENT}, None)
        check_attributes({**value, **_ANY_EVENT})
        return value

    @field_validator("payload")
    @classmethod
    def _is_json(cls, value: Any) -> Any:
        _json_of(value)
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
            moment = self._timetable.next_after(moment)
            if moment is not None:
                found.append(moment)
        return found

    async def deliveries(self, context: Context) -> AsyncIterator[Sequence[Delivery]]:
        async for deliveries in self.ticks(context, WallClock()):
            yield deliveries

    async def ticks(self, context: Context, clock: Clock) -> AsyncIterator[Sequence[Delivery]]:
        """`deliveries` with a given clock."""
        book = await Book.read(context, self._timetable, _moment(clock.now()))
        context.report(connected=True, reason="TicksDamaged" if book.damage else "", message=book.damage)
        repeated = list(book.open)
        was_away = True  # ticks came due while no round looked at the clock
        while not context.stopping.is_set():
            again, book.returned = [*repeated, *book.returned], []
            repeated = []
            due = [(tick, True) for tick in again if tick in book.open]
            await self._follow_clock(context, clock, book, was_away)
            due += await self._due(context, clock, book, was_away)
            was_away = False
            room = context.room
            if due:
                due, rest = due[:room], due[room:]
                book.returned += [tick for tick, _ in rest]
                if due:
                    yield [self._delivery(context, book, tick, late) for tick, late in due]
                    continue
            if self.at is not None and not book.open and not book.returned and book.next_tick is None:
                self._log_unless_run(context, book)
                return  # its only time has passed and is settled
            was_away = await self._sleep(context, clock, book)

    def _log_unless_run(self, context: Context, book: Book) -> None:
        assert self.at is not None
        if book.runs.end_around(datetime.fromisoformat(self.at)) is None:
            log.warning("time has passed, its tick does not run", extra={"trigger": context.name, "at": self.at})

    async def _sleep(self, context: Context, clock: Clock, book: Book) -> bool:
        """Waits for the next round. Whether the clock jumped forward meanwhile."""
        before, wait = clock.now(), self._wait(context, book, clock)
        passed = await clock.sleep(wait, context.stopping)
        skipped = clock.now() - before - passed
        if skipped <= _CLOCK_STEP_SECONDS:
            return False
        log.warning("clock jumped forward", extra={"trigger": context.name, "seconds": round(skipped, 1)})
        return True

    async def _follow_clock(self, context: Context, clock: Clock, book: Book, was_away: bool) -> None:
        """Begins anew at the present time if the clock went back: what was considered ahead of it is in doubt.

        A clock that returns to where it was skips the ticks that were decided before it went back.
        """
        now = _moment(clock.now())
        back = (book.considered - now).total_seconds()
        if back > 0:
            was = book.considered
            book.consider(now)
            if back > _CLOCK_STEP_SECONDS:
                await book.write()
                self._report_clock(context, book, was, now)
        elif book.considered < book.furthest <= now:
            if was_away:
                log.info(
                    "clock is back, ticks decided before are left out",
                    extra={"trigger": context.name, "from": text_of(book.considered), "to": text_of(book.furthest)},
                )
                book.consider(book.furthest)
            context.report(connected=True)

    def _report_clock(self, context: Context, book: Book, was: datetime, now: datetime) -> None:
        tick = book.next_tick
        following = "no tick follows" if tick is None else f"the next tick is at {text_of(tick)}"
        message = (
            f"the clock went back by {(was - now).total_seconds():.0f} s or more, to {text_of(now)}:"
            f" ticks up to {text_of(was)} were already decided; {following}; a time that has run does not run again"
        )
        log.warning("clock went back", extra={"trigger": context.name, "problem": message})
        context.report(connected=True, reason="ClockWentBack", message=message)

    async def _due(self, context: Context, clock: Clock, book: Book, was_away: bool) -> list[tuple[datetime, bool]]:
        """New ticks that are due, after the policies. They are stored as started before they are handed out."""
        now = clock.now()
        fallen = await self._fallen_due(context, book, now)
        if not fallen.ticks:
            return []
        book.consider(fallen.ticks[-1][0])
        started: list[tuple[datetime, bool]] = []
        for tick, due_at in self._caught_up(context, fallen, now, was_away):
            late = now - due_at
            if self.starting_deadline_seconds is not None and late > self.starting_deadline_seconds:
                context.report_lost(1, "StartingDeadline")
                continue
            if (book.open or started) and self.concurrency_policy == "Forbid":
                log.info("tick left out", extra={"trigger": context.name, "tick": text_of(tick), "policy": "Forbid"})
                continue
            if (book.open or started) and self.concurrency_policy == "Replace":
                gone = {text_of(open_) for open_ in book.open}
                await context.withdraw(lambda delivery, gone=gone: delivery.position in gone, 0)  # type: ignore[misc]
                book.open.clear()
                started.clear()
            started.append((tick, late > _PAST_DUE_SECONDS))
        book.start(tick for tick, _ in started)
        await book.write()
        return started

    async def _fallen_due(self, context: Context, book: Book, now: float) -> "_FallenDue":
        """The ticks that have come due: the last ones, and the number of all. A tick never overtakes an earlier one."""
        found = _FallenDue()
        tick, due_at = book.next_tick, 0.0
        while tick is not None and (due_at := max(due_at, self._fires_at(context, tick))) <= now:
            found.ticks.append((tick, due_at))
            found.count += 1
            if found.count % _TICKS_AT_A_TIME == 0:
                await asyncio.sleep(0)
            if found.count == _MOST_COUNTED:
                return self._last_due(context, book, now, found)
            tick = book.next_after(tick)
        return found

    def _last_due(self, context: Context, book: Book, now: float, found: "_FallenDue") -> "_FallenDue":
        """The clock jumped by years: looks for the last ticks from the end."""
        counted_to, _ = found.ticks[-1]
        seconds = 60.0
        while True:
            seconds *= 8
            start = _moment(max(now - self.jitter_seconds - seconds, counted_to.timestamp()))
            tail: deque[tuple[datetime, float]] = deque(maxlen=_MOST_CAUGHT_UP)
            tick, due_at = book.next_after(start), 0.0
            while tick is not None and (due_at := max(due_at, self._fires_at(context, tick))) <= now:
                tail.append((tick, due_at))
                tick = book.next_after(tick)
            if len(tail) == _MOST_CAUGHT_UP or start == counted_to:
                ticks = deque([*found.ticks, *tail], maxlen=_MOST_CAUGHT_UP)
                return _FallenDue(ticks, found.count + len(tail))

    def _caught_up(
        self, context: Context, fallen: "_FallenDue", now: float, was_away: bool
    ) -> Sequence[tuple[datetime, float]]:
        """The ticks that run: all that are on time, and of those that were missed the ones that `catchUp` names."""
        on_time = [tick for tick in fallen.ticks if now - tick[1] <= _PAST_DUE_SECONDS]
        if fallen.count == 1 and not (was_away and self.catch_up == "none"):
            return fallen.ticks
        if self.catch_up == "all":
            if fallen.count > len(fallen.ticks):
                context.report_lost(fallen.count - len(fallen.ticks), "CatchUpBound")
            return fallen.ticks
        taken = on_time if on_time or self.catch_up == "none" else [fallen.ticks[-1]]
        if fallen.count > len(taken):
            log.warning(
                "missed ticks left out",
                extra={
                    "trigger": context.name,
                    "count": fallen.count - len(taken),
                    "last": text_of(fallen.ticks[-1][0]),
                    "catchUp": self.catch_up,
                },
            )
        return taken

    def event_now(self, context: Context) -> Event:
        """A tick that a person fires. It runs beside those of the schedule, which come as if it had not been."""
        return self._event(context, _moment(time.time()), {"manual": "true"})

    def _delivery(self, context: Context, book: Book, tick: datetime, late: bool) -> Delivery:
        event = self._event(context, tick, {"pastdue": "true"} if late else {})
        key = b"queue" if self.concurrency_policy == "Queue" else None
        return Delivery(event, partial(book.settle, tick), text_of(tick), key)

    def _event(self, context: Context, tick: datetime, marks: Mapping[str, str]) -> Event:
        text = text_of(tick)
        return Event(
            id=f"{context.uid}/{text}",
            source=f"/cron/{context.namespace}/{context.name}",
            type="dev.kubeirq.cron.tick",
            data=None if self.payload is None else _json_of(self.payload),
            datacontenttype=None if self.payload is None else "application/json",
            time=text,
            extensions={"scheduledtime": text, **marks, **self.attributes},
        )

    @property
    def _timetable(self) -> Timetable:
        return Timetable(self.schedule, self.time_zone, self.at)

    def _fires_at(self, context: Context, tick: datetime) -> float:
        """Seconds since the epoch, with the tick's own jitter: the same after every restart."""
        if not self.jitter_seconds:
            return tick.timestamp()
        digest = hashlib.sha256(f"{context.uid}/{text_of(tick)}".encode()).digest()
        return tick.timestamp() + int.from_bytes(digest[:8], "big") / 2**64 * self.jitter_seconds

    def _wait(self, context: Context, book: Book, clock: Clock) -> float:
        tick = book.next_tick
        if tick is None:
            return _LONGEST_SLEEP_SECONDS
        # Timers may fire early: a short further round then waits for the rest of the time
        left = self._fires_at(context, tick) - clock.now()
        return min(_LONGEST_SLEEP_SECONDS, max(left, 0.001))


@dataclass
class _FallenDue:
    """The last ticks that came due, each with the time since which it is due, and the number of all that did."""

    ticks: deque[tuple[datetime, float]] = field(default_factory=lambda: deque(maxlen=_MOST_CAUGHT_UP))
    count: int = 0


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _json_of(value: Any) -> bytes:
    """JSON, also of integers over 64 bits and of names that are numbers, which YAML has. Raises ValueError."""
    try:
        return orjson.dumps(value)
    except TypeError:
        try:
            return json.dumps(value, separators=(",", ":")).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"it cannot be sent as JSON: {error}") from None
