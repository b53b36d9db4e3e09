"""Computes the next time of a schedule, in any time zone and across clock changes. Pure.

The rule for daylight saving depends on the schedule's hour field:

- A fixed hour (`30 2 * * *`): a time that does not exist fires once, at the first instant after the gap; a time that
  happens twice fires once, at the first.
- An hour with `*` or a step (`*/15 * * * *`): it fires at every matching wall-clock time that exists, and twice at a
  time that happens twice.

The library evaluates the expression on times without a zone, and this file maps them: the library's own rules for
clock changes differ between versions.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from croniter import CroniterError, croniter

_SECOND = timedelta(seconds=1)


@dataclass(frozen=True)
class Schedule:
    """A checked expression: five fields, six with seconds first, or an alias such as @hourly."""

    expression: str
    zone: tzinfo = UTC

    def next_after(self, moment: datetime) -> datetime:
        """The first time after `moment` (aware), in UTC. Raises ValueError if there is none within fifty years."""
        after = moment.astimezone(UTC)
        return self._next_interval(after) if self._by_interval else self._next_fixed(after)

    @property
    def _by_interval(self) -> bool:
        fields = self.expression.split()
        if len(fields) < 5:
            return self.expression == "@hourly"
        hour = fields[len(fields) - 4]
        return "*" in hour or "/" in hour

    def _next_fixed(self, after: datetime) -> datetime:
        local = after.astimezone(self.zone).replace(tzinfo=None)
        while True:
            local = self._next_local(local)
            found = _instant_of(local, self.zone)
            if found > after:
                return found

    def _next_interval(self, after: datetime) -> datetime:
        offset = _offset_at(after, self.zone)
        found = self._next_with(after, offset)
        if _offset_at(found, self.zone) == offset:
            return found
        change = _change_between(after, found, self.zone)
        return self._next_with(change - _SECOND, _offset_at(change, self.zone))

    def _next_with(self, after: datetime, offset: timedelta) -> datetime:
        local = (after + offset).replace(tzinfo=None)
        return self._next_local(local).replace(tzinfo=UTC) - offset

    def _next_local(self, local: datetime) -> datetime:
        try:
            found: datetime = croniter(self.expression, local, second_at_beginning=True).get_next(datetime)
        except CroniterError as error:
            raise ValueError(f"{self.expression!r} never fires: {error}") from error
        return found


def zone_of(name: str) -> ZoneInfo:
    """The time zone with that name. Raises ValueError for an unknown name."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"{name!r} is not a time zone; write one as Europe/Berlin") from None


def checked(expression: str, zone: str) -> Schedule:
    """The schedule. Raises ValueError for an invalid expression or zone, and for an expression that never fires."""
    found = zone_of(zone)
    fields = expression.split()
    if len(fields) not in (5, 6) and not (len(fields) == 1 and expression.startswith("@")):
        raise ValueError(f"{expression!r} has {len(fields)} fields; five, or six with seconds first, are needed")
    if not croniter.is_valid(expression, second_at_beginning=True):
        raise ValueError(f"{expression!r} is not a valid schedule")
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
