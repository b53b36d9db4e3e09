"""Searches through worlds: every interleaving, a way out of each, and tables that are wrong in one row."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from life.world import Move, Rules, Violation, World, after, finished, moves

from trigger_sources.dispatch.life import LIFE, Action, IllegalInput, Input, State, Table

RowKey = tuple[State, Input]
Path = tuple[Move, ...]


@dataclass
class Explored:
    """Every world that can be reached, and for each row a shortest path that ends with its use."""

    worlds: set[World] = field(default_factory=set)
    moves: int = 0
    rows: dict[RowKey, Path] = field(default_factory=dict)
    stuck: list[World] = field(default_factory=list)


def explore(rules: Rules, begin: World | None = None, most: int | None = None) -> Explored:
    """Visits every world from `begin`, nearest first; at most `most` of them.

    Raises Violation, with the moves that lead there, or IllegalInput.
    """
    first = begin or rules.start()
    came_from: dict[World, tuple[World, Move] | None] = {first: None}
    before: dict[World, list[World]] = {}
    queue = deque([first])
    found = Explored()
    while queue and (most is None or len(came_from) < most):
        world = queue.popleft()
        for move in moves(rules, world):
            try:
                following, rows = after(rules, world, move)
            except (Violation, IllegalInput) as problem:
                raise type(problem)(f"{problem}; after {(*path_to(came_from, world), move)}") from problem
            found.moves += 1
            for row in rows:
                if row not in found.rows:
                    found.rows[row] = (*path_to(came_from, world), move)
            if following not in came_from:
                came_from[following] = (world, move)
                queue.append(following)
            if following.faults == world.faults:
                before.setdefault(following, []).append(world)
    found.worlds = set(came_from)
    if most is None:
        found.stuck = without_way_out(found.worlds, before)
    return found


def path_to(came_from: dict[World, tuple[World, Move] | None], world: World) -> Path:
    path: list[Move] = []
    while (step := came_from[world]) is not None:
        world, move = step
        path.append(move)
    return tuple(reversed(path))


def without_way_out(worlds: set[World], before: dict[World, list[World]]) -> list[World]:
    """Worlds from which nothing but a further fault leads to the end."""
    good = {world for world in worlds if finished(world)}
    queue = deque(good)
    while queue:
        for world in before.get(queue.popleft(), ()):
            if world not in good:
                good.add(world)
                queue.append(world)
    return [world for world in worlds if world not in good]


@dataclass(frozen=True)
class Mutant:
    """A table that is wrong in one row."""

    row: RowKey
    what: str
    table: Table = field(repr=False)
    swapped: frozenset[Action] | None = None


def mutants() -> Iterator[Mutant]:
    """Each row with an action dropped, with two neighbouring actions swapped, and with another next state."""
    for state, inputs in LIFE.items():
        for given, (following, actions) in inputs.items():

            def with_row(following: State, actions: tuple[Action, ...], s: State = state, i: Input = given) -> Table:
                return {**LIFE, s: {**LIFE[s], i: (following, actions)}}

            for index, action in enumerate(actions):
                rest = actions[:index] + actions[index + 1 :]
                yield Mutant((state, given), f"without {action.name}", with_row(following, rest))
            for index in range(len(actions) - 1):
                one, other = actions[index : index + 2]
                swapped = (*actions[:index], other, one, *actions[index + 2 :])
                table = with_row(following, swapped)
                yield Mutant((state, given), f"{other.name} before {one.name}", table, frozenset({one, other}))
            for another in State:
                if another is not following:
                    yield Mutant((state, given), f"to {another.name}", with_row(another, actions))


def is_found(mutant: Mutant, rules: Rules, witness: Path, most: int) -> bool:
    """Whether a property fails on the way along `witness`, which uses the row, or in the worlds that follow it."""
    rules = replace(rules, table=mutant.table)
    world = rules.start()
    try:
        for move in witness:
            world, _ = after(rules, world, move)
        explored = explore(rules, world, most)
    except (Violation, IllegalInput):
        return True
    return any(not finished(world) and not moves(rules, world) for world in explored.worlds)
