"""The most time that a CEL expression can take on an event: an upper bound, in nanoseconds. Pure.

The runtime ends an evaluation after 10 000 iterations of macros. That alone bounds nothing: in each iteration an
expression may compare lists or search a long text. So the cost is estimated before the evaluation, as the sum over all
parts of the expression: how often the part runs, times the time for operands of the largest size that they can have.

Operands are followed into the event where it is at hand (`cost_on`); else the size alone is known (`cost_at_most`), and
an operand may be anything that fits into it. The prices are measured, and rounded up to twice the time or more.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from trigger_sources.dispatch.cel_tree import Kind, Node

MOST_ITERATIONS = 10_000  # the runtime's own limit, over all macros of an evaluation
_MOST_LOOKED_AT = 50_000  # values of the event: the estimate must not become the cost

_STEP = 60.0  # any operation
_LOOK_UP = 400.0  # a field or an element
_ITERATION = 200.0
_APPENDED = 60.0  # for each element that is in the list already: the runtime copies it
_COMPARED = 250.0  # an element of a list or a map
_SEARCHED = 60.0  # an element of a list
_COPIED_BYTE = 0.1
_COMPARED_BYTE = 0.1
_COUNTED_BYTE = 5.0
_SEARCHED_BYTE = 12.0
_PATTERN = 5_000.0  # the runtime compiles a pattern each time
_INSTRUCTION = 1_000.0  # of a compiled pattern
_ZONE = 20_000.0
_CONVERTED = {"duration": 25.0, "string": 2.0, "double": 1.0}  # a byte
_CONVERSION = 500.0

_FITS_A_FAST_AUTOMATON = 16  # instructions of a pattern


class Size(NamedTuple):
    """Upper bounds for a value: entries of its longest list or map, values, bytes, and bytes of its longest text."""

    longest: float
    values: float
    bytes: float
    text: float


_SCALAR = Size(0, 1, 0, 0)
SMALL = Size(8, 16, 256, 256)  # every filter has to work on an event of this size


def anything_in(size: float) -> Size:
    """The bounds for a value whose JSON has so many bytes: one for each element of a list takes two bytes."""
    return Size(size / 2 + 1, size / 2 + 1, size, size)


class TooMuchToLookAt(Exception):
    """The event has so many values that their sizes would take too long to find out."""


@dataclass(frozen=True, slots=True)
class _Value:
    """The knowledge about an operand: its possible values, or the bounds for them."""

    bounds: Size = _SCALAR
    choices: Sequence[Any] | None = None


ProgramSize = Callable[[str], int]


def cost_at_most(tree: Node, bounds: Size, program_size: ProgramSize) -> float:
    """The cost on any event within these bounds. `program_size` says how many instructions a pattern has."""
    return _Estimate(lambda name: _Value(bounds), program_size).of(tree)


def cost_on(tree: Node, roots: Mapping[str, Any], program_size: ProgramSize) -> float:
    """The cost on this event. Raises TooMuchToLookAt."""
    return _Estimate(lambda name: _Value(choices=[roots[name]] if name in roots else []), program_size).of(tree)


class _Estimate:
    def __init__(self, root: Callable[[str], _Value], program_size: ProgramSize) -> None:
        self._root = root
        self._program_size = program_size
        self._bound: dict[str, _Value] = {}  # names that macros bind
        self._growing: dict[str, float] = {}  # accumulators of macros that make lists, with the list's length
        self._runs = 1.0  # of the part that is looked at
        self._nanoseconds = 0.0
        self._looked_at = 0
        self._known: dict[int, Size] = {}  # by the identity of a list or a map

    def of(self, tree: Node) -> float:
        result = self._size(self._value(tree))
        self._charge(result.values * _APPENDED + result.bytes * _COPIED_BYTE)  # the runtime copies it
        return self._nanoseconds

    def _charge(self, nanoseconds: float) -> None:
        self._nanoseconds += self._runs * nanoseconds

    # --- operands

    def _value(self, node: Node) -> _Value:
        found = self._parts[node.kind](self, node)
        return _Value() if node.is_scalar else found

    def _constant(self, node: Node) -> _Value:
        self._charge(_STEP)
        size = 4 * len(node.literal or "")
        return _Value(Size(0, 1, size, size))

    def _name(self, node: Node) -> _Value:
        self._charge(_STEP)
        return self._bound[node.name] if node.name in self._bound else self._root(node.name)

    def _field(self, node: Node) -> _Value:
        operand = self._value(node.parts[0])
        self._charge(_LOOK_UP)
        if operand.choices is None:
            return operand
        self._look_at(len(operand.choices))
        name = node.name
        return _Value(choices=[found[name] for found in operand.choices if isinstance(found, dict) and name in found])

    def _element(self, operand: _Value, index: Node) -> _Value:
        self._charge(_LOOK_UP + self._size(self._value(index)).text * _COMPARED_BYTE)
        return operand if operand.choices is None else _Value(choices=self._entries(operand.choices, of_maps="values"))

    def _list(self, node: Node) -> _Value:
        sizes = [self._size(self._value(part)) for part in node.parts]
        self._charge(_STEP * (1 + len(sizes)))
        return _Value(_together(sizes, longest=len(sizes)))

    # --- macros

    def _loop(self, node: Node) -> _Value:
        over, start, condition, step, result = node.parts
        elements, count = self._range(self._value(over))
        self._value(start)
        outer_bound, outer_growing, outer_runs = self._bound, self._growing, self._runs
        self._bound = {**outer_bound, node.name: elements, node.accumulator: _Value()}
        self._growing = {**outer_growing, node.accumulator: count}
        self._runs = min(MOST_ITERATIONS, outer_runs * count)
        self._charge(_ITERATION)
        self._value(condition)
        each = self._size(self._value(step))
        self._runs = outer_runs
        made = Size(max(count, each.longest), 1 + count * each.values, count * each.bytes, each.text)
        self._bound = {**outer_bound, node.accumulator: _Value(made)}
        self._growing = outer_growing
        found = self._value(result)
        self._bound = outer_bound
        return found

    def _range(self, over: _Value) -> tuple[_Value, float]:
        """The elements that a macro goes through, and how many there are at most each time."""
        if over.choices is None:
            return over, min(MOST_ITERATIONS, over.bounds.longest)
        longest = max((len(found) for found in over.choices if isinstance(found, dict | list)), default=0)
        return _Value(choices=self._entries(over.choices, of_maps="keys")), min(MOST_ITERATIONS, longest)

    def _entries(self, choices: Iterable[Any], of_maps: str) -> list[Any]:
        entries: list[Any] = []
        for found in choices:
            if isinstance(found, list):
                entries += found
            elif isinstance(found, dict):
                entries += found.values() if of_maps == "values" else found
        self._look_at(len(entries))
        return entries

    # --- functions

    def _call(self, node: Node) -> _Value:
        name, parts = node.name, node.parts
        if name == "_[_]":
            return self._element(self._value(parts[0]), parts[1])
        if name == "_+_" and (growing := self._growing_in(parts[0])) is not None:
            self._charge(growing * _APPENDED)
            return self._value(parts[1])
        values = [self._value(part) for part in parts]
        self._charge(_STEP)
        if name in ("_&&_", "_||_", "!_", "@not_strictly_false", "type"):
            return _Value()
        if name in ("_?_:_", "dyn"):
            return _Value(_together([self._size(value) for value in values[-2:]]))
        if name == "matches":
            self._charge(self._matching(parts[-1], self._size(values[0]).text))
            return _Value()
        if name.startswith("get") and len(parts) == 2:
            self._charge(_CONVERSION if parts[1].literal is not None else _ZONE)
            return _Value()
        if any(part.is_scalar for part in parts) and name in _OPERATORS:
            return _Value()
        return self._sized(name, [self._size(value) for value in values])

    def _sized(self, name: str, sizes: list[Size]) -> _Value:
        """A function whose time depends on the sizes of its operands."""
        first, last = sizes[0], sizes[-1]
        if name == "_+_":
            self._charge((first.values + last.values) * _APPENDED + (first.bytes + last.bytes) * _COPIED_BYTE)
            return _Value(_sum(first, last))
        if name in ("_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_", "startsWith", "endsWith"):
            self._charge(_comparing(first, last))
        elif name == "@in":
            each = min(first.bytes, last.bytes) * _COMPARED_BYTE
            nested = min(first.values - 1, last.values) * _COMPARED
            self._charge(last.longest * (_SEARCHED + nested) + each * max(1, last.longest if nested else 1))
        elif name == "contains":
            self._charge(first.text * (_SEARCHED_BYTE + last.text / 16))
        elif name == "size":
            self._charge(first.text * _COUNTED_BYTE)
        else:
            self._charge(_CONVERSION + first.text * _CONVERTED.get(name, 1.0))
            return _Value(Size(0, 1, first.text + 64, first.text + 64))
        return _Value()

    def _growing_in(self, node: Node) -> float | None:
        """The length of the list, where a macro appends to the one that it makes."""
        return self._growing.get(node.name) if node.kind is Kind.NAME and not node.is_scalar else None

    def _matching(self, pattern: Node, text: float) -> float:
        assert isinstance(pattern.literal, str)
        program = self._program_size(pattern.literal)
        return _PATTERN + program * _INSTRUCTION + text * 5 * (1 if program <= _FITS_A_FAST_AUTOMATON else program)

    # --- sizes

    def _size(self, value: _Value) -> Size:
        if value.choices is None:
            return value.bounds
        self._look_at(len(value.choices))
        return _largest([self._measured(choice) for choice in value.choices])

    def _measured(self, value: Any) -> Size:
        """The size of a value of the event."""
        if isinstance(value, str | bytes):
            size = len(value) if isinstance(value, bytes) or value.isascii() else 4 * len(value)
            return Size(0, 1, size, size)
        if not isinstance(value, dict | list):
            return _SCALAR
        known = self._known.get(id(value))
        if known is None:
            known = self._known[id(value)] = self._measured_whole(value)
        return known

    def _measured_whole(self, value: Any) -> Size:
        longest = values = texts = text = 0
        rest = [value]
        while rest:  # without recursion: JSON nests deeper than Python calls
            found = rest.pop()
            values += 1
            if isinstance(found, str):
                size = len(found) if found.isascii() else 4 * len(found)
                texts += size
                text = max(text, size)
            elif isinstance(found, dict | list):
                self._look_at(len(found))
                longest = max(longest, len(found))
                rest.extend(found)
                if isinstance(found, dict):
                    rest.extend(found.values())
        return Size(longest, values, texts, text)

    def _look_at(self, values: int) -> None:
        self._looked_at += values
        if self._looked_at > _MOST_LOOKED_AT:
            raise TooMuchToLookAt

    _parts: Mapping[Kind, Callable[["_Estimate", Node], _Value]] = {
        Kind.CONSTANT: _constant,
        Kind.NAME: _name,
        Kind.FIELD: _field,
        Kind.CALL: _call,
        Kind.LIST: _list,
        Kind.MAP: _list,
        Kind.LOOP: _loop,
    }


_OPERATORS = frozenset({"_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_", "_+_", "_-_", "_*_", "_/_", "_%_", "-_"})


def _comparing(first: Size, last: Size) -> float:
    return min(first.values, last.values) * _COMPARED + min(first.bytes, last.bytes) * _COMPARED_BYTE


def _sum(first: Size, last: Size) -> Size:
    return Size(*(one + other for one, other in zip(first, last, strict=True)))


def _together(sizes: Sequence[Size], longest: float = 0) -> Size:
    """The bounds for a list of values of these sizes, and for any one of them."""
    return Size(
        max((longest, *(size.longest for size in sizes))),
        1 + sum(size.values for size in sizes),
        sum(size.bytes for size in sizes),
        max((0, *(size.text for size in sizes))),
    )


def _largest(sizes: Sequence[Size]) -> Size:
    return Size(*(max(column) for column in zip(*sizes, strict=True))) if sizes else _SCALAR
