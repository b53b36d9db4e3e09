"""The clock that goes back or jumps forward, and edits and restarts on the way: no time runs twice or is missed."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trigger_sources.context import SourceError
from trigger_sources.cron import CronTrigger
from trigger_sources.delivery import Outcome
from trigger_sources.testing import MemoryState, StandInContext

DONE = Outcome("delivered")


class Machine:
    """A machine with a clock that a test sets, and one cron trigger that starts, stops and is edited."""

    def __init__(self, start: str, **spec: Any) -> None:
        self.clock = datetime.fromisoformat(start).timestamp()
        self.spec = {"function": "f", **spec}
        self.state = MemoryState()
        self.ran: list[str] = []
        self.reports: list[tuple[bool, str, str]] = []
        self.lost: list[tuple[int, str]] = []
        self._jumps: list[float] = []
        self._left = 0.0

    def now(self) -> float:
        return self.clock

    async def sleep(self, seconds: float, stopping: asyncio.Event) -> float:
        seconds = min(seconds, 0.5)  # a clock that jumps is noticed after so long
        self.clock += seconds
        self._left -= seconds
        if self._jumps:
            self.clock += self._jumps.pop()
        if self._left <= 0:
            self._stopping.set()
        await asyncio.sleep(0)
        return seconds

    def edit(self, **spec: Any) -> None:
        self.spec = {**self.spec, **spec}

    def off(self, seconds: float) -> None:
        """The fabric does not run, or the trigger is suspended: the clock goes on."""
        self.clock += seconds

    async def run(self, seconds: float, *, jump: float = 0, settles: bool = True) -> Sequence[str]:
        """Runs for so long by an even clock; `jump` sets the clock after the first wait. The times that ran."""
        self._jumps = [jump] if jump else []
        self._left, self._stopping = seconds, asyncio.Event()
        context = StandInContext(uid="uid", stopping=self._stopping, state=self.state)
        before = len(self.ran)
        async for deliveries in CronTrigger.model_validate(self.spec).ticks(context, self):
            for delivery in deliveries:
                assert delivery.position is not None
                assert datetime.fromisoformat(delivery.position).timestamp() <= self.clock, "early"
                self.ran.append(delivery.position)
                if settles:
                    await delivery.settle(DONE)
        self.reports += context.reports
        self.lost += context.lost
        return [time[11:19] if time.startswith("2026-01-01") else time for time in self.ran[before:]]


async def test_an_edit_of_the_schedule_runs_nothing_for_a_time_before_it() -> None:
    machine = Machine("2026-01-01T14:00:10Z", schedule="0 0 1 1 *")
    await machine.run(60)
    machine.off(1_920)
    machine.edit(schedule="32 14 * * *")
    assert await machine.run(60) == []
    machine.edit(schedule="*/10 * * * * *", catchUp="all")
    assert await machine.run(21) == ["14:34:20", "14:34:30"]


@pytest.mark.parametrize(
    "edit", [{"timeZone": "Asia/Kolkata"}, {"at": "2026-01-01T12:30:00Z", "schedule": None}], ids=["timeZone", "at"]
)
async def test_an_edit_of_the_zone_or_of_the_one_time_runs_nothing_for_a_time_before_it(edit: dict[str, Any]) -> None:
    machine = Machine("2026-01-01T11:00:10Z", schedule="30 * * * *", catchUp="all")
    await machine.run(60)
    machine.off(7_200)
    machine.edit(**edit)
    assert await machine.run(60) == []


async def test_an_edit_of_another_field_does_not_begin_anew() -> None:
    machine = Machine("2026-01-01T14:00:10Z", schedule="*/10 * * * *")
    await machine.run(60)
    machine.off(1_800)
    machine.edit(catchUp="all")
    assert await machine.run(10) == ["14:10:00", "14:20:00", "14:30:00"]


async def test_an_edit_while_suspended_begins_with_the_first_run_after_it() -> None:
    machine = Machine("2026-01-01T14:00:10Z", schedule="*/10 * * * *", catchUp="all")
    await machine.run(60)
    machine.off(1_800)
    machine.edit(schedule="*/5 * * * *")
    machine.off(1_800)
    assert await machine.run(300) == ["15:05:00"]


async def test_ticks_missed_while_suspended_follow_catch_up_and_the_starting_deadline() -> None:
    for spec, expected in (
        ({"catchUp": "latest"}, ["14:30:00"]),
        ({"catchUp": "all"}, ["14:10:00", "14:20:00", "14:30:00"]),
        ({"catchUp": "none"}, []),
        ({"catchUp": "all", "startingDeadlineSeconds": 700}, ["14:20:00", "14:30:00"]),
    ):
        machine = Machine("2026-01-01T14:00:10Z", schedule="*/10 * * * *", **spec)
        await machine.run(60)
        machine.off(1_800)
        assert await machine.run(10) == expected, spec


async def test_a_single_tick_missed_during_downtime_is_left_out_with_catch_up_none() -> None:
    machine = Machine("2026-01-01T14:00:10Z", schedule="0 * * * *", catchUp="none")
    await machine.run(60)
    machine.off(3_600)
    assert await machine.run(10) == []
    machine = Machine("2026-01-01T14:00:10Z", schedule="0 * * * *", catchUp="none")
    assert await machine.run(60, jump=3_600) == []


@pytest.mark.parametrize("hours", [1, 6, 24, 24 * 365])
@pytest.mark.parametrize("restarts", [False, True], ids=["running", "over a restart"])
async def test_a_clock_that_was_ahead_and_is_corrected_goes_on_at_once(hours: int, restarts: bool) -> None:
    machine = Machine("2026-01-01T00:00:30Z", schedule="* * * * *")
    assert await machine.run(60) == ["00:01:00"]
    ahead = hours * 3_600
    assert len(await machine.run(80, jump=ahead)) == 2, "the latest that was missed, and one more"
    if restarts:
        machine.off(-ahead)
        found = await machine.run(180)
    else:
        found = await machine.run(180, jump=-ahead)
    assert found == ["00:03:00", "00:04:00", "00:05:00"]
    (report,) = [report for report in machine.reports if report[1] == "ClockWentBack"]
    assert report[0]
    assert "the next tick is at 2026-01-01T00:0" in report[2]


async def test_a_time_that_ran_ahead_does_not_run_again_when_it_comes() -> None:
    machine = Machine("2026-01-01T00:00:30Z", schedule="* * * * *")
    await machine.run(60, jump=3_600)
    assert machine.ran[-1][11:19] == "01:01:00"
    await machine.run(3_700, jump=-3_600)
    assert len(machine.ran) == len(set(machine.ran))
    assert [time[11:16] for time in machine.ran[-3:]] == ["00:59", "01:02", "01:03"]


async def test_a_clock_that_goes_back_for_a_while_runs_nothing_twice_and_catches_up_from_where_it_was() -> None:
    machine = Machine("2026-01-02T00:00:30Z", schedule="* * * * *", catchUp="all")
    await machine.run(600)
    assert await machine.run(300, jump=-500) == []
    assert await machine.run(65, jump=600) == [f"2026-01-02T00:{minute}:00Z" for minute in range(11, 19)]


async def test_a_clock_that_jumps_forward_follows_catch_up() -> None:
    for policy, expected in (("none", []), ("latest", ["04"]), ("all", ["01", "02", "03", "04"])):
        machine = Machine("2026-01-01T00:00:30Z", schedule="0 * * * *", catchUp=policy)
        assert [time[:2] for time in await machine.run(5, jump=4 * 3_600)] == expected, policy


async def test_a_clock_that_jumps_by_many_years_finds_the_last_ticks_quickly() -> None:
    for policy, count in (("latest", 1), ("all", 1_000)):
        machine = Machine("1970-01-01T00:00:30Z", schedule="* * * * * *", catchUp=policy)
        found = await machine.run(0.7, jump=56 * 365 * 86_400.0)
        assert len(found) == count
        assert found[-1] == "2025-12-18T00:00:30Z"


async def test_a_delay_by_jitter_is_not_a_missed_tick() -> None:
    machine = Machine("2026-01-01T00:00:30Z", schedule="*/5 * * * *", jitterSeconds=3_600)
    await machine.run(7 * 3_600)
    machine.edit(jitterSeconds=0, catchUp="all")
    await machine.run(1)
    assert [time[11:16] for time in machine.ran] == [
        f"{minutes // 60:02}:{minutes % 60:02}" for minutes in range(5, 7 * 60 + 1, 5)
    ]


BOOK_OF_0_1_0 = {"considered": "2026-01-01T00:03:00Z", "open": ["2026-01-01T00:03:00Z"]}


async def test_a_book_of_version_0_1_0_is_carried_over() -> None:
    machine = Machine("2026-01-01T00:06:10Z", schedule="* * * * *", catchUp="all")
    machine.state.values["ticks"] = orjson.dumps(BOOK_OF_0_1_0)
    assert await machine.run(60) == ["00:03:00", "00:04:00", "00:05:00", "00:06:00", "00:07:00"]
    found = orjson.loads(machine.state.values["ticks"])
    assert (found["considered"], found["open"]) == ("2026-01-01T00:07:00Z", []), "version 0.1.0 reads these"
    assert await machine.run(120, jump=-180) == [], "they have run"


async def test_a_book_of_version_0_1_0_that_is_ahead_of_the_clock_does_not_stop_the_ticks() -> None:
    machine = Machine("2026-01-01T00:00:10Z", schedule="* * * * *")
    machine.state.values["ticks"] = orjson.dumps({"considered": "2027-01-01T00:03:00Z", "open": []})
    assert await machine.run(60) == ["00:01:00"]


WHOLE_BOOK = orjson.dumps({**BOOK_OF_0_1_0, "ran": [], "schedule": "* * * * *"})


@pytest.mark.parametrize("length", range(len(WHOLE_BOOK)))
async def test_a_damaged_book_begins_anew_and_says_so(length: int) -> None:
    machine = Machine("2026-01-01T00:06:10Z", schedule="* * * * *", catchUp="all")
    machine.state.values["ticks"] = WHOLE_BOOK[:length]
    assert await machine.run(60) == ["00:07:00"]
    ((connected, reason, message),) = machine.reports
    assert (connected, reason) == (True, "TicksDamaged")
    assert "ticks begin at 2026-01-01T00:06:10Z" in message
    assert await machine.run(60) == ["00:08:00"]
    assert machine.reports[1:] == [(True, "", "")]


async def test_a_book_of_a_newer_format_stops_the_trigger() -> None:
    machine = Machine("2026-01-01T00:06:10Z", schedule="* * * * *")
    machine.state.values["ticks"] = b'{"version": 2}'
    with pytest.raises(SourceError, match="newer version"):
        await machine.run(60)
    assert machine.state.values["ticks"] == b'{"version": 2}'


schedules = st.sampled_from(["* * * * *", "*/7 * * * *", "15,45 3-5 * * *", "0 */2 * * *", "@daily", "30 2 * * *"])
moves = st.one_of(
    st.tuples(st.just("run"), st.integers(30, 600)),
    st.tuples(st.just("clock"), st.sampled_from([-1, 1]), st.sampled_from([2, 61, 3_600, 86_400, 31_536_000])),
    st.tuples(st.just("clock"), st.sampled_from([-1, 1]), st.integers(1, 200_000)),
    st.tuples(st.just("off"), st.integers(1, 20_000)),
    st.tuples(st.just("edit"), schedules),
)


@given(schedules, st.sampled_from(["none", "latest", "all"]), st.lists(moves, max_size=12))
@settings(max_examples=40, deadline=None)
async def test_clock_moves_edits_and_restarts_run_each_time_once_and_regular_ticks_on_time(
    schedule: str, policy: str, history: list[tuple[Any, ...]]
) -> None:
    """The model: the set of the times that ran, and the times that the clock passes while the trigger runs."""
    machine = Machine("2026-01-05T10:00:30Z", schedule=schedule, catchUp=policy, timeZone="Europe/Berlin")
    ran: set[tuple[str, str]] = set()
    runs_with, began = schedule, machine.clock  # the schedule of the last run, and the time of its first run
    went_back = False
    for move, *values in [*history, ("run", 600)]:
        match move:
            case "edit":
                machine.edit(schedule=values[0])
            case "off":
                machine.off(values[0])
            case "clock":
                machine.off(values[0] * values[1])
                went_back |= values[0] < 0
            case "run":
                begins, schedule = machine.clock, machine.spec["schedule"]
                if schedule != runs_with:
                    runs_with, began, went_back = schedule, begins, False
                before = len(machine.ran)
                await machine.run(values[0])
                for time in machine.ran[before:]:
                    assert (schedule, time) not in ran, "twice"
                    ran.add((schedule, time))
                    assert went_back or datetime.fromisoformat(time).timestamp() > began, "before the edit"
                trigger = CronTrigger.model_validate(machine.spec)
                for tick in trigger.next_runs(20, datetime.fromtimestamp(begins, UTC)):
                    if tick < datetime.fromtimestamp(machine.clock, UTC) - timedelta(seconds=1):
                        time = tick.strftime("%Y-%m-%dT%H:%M:%SZ")
                        assert (schedule, time) in ran, f"{time} passed, and did not run"
