"""The cron source with a clock that the test controls, so that no test waits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from trigger_sources.cron import CronTrigger
from trigger_sources.delivery import Delivery, Outcome
from trigger_sources.testing import MemoryState, StandInContext

DONE = Outcome("delivered")


class Time:
    """A clock that jumps to the end of each wait, and stops the source at `until`."""

    def __init__(self, start: str, until: str) -> None:
        self.at = datetime.fromisoformat(start).timestamp()
        self.until = datetime.fromisoformat(until).timestamp()
        self.stop = asyncio.Event()

    def now(self) -> float:
        return self.at

    async def sleep(self, seconds: float, stopping: asyncio.Event) -> float:
        seconds = min(seconds, 0.5)
        self.at += seconds
        if self.at >= self.until:
            self.stop.set()
        await asyncio.sleep(0)
        return seconds


@asynccontextmanager
async def ticking(start: str, until: str, state: MemoryState | None = None, **spec: Any) -> AsyncIterator[Any]:
    time = Time(start, until)
    context = StandInContext(uid="uid", stopping=time.stop, state=state or MemoryState())
    trigger = CronTrigger.model_validate({"function": "f", **spec})
    generator = trigger.ticks(context, time)
    try:
        yield generator, context, time
    finally:
        await generator.aclose()  # type: ignore[attr-defined]


async def taken(generator: Any, *, settle: bool = True) -> list[Delivery]:
    found = []
    async for deliveries in generator:
        for delivery in deliveries:
            found.append(delivery)
            if settle:
                await delivery.settle(DONE)
    return found


async def test_a_tick_has_the_id_and_time_of_its_schedule_and_is_never_early() -> None:
    async with ticking("2026-01-01T00:00:30Z", "2026-01-01T00:03:30Z", schedule="* * * * *", payload={"a": 1}) as (
        generator,
        _,
        time,
    ):
        async for (delivery,) in generator:
            assert delivery.event.id == f"uid/{delivery.position}"
            assert time.now() >= datetime.fromisoformat(delivery.position).timestamp()
            assert time.now() - datetime.fromisoformat(delivery.position).timestamp() < 0.01
            assert delivery.event.data == b'{"a":1}'
            assert "pastdue" not in delivery.event.extensions
            await delivery.settle(DONE)


async def test_each_time_has_one_tick_across_restarts() -> None:
    state, positions = MemoryState(), []
    for minute in range(3):
        async with ticking(
            f"2026-01-01T00:0{minute}:20Z", f"2026-01-01T00:0{minute + 1}:20Z", state, schedule="* * * * *"
        ) as (generator, _, _):
            positions += [delivery.position for delivery in await taken(generator)]
    assert positions == [f"2026-01-01T00:0{minute}:00Z" for minute in (1, 2, 3)]


async def test_a_started_tick_that_was_not_settled_comes_again_with_the_same_id() -> None:
    state = MemoryState()
    async with ticking("2026-01-01T00:00:20Z", "2026-01-01T00:01:20Z", state, schedule="* * * * *") as (first, _, _):
        (lost,) = await taken(first, settle=False)
    async with ticking("2026-01-01T00:01:25Z", "2026-01-01T00:01:40Z", state, schedule="* * * * *") as (again, _, _):
        (found,) = await taken(again)
    assert found.event.id == lost.event.id
    assert found.event.extensions["pastdue"] == "true"


async def test_missed_ticks_are_caught_up_after_downtime() -> None:
    for policy, expected in (("none", []), ("latest", ["05"]), ("all", ["01", "02", "03", "04", "05"])):
        state = MemoryState()
        spec = {"schedule": "* * * * *", "catchUp": policy}
        async with ticking("2026-01-01T00:00:20Z", "2026-01-01T00:00:30Z", state, **spec) as (generator, _, _):
            assert await taken(generator) == []
        async with ticking("2026-01-01T00:05:20Z", "2026-01-01T00:05:50Z", state, **spec) as (generator, _, _):
            found = await taken(generator)
        assert [delivery.position[14:16] for delivery in found] == expected, policy
        assert all(delivery.event.extensions["pastdue"] == "true" for delivery in found)


async def test_allow_runs_ticks_beside_each_other_and_queue_in_one_lane() -> None:
    for policy, key in (("Allow", None), ("Queue", b"queue")):
        async with ticking(
            "2026-01-01T00:00:30Z", "2026-01-01T00:03:30Z", schedule="* * * * *", concurrencyPolicy=policy
        ) as (generator, _, _):
            found = await taken(generator, settle=False)
        assert len(found) == 3
        assert {delivery.key for delivery in found} == {key}


async def test_forbid_leaves_a_tick_out_while_one_is_unsettled() -> None:
    async with ticking(
        "2026-01-01T00:00:30Z", "2026-01-01T00:04:30Z", schedule="* * * * *", concurrencyPolicy="Forbid"
    ) as (generator, _, time):
        (first,) = await anext(generator)
        time.at += 90  # two ticks pass
        settled = asyncio.get_running_loop().create_task(first.settle(DONE))
        rest = []
        async for (delivery,) in generator:
            rest.append(delivery.position)
            await delivery.settle(DONE)
        await settled
    assert first.position == "2026-01-01T00:01:00Z"
    assert "2026-01-01T00:02:00Z" not in rest
    assert rest[-1] == "2026-01-01T00:04:00Z"


async def test_replace_withdraws_the_unsettled_one() -> None:
    async with ticking(
        "2026-01-01T00:00:30Z", "2026-01-01T00:02:30Z", schedule="* * * * *", concurrencyPolicy="Replace"
    ) as (generator, context, _):
        (first,) = await anext(generator)
        (second,) = await anext(generator)
        (lost,) = context.withdrawn
        assert lost(first)
        assert not lost(second)


async def test_a_returned_tick_comes_again_unless_its_deadline_has_passed() -> None:
    async with ticking("2026-01-01T00:00:30Z", "2026-01-01T00:01:30Z", schedule="* * * * *") as (generator, _, _):
        (first,) = await anext(generator)
        await first.settle(Outcome("returned"))
        (again,) = await anext(generator)
        assert again.position == first.position
    state = MemoryState()
    spec = {"schedule": "* * * * *", "startingDeadlineSeconds": 5}
    async with ticking("2026-01-01T00:00:20Z", "2026-01-01T00:00:30Z", state, **spec) as (generator, _, _):
        await taken(generator)
    async with ticking("2026-01-01T00:01:20Z", "2026-01-01T00:01:40Z", state, **spec) as (generator, context, _):
        assert await taken(generator) == []
        assert context.lost == [(1, "StartingDeadline")]


async def test_a_trigger_with_a_fixed_time_fires_once_and_completes() -> None:
    async with ticking("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", at="2026-01-01T06:00:00+02:00") as (
        generator,
        _,
        _,
    ):
        (delivery,) = await taken(generator)
    assert delivery.position == "2026-01-01T04:00:00Z"


async def test_a_clock_that_jumps_back_fires_nothing_twice() -> None:
    async with ticking("2026-01-01T00:00:30Z", "2026-01-01T00:02:30Z", schedule="* * * * *") as (generator, _, time):
        (first,) = await anext(generator)
        await first.settle(DONE)
        time.at -= 45
        (second,) = await anext(generator)
    assert (first.position, second.position) == ("2026-01-01T00:01:00Z", "2026-01-01T00:02:00Z")


async def test_waiting_for_a_late_tick_does_not_poll_the_clock() -> None:
    start, until = "2026-01-01T00:00:30Z", "2026-01-01T00:30:00Z"
    async with ticking(start, until, schedule="0 * * * *", jitterSeconds=3_600) as (_, context, _):
        time, turns = Time("2026-01-01T00:59:59Z", "2026-01-01T01:01:00Z"), 0
        sleep = time.sleep

        async def counted(seconds: float, stopping: asyncio.Event) -> float:
            nonlocal turns
            turns += 1
            return await sleep(seconds, stopping)

        time.sleep = counted  # type: ignore[method-assign]
        trigger = CronTrigger(function="f", schedule="0 * * * *", jitter_seconds=3_600)
        context.stopping = time.stop
        assert trigger._fires_at(context, datetime.fromisoformat("2026-01-01T01:00:00Z")) > time.until
        await taken(trigger.ticks(context, time))
        assert turns < 200, "twice a second"


@pytest.mark.parametrize("name", ["id", "source", "type", "specversion", "time", "datacontenttype"])
def test_an_attribute_that_each_tick_has_itself_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match=f"{name!r}: each tick has its own"):
        CronTrigger.model_validate({"function": "f", "schedule": "* * * * *", "attributes": {name: "x"}})


@pytest.mark.parametrize(
    "attributes", [{"data": "x"}, {"x": "a\nb"}, {"x": "\ud800"}, {"X": "x"}, {"subject": ""}, {"dataschema": "a b"}]
)
def test_an_attribute_that_no_event_can_have_is_refused(attributes: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        CronTrigger.model_validate({"function": "f", "schedule": "* * * * *", "attributes": attributes})


def test_an_attribute_that_no_tick_has_itself_is_taken() -> None:
    given = {"subject": "night", "dataschema": "https://x/y", "partitionkey": "k"}
    trigger = CronTrigger.model_validate({"function": "f", "schedule": "* * * * *", "attributes": given})
    assert trigger.attributes == given


@pytest.mark.parametrize(
    ("payload", "data"),
    [
        ({"n": 10**30}, b'{"n":1000000000000000000000000000000}'),
        ({1: "a"}, b'{"1":"a"}'),
        ([[1]], b"[[1]]"),
        ({"day": date(2026, 1, 31)}, b'{"day":"2026-01-31"}'),
    ],
)
async def test_any_payload_that_yaml_can_have_is_sent_as_json(payload: Any, data: bytes) -> None:
    times = ("2026-01-01T00:00:30Z", "2026-01-01T00:01:30Z")
    async with ticking(*times, schedule="* * * * *", payload=payload) as (generator, _, _):
        assert [tick.event.data for tick in await taken(generator)] == [data]


def test_a_payload_that_cannot_be_json_is_refused() -> None:
    with pytest.raises(ValidationError, match="it cannot be sent as JSON"):
        CronTrigger.model_validate({"function": "f", "schedule": "* * * * *", "payload": {"a": {1, 2}}})
