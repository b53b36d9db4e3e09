"""Reads a cron expression as Kubernetes does, and finds the wall-clock times that it matches. Pure.

Each field becomes a set of values. A day has to match both day fields if one of them contains a plain `*` or `?`, and
otherwise one of the two. docs/cron.md lists each difference from Kubernetes, and tests compare that list.
"""

import re
from bisect import bisect_left
from calendar import monthrange
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import MAXYEAR, date, datetime, time, timedelta
from functools import lru_cache

_LONGEST_SEARCH_YEARS = 50
_ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
_WEEKDAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
_TERM = re.compile(r"(?:([*?])|([0-9A-Z]{1,9})(?:-([0-9A-Z]{1,9}))?)(?:/([0-9]{1,9}))?")
_NEAREST_WORKDAY = re.compile(r"([0-9]{1,2})W")
_NTH_WEEKDAY = re.compile(r"([0-9A-Z]{1,9})#([1-5])")
_LAST_WEEKDAY = re.compile(r"L([0-9A-Z]{1,9})|([0-9A-Z]{1,9})L")


@dataclass(frozen=True)
class _Field:
    name: str
    lowest: int
    highest: int
    names: Mapping[str, int]

    def value(self, text: str) -> int:
        if text in self.names:
            return self.names[text]
        if not text.isdigit():
            raise ValueError(f"{self.name}: {text!r} is not a value; values are {self.lowest} to {self.highest}")
        found = int(text)
        if self is _WEEKDAY and found == 7:
            return 7  # Sunday, too
        if not self.lowest <= found <= self.highest:
            raise ValueError(f"{self.name}: {found} is not from {self.lowest} to {self.highest}")
        return found

    def values(self, term: str) -> tuple[frozenset[int], bool]:
        """The values of one term of the field's list, and whether the term is a plain wildcard."""
        match = _TERM.fullmatch(term)
        if match is None:
            raise ValueError(f"{self.name}: {term!r} is not a value, a range, or a wildcard, with or without a step")
        wildcard, low, high, every = match.groups()
        step = 1 if every is None else int(every)
        if step == 0:
            raise ValueError(f"{self.name}: {term!r} has a step of 0; steps are 1 or more")
        if wildcard:
            return frozenset(range(self.lowest, self.highest + 1, step)), step == 1
        first = self.value(low)
        if high is not None:
            last = self.value(high)
        elif every is None:
            last = first
        elif first > self.highest:
            raise ValueError(f"{self.name}: {term!r} steps from {first}; write 0 for Sunday")
        else:
            last = self.highest
        return self._range(first, last, step), False

    def _range(self, first: int, last: int, step: int) -> frozenset[int]:
        if first == last:
            found: Sequence[int] = (first,)
        elif first % (self.highest + 1) <= last:
            found = range(first % (self.highest + 1), last + 1, step)
        else:  # over the end, as FRI-MON
            found = [*range(first, self.highest + 1), *range(self.lowest, last + 1)][::step]
        return frozenset(found) if self is not _WEEKDAY else frozenset(value % 7 for value in found)


_SECOND = _Field("second", 0, 59, {})
_MINUTE = _Field("minute", 0, 59, {})
_HOUR = _Field("hour", 0, 23, {})
_DAY = _Field("day of month", 1, 31, {})
_MONTH = _Field("month", 1, 12, {name: number for number, name in enumerate(_MONTHS, start=1)})
_WEEKDAY = _Field("day of week", 0, 6, {name: number for number, name in enumerate(_WEEKDAYS)})


@dataclass(frozen=True)
class _Days:
    """The days that the day of month, or the day of week, matches."""

    is_wildcard: bool
    days: frozenset[int] = frozenset()
    last_day: bool = False
    nearest_workdays: frozenset[int] = frozenset()
    weekdays: frozenset[int] = frozenset()  # 0 is Sunday
    nth_weekdays: frozenset[tuple[int, int]] = frozenset()  # with the week of the month from 1
    last_weekdays: frozenset[int] = frozenset()

    def match(self, day: date) -> bool:
        weekday = day.isoweekday() % 7
        if day.day in self.days or weekday in self.weekdays or (weekday, (day.day + 6) // 7) in self.nth_weekdays:
            return True
        if not (self.last_day or self.last_weekdays or self.nearest_workdays):
            return False
        length = monthrange(day.year, day.month)[1]
        return (
            (self.last_day and day.day == length)
            or (weekday in self.last_weekdays and day.day + 7 > length)
            or any(day.day == _nearest_workday(day, wanted, length) for wanted in self.nearest_workdays)
        )


@dataclass(frozen=True)
class Expression:
    """The values of each field, in order."""

    seconds: Sequence[int]
    minutes: Sequence[int]
    hours: Sequence[int]
    months: frozenset[int]
    days_of_month: _Days
    days_of_week: _Days
    is_interval: bool  # a wildcard or a step in the second, the minute or the hour

    def next_after(self, local: datetime) -> datetime | None:
        """The first matching time after `local`, both without a zone. None if there is none within fifty years."""
        start = local.replace(microsecond=0) + timedelta(seconds=1)
        if self._matches(start.date()) and (found := self._time_from(start)) is not None:
            return datetime.combine(start.date(), found)
        day = self._next_day(start.date())
        return None if day is None else datetime.combine(day, time(self.hours[0], self.minutes[0], self.seconds[0]))

    def _time_from(self, start: datetime) -> time | None:
        """The first matching time of that day, at `start` or later."""
        if start.hour in self.hours:
            if start.minute in self.minutes and (second := _first_from(self.seconds, start.second)) is not None:
                return time(start.hour, start.minute, second)
            if (minute := _first_from(self.minutes, start.minute + 1)) is not None:
                return time(start.hour, minute, self.seconds[0])
        hour = _first_from(self.hours, start.hour + 1)
        return None if hour is None else time(hour, self.minutes[0], self.seconds[0])

    def _next_day(self, day: date) -> date | None:
        last = date(min(day.year + _LONGEST_SEARCH_YEARS, MAXYEAR), 12, 31)
        while day < last:
            day += timedelta(days=1)
            if day.month not in self.months:
                day = day.replace(day=monthrange(day.year, day.month)[1])
            elif self._matches(day):
                return day
        return None

    def _matches(self, day: date) -> bool:
        if day.month not in self.months:
            return False
        of_month, of_week = self.days_of_month.match(day), self.days_of_week.match(day)
        if self.days_of_month.is_wildcard or self.days_of_week.is_wildcard:
            return of_month and of_week
        return of_month or of_week


@lru_cache(maxsize=1_024)
def parse(text: str) -> Expression:
    """The expression. Raises ValueError, which names the field and the reason, for an invalid one."""
    if not text.isascii():
        raise ValueError(f"{text!r} is not a valid schedule: it may contain ASCII characters only")
    fields = text.upper().split()
    if fields and fields[0].startswith(("TZ=", "CRON_TZ=")):
        rest = text.split(None, 1)[1] if len(fields) > 1 else "0 5 * * *"
        zone = text.split()[0].partition("=")[2]
        raise ValueError(f"{text!r}: the zone has a field of its own; write schedule: {rest!r}, timeZone: {zone}")
    if fields and fields[0] == "@EVERY":
        raise ValueError(f"{text!r}: intervals are written as fields, such as '*/5 * * * *' or '*/10 * * * * *'")
    if len(fields) == 1 and fields[0].startswith("@"):
        if fields[0].lower() not in _ALIASES:
            raise ValueError(f"{text!r} is not a valid schedule: the aliases are {', '.join(_ALIASES)}")
        fields = _ALIASES[fields[0].lower()].split()
    if len(fields) not in (5, 6):
        raise ValueError(f"{text!r} has {len(fields)} fields; five, or six with seconds first, are needed")
    second, minute, hour, day, month, weekday = ("0", *fields) if len(fields) == 5 else fields
    try:
        return Expression(
            seconds=sorted(_values(_SECOND, second)),
            minutes=sorted(_values(_MINUTE, minute)),
            hours=sorted(_values(_HOUR, hour)),
            months=_values(_MONTH, month),
            days_of_month=_days_of_month(day),
            days_of_week=_days_of_week(weekday),
            is_interval=any(mark in field for field in (second, minute, hour) for mark in "*?/"),
        )
    except ValueError as error:
        raise ValueError(f"{text!r} is not a valid schedule: {error}") from None


def _values(field: _Field, text: str) -> frozenset[int]:
    return frozenset(value for term in text.split(",") for value in field.values(term)[0])


def _days_of_month(text: str) -> _Days:
    days: set[int] = set()
    nearest: set[int] = set()
    last_day = is_wildcard = False
    for term in text.split(","):
        if term == "L":
            last_day = True
        elif match := _NEAREST_WORKDAY.fullmatch(term):
            nearest.add(_DAY.value(match[1]))
        else:
            found, plain = _DAY.values(term)
            days |= found
            is_wildcard |= plain
    return _Days(is_wildcard, days=frozenset(days), last_day=last_day, nearest_workdays=frozenset(nearest))


def _days_of_week(text: str) -> _Days:
    weekdays: set[int] = set()
    nth: set[tuple[int, int]] = set()
    last: set[int] = set()
    is_wildcard = False
    for term in text.split(","):
        if match := _NTH_WEEKDAY.fullmatch(term):
            nth.add((_WEEKDAY.value(match[1]) % 7, int(match[2])))
        elif match := _LAST_WEEKDAY.fullmatch(term):
            last.add(_WEEKDAY.value(match[1] or match[2]) % 7)
        else:
            found, plain = _WEEKDAY.values(term)
            weekdays |= found
            is_wildcard |= plain
    return _Days(is_wildcard, weekdays=frozenset(weekdays), nth_weekdays=frozenset(nth), last_weekdays=frozenset(last))


def _nearest_workday(day: date, wanted: int, length: int) -> int | None:
    """The working day of that month nearest to its day `wanted`. None if the month has no such day."""
    if wanted > length:
        return None
    weekday = day.replace(day=wanted).isoweekday()
    if weekday == 6:
        return wanted - 1 if wanted > 1 else wanted + 2
    if weekday == 7:
        return wanted + 1 if wanted < length else wanted - 2
    return wanted


def _first_from(values: Sequence[int], lowest: int) -> int | None:
    place = bisect_left(values, lowest)
    return values[place] if place < len(values) else None
