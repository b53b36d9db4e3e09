"""The times at which schedules fire, across clock changes in both directions."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trigger_sources.cron.schedule import Schedule, checked


def times(expression: str, zone: str, after: str, count: int) -> list[str]:
    """The next local times, with their offsets."""
    schedule, moment, found = checked(expression, zone), datetime.fromisoformat(after), []
    for _ in range(count):
        moment = schedule.next_after(moment)
        found.append(moment.astimezone(ZoneInfo(zone)).strftime("%d %H:%M %z"))
    return found


def test_a_fixed_time_in_the_gap_fires_once_after_it() -> None:
    assert times("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00+01:00", 3) == [
        "28 02:30 +0100", "29 03:00 +0200", "30 02:30 +0200",
    ]  # fmt: skip


def test_a_fixed_time_that_happens_twice_fires_once_at_the_first() -> None:
    assert times("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00+02:00", 3) == [
        "25 02:30 +0200", "26 02:30 +0100", "27 02:30 +0100",
    ]  # fmt: skip


def test_intervals_fire_at_every_real_one_in_both_directions() -> None:
    assert times("*/30 * * * *", "Europe/Berlin", "2026-03-29T01:15:00+01:00", 3) == [
        "29 01:30 +0100", "29 03:00 +0200", "29 03:30 +0200",
    ]  # fmt: skip
    assert times("*/30 * * * *", "Europe/Berlin", "2026-10-25T02:15:00+02:00", 4) == [
        "25 02:30 +0200", "25 02:00 +0100", "25 02:30 +0100", "25 03:00 +0100",
    ]  # fmt: skip


def test_a_daylight_saving_shift_of_half_an_hour_is_handled() -> None:
    assert times("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00:00+10:30", 2) == [
        "04 02:30 +1100", "05 02:15 +1100",
    ]  # fmt: skip


def test_a_day_that_a_time_zone_skipped_is_handled() -> None:
    assert times("0 12 * * *", "Pacific/Apia", "2011-12-29T00:00:00-10:00", 3) == [
        "29 12:00 -1000", "31 00:00 +1400", "31 12:00 +1400",
    ]  # fmt: skip


def test_six_fields_have_the_seconds_first() -> None:
    schedule = checked("*/20 * * * * *", "UTC")
    assert schedule.next_after(datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC)) == datetime(2026, 1, 1, 0, 0, 20, tzinfo=UTC)


zones = st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca", "UTC"])


@given(
    st.sampled_from(["30 2 * * *", "0 0 * * *", "15,45 1-3 * * *", "*/7 * * * *", "0 */2 * * *"]),
    zones,
    st.integers(1_577_836_800, 1_893_456_000),
)
@settings(max_examples=60, deadline=None)
def test_times_increase_and_no_day_is_left_out(expression: str, zone: str, seconds: int) -> None:
    schedule = Schedule(expression, ZoneInfo(zone))
    moment = datetime.fromtimestamp(seconds, UTC)
    for _ in range(6):
        found = schedule.next_after(moment)
        assert moment < found <= moment + timedelta(days=1, hours=2)
        moment = found


@pytest.mark.parametrize(
    ("expression", "zone", "problem"),
    [
        ("0 0 30 2 *", "UTC", "never fires"),
        ("61 * * * *", "UTC", "is not a valid schedule"),
        ("* * * *", "UTC", "has 4 fields"),
        ("@soon", "UTC", "is not a valid schedule"),
        ("* * * * *", "Europe/Berln", "is not a time zone"),
    ],
)
def test_an_invalid_schedule_is_refused_with_the_reason(expression: str, zone: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        checked(expression, zone)
