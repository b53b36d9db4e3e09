"""The room of a dispatcher: each lane takes its share and no more, and what is held is bounded in events and bytes."""

from collections import Counter, defaultdict, deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from life.stage import ManualLoop, Stage
from life.world import Rules

from trigger_sources.dispatch.handover import withdraw
from trigger_sources.dispatch.room import Room

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
        assert stage.dispatcher.room.free == LIMIT - 2, "the lane has its share"
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
        while stage.dispatcher.room.free:
            await stage.play(("take", event))
            event += 1
        assert stage.dispatcher.held == 64 == stage.dispatcher.room.most
        assert stage.dispatcher.is_filled_by_lanes
        await withdraw(stage.dispatcher, lambda delivery: True, 0)
        assert stage.dispatcher.room.free == LIMIT
        assert stage.dispatcher.room.beside == 0
        await stage.end()

    loop.run_until_complete(play())
    loop.close()


def test_large_events_of_stuck_lanes_that_fill_the_room_are_said() -> None:
    """They are few, so that no lane is over its share of the number of events."""
    loop, stage = on_stage((0, 0, 1, 1, 2))

    async def play() -> None:
        stage.dispatcher.room = Room(LIMIT, limit_bytes=4)
        for event in range(5):
            await stage.play(("take", event))
        assert stage.dispatcher.room.free == 0
        assert not stage.dispatcher.is_filled_by_lanes, "it is only busy"
        await stage.play(("deliver", 4))
        await stage.play(("fail", 0))
        assert not stage.dispatcher.is_filled_by_lanes, "one more lane moves"
        await stage.play(("fail", 2))
        assert stage.dispatcher.room.free == 0
        assert stage.dispatcher.is_filled_by_lanes
        await stage.play(("due", 0))
        assert stage.dispatcher.is_filled_by_lanes, "another attempt alone frees nothing"
        await stage.end()

    loop.run_until_complete(play())
    loop.close()


def test_large_events_of_a_stuck_lane_leave_the_others_their_room() -> None:
    loop, stage = on_stage((0,) * 8 + (1, 2))

    async def play() -> None:
        room = stage.dispatcher.room = Room(100, limit_bytes=4)
        await fail(stage, 0)
        for event in range(1, 7):
            await stage.play(("take", event))
        assert (room.bytes, room.bytes_beside) == (7, 5)
        assert room.free, "the lane has its first event and its share"
        for event in (8, 9):
            await stage.play(("take", event))
            await stage.play(("deliver", event))
        assert not stage.dispatcher.is_filled_by_lanes
        await stage.play(("take", 7))
        assert room.bytes == room.most_bytes
        assert not room.free
        assert stage.dispatcher.is_filled_by_lanes
        await stage.end()

    loop.run_until_complete(play())
    loop.close()


def test_lanes_that_are_stuck_together_fill_the_room_and_that_is_said() -> None:
    """Each has its share only, and their events are fewer than may be held in all."""
    loop, stage = on_stage(tuple(number % 4 for number in range(13)))

    async def play() -> None:
        for event in range(13):
            await stage.play(("take", event))
        for event in range(3):
            await stage.play(("fail", event))
        assert stage.dispatcher.room.free == 0
        assert not stage.dispatcher.is_filled_by_lanes, "one of them moves"
        await stage.play(("fail", 3))
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
            assert stage.dispatcher.room.free == max(0, min(LIMIT - shares, 64 - sum(sizes.values())))
        await stage.end()

    loop.run_until_complete(play())
    loop.close()


class Lanes:
    """The events of each lane by their sizes, beside the room that counts them."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.sizes: defaultdict[int, deque[int]] = defaultdict(deque)

    def add(self, lane: int, size: int) -> None:
        self.room.events += 1
        self.room.bytes += size
        if self.sizes[lane]:
            self.room.queue(lane, size)
        self.sizes[lane].append(size)

    def remove(self, lane: int, index: int) -> None:
        sizes = self.sizes[lane]
        self.room.events -= 1
        self.room.bytes -= sizes[index]
        if index:
            self.room.unqueue(lane, sizes[index])
        elif len(sizes) > 1:
            self.room.unqueue(lane, sizes[1])
        del sizes[index]


LIMIT_BYTES = 400
moves = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 250), st.booleans()), max_size=80)


@given(moves)
def test_events_over_the_share_of_their_lane_stand_beside_the_room(moves: list[tuple[int, int, bool]]) -> None:
    """Against a naive count, after each event that comes or goes."""
    room = Room(LIMIT, LIMIT_BYTES)
    lanes = Lanes(room)
    for lane, number, comes in moves:
        if comes:
            lanes.add(lane, number)
        elif sizes := lanes.sizes[lane]:
            lanes.remove(lane, number % len(sizes))
        held = [list(sizes) for sizes in lanes.sizes.values() if sizes]
        assert (room.events, room.bytes) == (sum(map(len, held)), sum(map(sum, held)))
        assert room.events - room.beside == sum(min(len(sizes), 2) for sizes in held)
        assert room.bytes - room.bytes_beside == sum(sizes[0] + min(sum(sizes[1:]), 100) for sizes in held)


@given(st.lists(st.integers(0, LIMIT_BYTES * 3 // 4 - 1), max_size=100))
def test_one_stuck_lane_of_any_sizes_leaves_room_until_a_bound(sizes: list[int]) -> None:
    """At the bound it fills the room, and that is said. A source that asks before each event is over by one at most."""
    room = Room(LIMIT, LIMIT_BYTES)
    lanes = Lanes(room)
    for size in sizes:
        if not room.free:
            break
        lanes.add(0, size)
    assert room.events <= room.most
    assert room.bytes < room.most_bytes + max(sizes, default=0)
    assert (room.free > 0) == (room.events < room.most and room.bytes < room.most_bytes)
    if not room.free:
        assert room.is_filled_by([(0, sizes[0])])
    assert not room.is_filled_by([]), "lanes that move fill it for a while only"


pytestmark = pytest.mark.timeout(120)
