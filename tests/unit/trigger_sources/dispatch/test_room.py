"""The room of a dispatcher: each lane takes its share and no more, and the number of held events is bounded."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from life.stage import ManualLoop, Stage
from life.world import Rules

from trigger_sources.dispatch import dispatcher
from trigger_sources.dispatch.handover import withdraw

LIMIT = 8  # so that a lane's share is 2, and 64 events are held at most


def on_stage(keys: tuple[int, ...]) -> tuple[ManualLoop, Stage]:
    loop = ManualLoop()
    return loop, Stage(loop, Rules(keys=keys, places=4, at_once=True, attempts=1000), kept=True, limit=LIMIT)


async def fail(stage: Stage, event: int) -> None:
    await stage.play(("take", event))
    await stage.play(("fail", event))


def test_a_stuck_lane_leaves_the_others_their_room() -> None:
    keys = (0,) * 40 + (1, 2, 3)
    loop, stage = on_stage(keys)

    async def play() -> None:
        await fail(stage, 0)
        for event in range(1, 40):
            await stage.play(("take", event))
        assert stage.dispatcher.held == 40
        assert stage.dispatcher.room == LIMIT - 2, "the lane has its share"
        for event in (40, 41, 42):
            await stage.play(("take", event))
            await stage.play(("deliver", event))
        assert stage.dispatcher.counters.delivered == 3
        assert not stage.dispatcher.is_filled_by_lanes
        await stage.end()

    loop.run_until_complete(play())
    loop.close()


def test_the_events_of_stuck_lanes_are_bounded_and_that_is_said() -> None:
    loop, stage = on_stage((0,) * 100)

    async def play() -> None:
        await fail(stage, 0)
        event = 1
        while stage.dispatcher.room:
            await stage.play(("take", event))
            event += 1
        assert stage.dispatcher.held == 64 == stage.dispatcher.most
        assert stage.dispatcher.is_filled_by_lanes
        await withdraw(stage.dispatcher, lambda delivery: True, 0)
        assert stage.dispatcher.room == LIMIT
        assert stage.dispatcher.beside == 0
        await stage.end()

    loop.run_until_complete(play())
    loop.close()


def test_large_events_of_stuck_lanes_that_fill_the_room_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are few, so that no lane is over its share of the number of events."""
    monkeypatch.setattr(dispatcher, "_HELD_BYTES", 4)
    loop, stage = on_stage((0, 0, 1, 2))

    async def play() -> None:
        for event in range(4):
            await stage.play(("take", event))
        assert stage.dispatcher.room == 0
        assert not stage.dispatcher.is_filled_by_lanes, "it is only busy"
        await stage.play(("deliver", 2))
        await stage.play(("deliver", 3))
        await stage.play(("fail", 0))
        monkeypatch.setattr(dispatcher, "_HELD_BYTES", 2)
        assert stage.dispatcher.room == 0
        assert stage.dispatcher.is_filled_by_lanes
        await stage.end()

    loop.run_until_complete(play())
    loop.close()


@settings(max_examples=60, deadline=None)
@given(
    moves=st.lists(
        st.tuples(st.sampled_from(["take", "deliver", "fail", "due", "revoke"]), st.integers(0, 5)), max_size=60
    )
)
def test_the_room_is_the_limit_less_each_lanes_share(moves: list[tuple[str, int]]) -> None:
    """Against a naive count over the events that are held, after every move."""
    keys = tuple(number % 3 for number in range(400))
    loop, stage = on_stage(keys)

    async def play() -> None:
        following = 0
        for name, choice in moves:
            running = sorted(stage.function.calls)
            retrying = [int(held.delivery.position or 0) for held in stage.dispatcher.events() if held.timer]
            if name == "take":
                for _ in range(choice + 1):
                    await stage.play(("take", following))
                    following += 1
            elif name in ("deliver", "fail") and running:
                await stage.play((name, running[choice % len(running)]))
            elif name == "due" and retrying:
                await stage.play(("due", retrying[choice % len(retrying)]))
            elif name == "revoke":
                await stage.play(("revoke", choice % 3))
            sizes = Counter(held.delivery.key for held in stage.dispatcher.events())
            shares = sum(min(size, 2) for size in sizes.values())
            assert stage.dispatcher.room == max(0, min(LIMIT - shares, 64 - sum(sizes.values())))
        await stage.end()

    loop.run_until_complete(play())
    loop.close()


pytestmark = pytest.mark.timeout(120)
