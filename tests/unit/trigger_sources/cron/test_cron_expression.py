"""Each kind of expression is refused, or read as Kubernetes and cronsim read it; docs/cron.md lists the differences."""

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st
from servers.cron_differences import ClockChange, Difference, clock_changes, differences, same_as

from trigger_sources.cron.schedule import Schedule, checked

START = datetime(2026, 1, 1, tzinfo=UTC)


def times(expression: str, count: int = 40, zone: str = "UTC", after: datetime = START) -> list[datetime]:
    schedule, found = checked(expression, zone), []
    for _ in range(count):
        after = schedule.next_after(after)
        found.append(after)
    return found


def is_refused(expression: str) -> bool:
    try:
        checked(expression, "UTC")
    except ValueError:
        return True
    return False


@pytest.mark.parametrize(
    ("expression", "same"),
    [
        ("0 5-5 * * *", "0 5 * * *"),
        ("0 0 1-1 * *", "0 0 1 * *"),
        ("0 0 * 6-6 *", "0 0 * 6 *"),
        ("0 0 * * MON-MON", "0 0 * * 1"),
        ("30-30 2 * * *", "30 2 * * *"),
        ("15-15 * * * * *", "15 * * * * *"),
        ("0 5-5/3 * * *", "0 5 * * *"),
        ("0 0 * * 7-7", "0 0 * * 0"),
        ("0 0 * * SUN-7", "0 0 * * *"),
        ("0 0 * * MON-1", "0 0 * * 1"),
        ("0 0 * * 5-7", "0 0 * * 5,6,0"),
        ("0 0 * * MON-SUN", "0 0 * * 1,2,3,4,5,6,0"),
        ("0 0 28-3/2 * *", "0 0 28,30,1,3 * *"),
        ("? ?/6 ? ? ?", "* 0,6,12,18 * * *"),
        ("*/90 * * * *", "0 * * * *"),
        ("5/20 * * * *", "5,25,45 * * * *"),
        ("0 0 * jan-MAR/2 *", "0 0 * 1,3 *"),
        ("  @HOURLY ", "0 * * * *"),
        ("@Yearly", "0 0 1 1 *"),
        ("0 0 1-7 * */7", "0 0 1-7 * 0"),
    ],
)
def test_an_expression_means_the_same_as_its_plain_form(expression: str, same: str) -> None:
    assert times(expression) == times(same)


@pytest.mark.parametrize(
    "expression",
    [
        "R R * * *", "r * * * *", "R(1-5) * * * *", "H * * * *", "0 0 LW * *", "0 0 L-3 * *", "0 0 * * L",
        "0 0 * * 5#6", "0 0 * * 1-5#2", "0 0 32W * *", "5# * * * *", "15W * * * *", "1-2-3 * * * *", "*/2/3 * * * *",
        "*/0 * * * *", "5- * * * *", "-5 * * * *", "1.5 * * * *", "٣ * * * *", "60 * * * *", "0 24 * * *",
        "0 0 0 * *", "0 0 * 13 *", "0 0 * * 8", "0 0 * * 7/2", "0 0 * * monday", "@reboot", "@", "",
        "TZ=UTC 0 0 * * *", "0 0 1 1 * * 2030",
    ],
)  # fmt: skip
def test_other_dialects_are_refused(expression: str) -> None:
    assert is_refused(expression)


def test_a_refusal_names_the_field_and_the_value() -> None:
    with pytest.raises(ValueError, match=r"'0 R \* \* \*' is not a valid schedule: hour: 'R' is not a value"):
        checked("0 R * * *", "UTC")


@pytest.mark.parametrize("row", differences(), ids=lambda row: row.expression)
def test_the_page_says_how_kubeirq_reads_an_expression_that_kubernetes_reads_differently(row: Difference) -> None:
    assert is_refused(row.expression) == row.kubeirq.startswith("refused")
    if same := same_as(row.kubeirq):
        assert times(row.expression) == times(same)


@pytest.mark.parametrize("row", clock_changes(), ids=lambda row: f"{row.expression} {row.day}")
def test_the_page_says_when_kubeirq_fires_on_the_day_of_a_clock_change(row: ClockChange) -> None:
    midnight = datetime.fromisoformat(f"{row.day}T00:00:00").replace(tzinfo=ZoneInfo(row.zone))
    found = times(row.expression, 10, row.zone, midnight - timedelta(seconds=1))
    local = [time.astimezone(ZoneInfo(row.zone)).isoformat() for time in found]
    assert [time[11:16] for time in local if time.startswith(row.day)] == row.kubeirq


def test_the_days_of_other_dialects_are_right() -> None:
    def days(expression: str, count: int) -> list[str]:
        return [time.strftime("%m-%d") for time in times(expression, count)]

    assert days("0 0 L * *", 4) == ["01-31", "02-28", "03-31", "04-30"]
    assert days("0 0 * * L5", 3) == days("0 0 * * FRIL", 3) == ["01-30", "02-27", "03-27"]
    assert days("0 0 * * MON#1,5#5", 3) == ["01-05", "01-30", "02-02"]
    assert days("0 0 15W * *", 4) == ["01-15", "02-16", "03-16", "04-15"]
    assert days("0 0 1W,31W * *", 5) == ["01-30", "02-02", "03-02", "03-31", "04-01"]
    assert days("0 0 1 * MON#1", 4) == ["01-05", "02-01", "02-02", "03-01"], "one of the two matches"


def test_a_wildcard_in_the_minute_fires_in_both_hours_of_an_overlap() -> None:
    found = times("*/20 1-2 * * *", 10, "America/New_York", datetime(2026, 11, 1, 4, tzinfo=UTC))
    assert [time.strftime("%H:%M") for time in found] == [
        "05:00", "05:20", "05:40", "06:00", "06:20", "06:40", "07:00", "07:20", "07:40", "06:00",
    ]  # fmt: skip


def test_an_interval_that_ends_an_overlap_fires_in_both_hours_from_far_before_it() -> None:
    found = times("30 2/12 25 10 *", 2, "Europe/Berlin", datetime(2026, 1, 1, tzinfo=UTC))
    assert [time.isoformat() for time in found] == ["2026-10-25T00:30:00+00:00", "2026-10-25T01:30:00+00:00"]


def test_the_last_years_of_the_calendar_are_no_fault() -> None:
    with pytest.raises(ValueError, match="never fires"):
        Schedule("0 0 1 1 *").next_after(datetime(9999, 12, 31, 23, 59, tzinfo=UTC))
    with pytest.raises(ValueError, match="never fires"):
        Schedule("*/5 * * * *").next_after(datetime(9999, 12, 31, 23, 59, tzinfo=UTC))


def _list_of(term: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(term, min_size=1, max_size=3).map(",".join)


def _field(lowest: int, highest: int) -> st.SearchStrategy[str]:
    value = st.integers(lowest, highest)
    ranges = st.tuples(value, value).map(sorted).map("{0[0]}-{0[1]}".format)
    return st.one_of(st.just("*"), st.integers(2, 20).map("*/{}".format), _list_of(value.map(str) | ranges))


# cronsim reads a step in the day fields, and a 7 in a step, otherwise than Kubernetes does
_restricted_days = st.tuples(st.integers(1, 28), st.integers(1, 28)).map(sorted).map("{0[0]}-{0[1]}".format)
_weekdays = st.sampled_from(["*", "MON", "1-5", "0", "SAT,SUN", "5L", "1#2", "7"])
expressions = st.tuples(
    _field(0, 59), _field(0, 23), st.one_of(st.just("*"), st.just("L"), _restricted_days), _field(1, 12), _weekdays
).map(" ".join)


@given(expressions, st.integers(1_577_836_800, 1_893_456_000))
@settings(max_examples=200, deadline=None)
def test_cronsim_finds_the_same_times(expression: str, seconds: int) -> None:
    after = datetime.fromtimestamp(seconds, UTC)
    theirs = CronSim(expression, after)
    assert times(expression, 5, after=after) == [next(theirs) for _ in range(5)]


@given(
    st.sampled_from(["30 2 * * *", "15,45 1-3 * * *", "*/7 * * * *", "*/20 1-2 * * *", "0 * * * *", "5 0 * * SUN"]),
    st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca", "UTC"]),
    st.integers(1_577_836_800, 1_893_456_000),
)
@settings(max_examples=200, deadline=None)
def test_cronsim_follows_the_clock_changes_alike(expression: str, zone: str, seconds: int) -> None:
    after = datetime.fromtimestamp(seconds, ZoneInfo(zone))
    theirs = CronSim(expression, after)
    assert times(expression, 5, zone, after) == [next(theirs).astimezone(UTC) for _ in range(5)]


@given(
    st.sampled_from(["*/30 * * * *", "*/15 2 * * *", "30 1/2 * * *", "0 */3 29,25,4,5 3,4,10 *", "*/20 0-3 * * SUN"]),
    st.sampled_from(["Europe/Berlin", "Australia/Lord_Howe", "Africa/Casablanca", "America/Santiago", "Asia/Beirut"]),
    st.integers(1_577_836_800, 1_893_456_000),
)
@settings(max_examples=100, deadline=None)
def test_an_interval_fires_at_every_matching_time_that_the_clock_on_the_wall_shows(
    expression: str, zone: str, seconds: int
) -> None:
    """Against a search of every minute."""
    after = datetime.fromtimestamp(seconds, UTC)
    plain = Schedule(expression)
    moment, found = after.replace(second=0), []
    while len(found) < 3 and moment < after + timedelta(days=3):
        moment += timedelta(minutes=1)
        local = moment.astimezone(ZoneInfo(zone)).replace(tzinfo=UTC)
        if plain.next_after(local - timedelta(seconds=1)) == local:
            found.append(moment)
    assert times(expression, len(found), zone, after) == found


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("@every 5m", "'*/5 * * * *'"),
        ("TZ=Europe/Berlin 0 5 * * *", "schedule: '0 5 * * *', timeZone: Europe/Berlin"),
        ("CRON_TZ=UTC @hourly", "schedule: '@hourly', timeZone: UTC"),
    ],
)
def test_the_forms_of_other_schedulers_are_refused_with_the_form_of_this_one(text: str, hint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(hint)):
        checked(text, "UTC")
