"""The durable state of a trigger's ticks."""

import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from trigger_sources.context import Context
from trigger_sources.cron.runs import MOST_STRETCHES, Runs, Stretch
from trigger_sources.cron.schedule import Timetable
from trigger_sources.delivery import Outcome
from trigger_sources.kept_state import Damaged, read_json

log = logging.getLogger(__name__)

_STATE = "ticks"
_VERSION = 1
_RUN_BEFORE_IT_WAS_NOTED = timedelta(days=1)  # a book of version 0.1.0 has no stretches


class Book:
    """The record of a trigger's ticks.

    - `considered`: each tick up to this time was decided. After the clock went back, it is the time to which it went.
    - `furthest`: the latest time that `considered` ever was, for this timetable.
    - `runs`: the times that have run, which never run again.
    - `open`: the ticks that are started and not settled.
    """

    def __init__(self, context: Context, timetable: Timetable, considered: datetime) -> None:
        self._context = context
        self.timetable = timetable
        self.considered = considered
        self.furthest = considered
        self.runs = Runs((), timetable.next_after)
        self.open: dict[datetime, None] = {}
        self.is_edited = False  # it was that of another timetable
        self.damage = ""  # the message for a stored state that could not be read
        self.returned: list[datetime] = []
        self._other_runs: list[tuple[str, Stretch]] = []  # of earlier timetables, which may come back
        self._next: tuple[datetime, datetime | None] | None = None  # the time considered, and the tick after it

    @classmethod
    async def read(cls, context: Context, timetable: Timetable, now: datetime) -> "Book":
        """The stored state. A trigger that never ran, and one whose timetable was edited, begins now."""

        def parse(found: Mapping[str, Any]) -> Book:
            return cls._from(found, context, timetable, now)

        known = await read_json(context.state, _STATE, _VERSION, parse)
        book = known if isinstance(known, Book) else cls(context, timetable, now)
        if isinstance(known, Damaged):
            book.damage = (
                f"{known}: ticks begin at {text_of(now)}; those that came due before, and those that had not"
                " settled, do not run, and their number is not known"
            )
            log.warning("ticks begin anew", extra={"trigger": context.name, "problem": book.damage})
        if not isinstance(known, Book) or known.is_edited:
            await book.write()
        return book

    @classmethod
    def _from(cls, found: Mapping[str, Any], context: Context, timetable: Timetable, now: datetime) -> "Book":
        book = cls(context, timetable, now)
        book.open = dict.fromkeys(map(time_of, found["open"]))
        considered = time_of(found["considered"])
        if "ran" not in found:  # of version 0.1.0, which does not say of which timetable it is
            stretches = [(considered - _RUN_BEFORE_IT_WAS_NOTED, considered)]
            if considered > now:  # the clock was ahead, and few of the times between have run
                stretches = [(considered, considered), *((tick, tick) for tick in book.open if tick != considered)]
            book.runs = Runs(stretches, timetable.next_after)
        else:
            ran = [(name, (time_of(first), time_of(last))) for name, first, last in found["ran"]]
            book.runs = Runs((stretch for name, stretch in ran if name == str(timetable)), timetable.next_after)
            book._other_runs = [(name, stretch) for name, stretch in ran if name != str(timetable)]
            before = Timetable(found.get("schedule"), found.get("timeZone", "UTC"), found.get("at"))
            if str(before) != str(timetable):
                log.info(
                    "timetable edited, ticks begin now",
                    extra={"trigger": context.name, "before": str(before), "now": str(timetable)},
                )
                book.is_edited = True
                return book
        book.considered = considered
        book.furthest = max(considered, time_of(found["furthest"])) if "furthest" in found else considered
        return book

    @property
    def next_tick(self) -> datetime | None:
        """The first tick after `considered` that has not run. It is needed in every round, and computed once."""
        if self._next is None or self._next[0] != self.considered:
            self._next = (self.considered, self.next_after(self.considered))
        return self._next[1]

    def next_after(self, moment: datetime) -> datetime | None:
        """The first tick after `moment` that has not run."""
        tick = self.timetable.next_after(moment)
        while tick is not None and (end := self.runs.end_around(tick)) is not None:
            tick = self.timetable.next_after(end)
        return tick

    def consider(self, moment: datetime) -> None:
        """Each tick up to `moment` is decided; `moment` may be earlier than before, if the clock went back."""
        self.considered = moment
        self.furthest = max(self.furthest, moment)

    def start(self, ticks: Iterable[datetime]) -> None:
        """These ticks run."""
        for tick in ticks:
            self.open[tick] = None
            self.runs.add(tick)
        self._next = None

    async def write(self) -> None:
        timetable = self.timetable
        runs = [*self._other_runs, *((str(timetable), stretch) for stretch in self.runs.stretches)]
        value = {
            "considered": text_of(self.considered),
            "furthest": text_of(self.furthest),
            "open": [text_of(tick) for tick in self.open],
            **({"at": timetable.at} if timetable.schedule is None else {"schedule": timetable.schedule}),
            "timeZone": timetable.time_zone,
            "ran": [[name, text_of(first), text_of(last)] for name, (first, last) in runs[-MOST_STRETCHES:]],
        }
        await self._context.state.put(_STATE, orjson.dumps(value))

    async def settle(self, tick: datetime, outcome: Outcome) -> None:
        if not outcome.final:
            self.returned.append(tick)
        elif tick in self.open:
            del self.open[tick]
            await self.write()


def text_of(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def time_of(text: str) -> datetime:
    """Raises ValueError for a text that names no moment."""
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return found
