"""Computes the next time of a schedule, in any time zone and across clock changes. Pure.

The rule for daylight saving depends on the fields of the time of day:

- Fixed (`30 2 * * *`): a time that does not exist fires once, at the first instant after the gap; a time that happens
  twice fires once, at the first.
- With a wildcard or a step in the second, the minute or the hour (`*/15 * * * *`, `*/15 2 * * *`): it fires at every
  matching wall-clock time that exists, and twice at a time that happens twice.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from trigger_sources.cron.expression import parse

_SECOND = timedelta(seconds=1)
_NEAR = timedelta(days=2)  # longer than any clock change: Samoa left out a day


@dataclass(frozen=True)
class Schedule:
    """A checked expression: five fields, six with seconds first, or an alias such as @hourly."""

    expression: str
    zone: tzinfo = UTC

    def next_after(self, moment: datetime) -> datetime:
        """The first time after `moment` (aware), in UTC. Raises ValueError if there is none within fifty years."""
        after = moment.astimezone(UTC).replace(microsecond=0)
        try:
            return self._next_interval(after) if parse(self.expression).is_interval else self._next_fixed(after)
        except OverflowError:
            raise ValueError(f"{self.expression!r} never fires before the year 10000") from None

    def _next_fixed(self, after: datetime) -> datetime:
        local = after.astimezone(self.zone).replace(tzinfo=None)
        while True:
            local = self._next_local(local)
            found = _instant_of(local, self.zone)
            if found > after:
                return found

    def _next_interval(self, after: datetime) -> datetime:
        """Searches with the present offset, and searches on from a change of the offset that comes first.

        Only a change that is near to the start or to the time that was found matters. Between them, no time matches
        with any offset.
        """
        start = after + _SECOND
        while True:
            offset = _offset_at(start, self.zone)
            found = self._next_local((start - _SECOND + offset).replace(tzinfo=None)).replace(tzinfo=UTC) - offset
            near = min(found, start + _NEAR)
            if _offset_at(near, self.zone) != offset:
                change = _change_between(start, near, self.zone)
                if found < change:
                    return found
                start = change
            elif near == found:
                return found
            else:
                start = max(near, found - _NEAR)

    def _next_local(self, local: datetime) -> datetime:
        found = parse(self.expression).next_after(local)
        if found is None:
            raise ValueError(f"{self.expression!r} never fires within fifty years of {local:%Y-%m-%d}")
        return found


@dataclass(frozen=True)
class Timetable:
    """The times of a trigger: those of a schedule in a time zone, or one time."""

    schedule: str | None
    time_zone: str
    at: str | None

    def next_after(self, moment: datetime) -> datetime | None:
        """The first time after `moment`, in UTC. None if its only time has passed."""
        if self.schedule is not None:
            return Schedule(self.schedule, zone_of(self.time_zone)).next_after(moment)
        assert self.at is not None
        found = datetime.fromisoformat(self.at).astimezone(UTC)
        return found if found > moment else None

    def __str__(self) -> str:
        return self.at or f"{self.schedule} {self.time_zone}"


def zone_of(name: str) -> ZoneInfo:
    """The time zone with that name. Raises ValueError for an unknown name."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"{name!r} is not a time zone; write one as Europe/Berlin") from None


def checked(expression: str, zone: str) -> Schedule:
    """The schedule. Raises ValueError for an invalid expression or zone, and for an expression that never fires."""
    found = zone_of(zone)
    parse(expression)
    schedule = Schedule(expression, found)
    schedule.next_after(datetime(2025, 1, 1, tzinfo=UTC))
    return schedule


def _instant_of(local: datetime, zone: tzinfo) -> datetime:
    """The instant of a local time, in UTC: the first if there are two, the end of the gap if there is none."""
    first = local.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if first.astimezone(zone).replace(tzinfo=None) == local:
        return first
    second = local.replace(tzinfo=zone, fold=1).astimezone(UTC)
    return _change_between(second, first, zone)


def _offset_at(moment: datetime, zone: tzinfo) -> timedelta:
    found = moment.astimezone(zone).utcoffset()
    assert found is not None
    return found


def _change_between(before: datetime, after: datetime, zone: tzinfo) -> datetime:
    """The first instant with the offset that holds at `after`, to the second."""
    offset = _offset_at(before, zone)
    while after - before > _SECOND:
        middle = before + (after - before) / 2
        middle = middle.replace(microsecond=0)
        if middle <= before:
            break
        if _offset_at(middle, zone) == offset:
            before = middle
        else:
            after = middle
    return after
