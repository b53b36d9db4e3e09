"""Pure: when a schedule fires next, in any time zone and through its changes of the clock.

The rule for daylight saving, which each schedule follows by the form of its hour field:

- A fixed hour (`30 2 * * *`): a time that does not exist fires once, at the first instant after the gap; a time that
  happens twice fires once, at the first.
- An hour with `*` or a step (`*/15 * * * *`): every matching time on the wall that really comes, both times where it
  comes twice.

The expression is evaluated on times without a zone, and mapped here: the library's own rules differ over versions.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from croniter import CroniterError, croniter

_SECOND = timedelta(seconds=1)


@dataclass(frozen=True)
class Schedule:
    """A checked expression: five fields, six with seconds first, or an alias as @hourly."""

    expression: str
    zone: tzinfo = UTC

    def next_after(self, moment: datetime) -> datetime:
        """The first time after `moment` (aware), in UTC. Raises ValueError when there is none in fifty years."""
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
    """Raises ValueError for a name that is none."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"{name!r} is no time zone; one as Europe/Berlin is") from None


def checked(expression: str, zone: str) -> Schedule:
    """Raises ValueError for an expression or zone that is none, and for one that never fires."""
    found = zone_of(zone)
    fields = expression.split()
    if len(fields) not in (5, 6) and not (len(fields) == 1 and expression.startswith("@")):
        raise ValueError(f"{expression!r} has {len(fields)} fields; five, or six with seconds first, are needed")
    if not croniter.is_valid(expression, second_at_beginning=True):
        raise ValueError(f"{expression!r} is no schedule")
    schedule = Schedule(expression, found)
    schedule.next_after(datetime(2025, 1, 1, tzinfo=UTC))
    return schedule


def _instant_of(local: datetime, zone: tzinfo) -> datetime:
    """In UTC: the first where there are two, the end of the gap where there is none."""
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
