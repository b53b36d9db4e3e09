"""The table of an event's life, checked by exhaustion: every interleaving, and every table that is wrong in one row."""

import pytest
from life.search import Explored, explore, is_found, mutants
from life.world import Rules

from trigger_sources.dispatch.life import LIFE, Action, IllegalInput, Input, State, step

pytestmark = pytest.mark.timeout(300)  # it is all computation, about 15 s of it

WORLDS = {
    "two keys of three events, one fault": Rules(),
    "two keys of two events, two faults": Rules(keys=(0, 1, 0, 1), faults=2),
    "one event a key, three faults": Rules(keys=(0, 1), faults=3, attempts=1),
    "settled at once": Rules(keys=(0, 1, 0), at_once=True),
    "settled at once, two faults": Rules(keys=(0, 1), at_once=True, faults=2),
    "parked at the end": Rules(keys=(0, 1, 0), on_failure="park", attempts=1, faults=2),
    "dropped at the end": Rules(keys=(0, 1, 0), on_failure="drop", attempts=1, faults=2),
    "everything fails": Rules(keys=(-1, -1, -1), on_failure="hold", attempts=1, faults=2),
    "answers are published": Rules(keys=(0, 1, 0), reply=True, attempts=1, faults=2),
    "answers are published, settled at once": Rules(keys=(0, 1), reply=True, at_once=True),
    "answers are published, dropped at the end, settled at once": Rules(
        keys=(0, 1), reply=True, on_failure="drop", at_once=True, faults=2
    ),
    "answers are published, everything fails": Rules(keys=(0, 1), reply=True, on_failure="hold", faults=2),
    "answers are published, parked at the end": Rules(keys=(0, 1), reply=True, on_failure="park", faults=2),
    "an event that may end the process": Rules(keys=(0, 1, 0), suspects=frozenset({0}), faults=2),
    "filtered and unreadable": Rules(keys=(0, 1, 0), filtered=frozenset({0, 1}), unreadable=frozenset({2}), faults=2),
    "filtered, settled at once": Rules(keys=(0, 0), filtered=frozenset({0}), at_once=True),
}

# Neighbouring actions of a row can be swapped without a difference where no step of the loop lies between them and
# neither reads a value that the other one writes. SETTLE may end at once, and needs its place in the order.
INDEPENDENT = {
    frozenset(pair): reason
    for reason, pairs in {
        "the queue has nothing to do with work, timer and counters": [
            (Action.UNQUEUE, Action.CALL),
            (Action.UNQUEUE, Action.CALL_ALONE),
            (Action.UNQUEUE, Action.WRITE),
            (Action.UNQUEUE, Action.WAIT),
            (Action.UNQUEUE, Action.COUNT_WITHDRAWN),
            (Action.UNQUEUE, Action.RETURN),
        ],
        "nothing starts before the row is done, so that a place is free a moment earlier or later": [
            (Action.FREE, Action.WAIT),
            (Action.FREE, Action.WRITE),
            (Action.FREE, Action.RENEW),
            (Action.FREE, Action.REQUEUE_FIRST),
            (Action.FREE, Action.HANG_UP),
            (Action.FREE, Action.ABORT),
            (Action.FREE, Action.COUNT_WITHDRAWN),
            (Action.FREE, Action.RETURN),
        ],
        "nobody reads a counter before the row is done": [
            (Action.COUNT, Action.LEAVE),
            (Action.COUNT, Action.ABORT),
            (Action.COUNT_WITHDRAWN, Action.LEAVE),
            (Action.COUNT_WITHDRAWN, Action.ABORT),
            (Action.COUNT_WITHDRAWN, Action.UNWAIT),
        ],
        "the timer has nothing to do with attempts and work": [
            (Action.UNWAIT, Action.RENEW),
            (Action.UNWAIT, Action.WRITE),
            (Action.UNWAIT, Action.RETURN),
        ],
        "attempts are read when the event is called next": [(Action.RENEW, Action.REQUEUE_LAST)],
        "room and lane have nothing to do with the memory of outcomes": [(Action.REMEMBER, Action.LEAVE)],
        "the work under way belongs to the older hand-out": [
            (Action.ABORT, Action.REPLACE),
            (Action.ABORT, Action.FORGET),
        ],
    }.items()
    for pair in pairs
}


@pytest.fixture(scope="module")
def explored() -> dict[str, Explored]:
    found = {name: explore(rules) for name, rules in WORLDS.items()}
    for name, world in found.items():
        print(f"{name}: {len(world.worlds)} states, {world.moves} moves")
    print(f"in all {sum(len(world.worlds) for world in found.values())} states; "
          f"the table has {len(State)} states and {sum(map(len, LIFE.values()))} rows")  # fmt: skip
    return found


def test_every_interleaving_keeps_every_property_and_has_a_way_out(explored: dict[str, Explored]) -> None:
    """`explore` raises where a property fails: see `life.world.Run`."""
    assert {name: found.stuck for name, found in explored.items() if found.stuck} == {}
    assert all(len(found.worlds) > 100 for found in explored.values())


def test_every_row_is_used(explored: dict[str, Explored]) -> None:
    used = {row for found in explored.values() for row in found.rows}
    assert {(state, given) for state, inputs in LIFE.items() for given in inputs} == used


def test_a_table_that_is_wrong_in_one_row_is_found(explored: dict[str, Explored]) -> None:
    count, unfound = 0, []
    for mutant in mutants():
        count += 1
        witnesses = [
            (WORLDS[name], found.rows[mutant.row]) for name, found in explored.items() if mutant.row in found.rows
        ]
        if not any(is_found(mutant, rules, path, most=300) for rules, path in witnesses):
            unfound.append(mutant)
    print(f"{count} tables that are wrong in one row: {count - len(unfound)} found, {len(unfound)} equivalent")
    assert count > 800
    not_equivalent = [
        f"{mutant.row[0].name} {mutant.row[1].name} {mutant.what}"
        for mutant in unfound
        if mutant.swapped is None or mutant.swapped not in INDEPENDENT
    ]
    assert not_equivalent == []
    assert set(INDEPENDENT) == {mutant.swapped for mutant in unfound}, "an exception that nothing needs any longer"


def test_an_input_without_a_row_is_refused() -> None:
    with pytest.raises(IllegalInput, match="SETTLED in state QUEUED"):
        step(State.QUEUED, Input.SETTLED)
    with pytest.raises(IllegalInput):
        step(State.GONE, Input.HANDED_OUT)
