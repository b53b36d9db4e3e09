"""The table is the dispatcher's law: paths through the small worlds, played on the real dispatcher, move by move."""

import logging
import random
from collections.abc import Iterator

import pytest
from life.stage import ManualLoop, perform
from life.world import Move, Rules, World, after, moves

pytestmark = pytest.mark.timeout(300)  # it is all computation, about 15 s of it

WORLDS = {
    "settled at once": Rules(keys=(0, 1, 0), at_once=True, faults=2),
    "settled in a while": Rules(keys=(0, 1, 0), faults=2),
    "parked at the end": Rules(keys=(0, 1, 0), at_once=True, on_failure="park", attempts=1, faults=2),
    "dropped at the end": Rules(keys=(0, 1, 0), at_once=True, on_failure="drop", attempts=1, faults=2),
    "answers are published": Rules(keys=(0, 1, 0), reply=True, attempts=1, faults=2),
    "an event that may end the process": Rules(keys=(0, 1, 0), suspects=frozenset({0}), faults=2),
    "filtered and unreadable": Rules(keys=(0, 1, 0), filtered=frozenset({0, 1}), unreadable=frozenset({2}), faults=2),
}
SHORT = 4  # every path of so many moves is played, and a sample of longer ones
LONG = 14
SAMPLED = 400


def can_be_played(world: World, move: Move) -> bool:
    """Some moves have no cause on a stage: an outcome that expires, and a fault where no call is under way."""
    name, at = move
    return name != "expire" and not (name == "fault" and world.events[at].work != "call")


def all_paths(rules: Rules, length: int) -> Iterator[tuple[Move, ...]]:
    def further(world: World, path: tuple[Move, ...]) -> Iterator[tuple[Move, ...]]:
        following = [move for move in moves(rules, world) if can_be_played(world, move)]
        if len(path) == length or not following:
            yield path
            return
        for move in following:
            yield from further(after(rules, world, move)[0], (*path, move))

    yield from further(rules.start(), ())


def sampled_paths(rules: Rules, length: int, count: int) -> Iterator[tuple[Move, ...]]:
    chance = random.Random(20)
    for _ in range(count):
        world, path = rules.start(), ()
        while len(path) < length:
            following = [move for move in moves(rules, world) if can_be_played(world, move)]
            if not following:
                break
            move = chance.choice(following)
            world, path = after(rules, world, move)[0], (*path, move)
        yield path


@pytest.mark.parametrize("name", WORLDS)
def test_the_dispatcher_does_what_the_table_says(name: str) -> None:
    rules = WORLDS[name]
    paths = [*all_paths(rules, SHORT), *sampled_paths(rules, LONG, SAMPLED)]
    loop = ManualLoop()
    logging.disable(logging.CRITICAL)  # the faults of the script are logged with their tracebacks, thousands of times
    try:
        for index, path in enumerate(paths):
            # A call that finds no kept connection goes another way. Only on that way it can fail before it is sent
            kept = index % 2 == 0 and not any(move in ("unreachable", "fault") for move, _ in path)
            loop.run_until_complete(perform(loop, rules, path, kept=kept))
    finally:
        logging.disable(logging.NOTSET)
        loop.close()
    print(f"{name}: {len(paths)} paths")
    assert len(paths) > SAMPLED
