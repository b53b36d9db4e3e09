"""The tree of a CEL expression, as the runtime's type checker leaves it behind. Pure.

The runtime hands the tree out as a serialized `cel.expr.CheckedExpr`. The few fields that are needed are read here, by
their numbers, so that no Protocol Buffers library has to be installed for them.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any


class Kind(Enum):
    """The form of an expression."""

    CONSTANT = auto()
    NAME = auto()
    FIELD = auto()
    CALL = auto()
    LIST = auto()
    MAP = auto()
    LOOP = auto()


@dataclass(frozen=True, slots=True)
class Node:
    """One expression.

    `name` is the name, or the name of the field, the function or the variable that a loop binds. `parts` are the
    operand of a field; the target, if any, and the arguments of a call; the elements of a list; the keys and values
    of a map; the range of a loop, its accumulator's start, its condition, its step and its result.
    """

    kind: Kind
    at: int  # the character where it stands, from 1; 0 if the checker does not say
    name: str = ""
    parts: "tuple[Node, ...]" = ()
    literal: str | bytes | None = None  # of a constant that is text or bytes
    number: int | float | bool | None = None  # of a constant that is a number or a truth value
    accumulator: str = ""  # of a loop
    only_tests: bool = False  # has(operand.field)
    is_scalar: bool = False  # its type says that its size is fixed, such as a number, a truth value or a time

    def walk(self) -> "Iterator[Node]":
        """This expression and all in it."""
        rest = [self]
        while rest:
            node = rest.pop()
            yield node
            rest.extend(node.parts)


def tree_of(serialized: bytes) -> Node:
    """The tree of an expression that was compiled with its types checked."""
    checked = _message(_message(serialized)[2][0])
    scalars = {_number(entry, 1) for entry in _messages(checked, 3) if _is_scalar(_child(entry, 2))}
    positions = {_number(entry, 1): _number(entry, 2) for entry in _messages(_child(checked, 5), 4)}
    return _Reader(scalars, positions).node(_child(checked, 4))


Fields = Mapping[int, list[Any]]


class _Reader:
    def __init__(self, scalars: set[int], positions: Mapping[int, int]) -> None:
        self._scalars = scalars
        self._positions = positions

    def node(self, found: Fields) -> Node:
        number = _number(found, 2)
        at = self._positions.get(number, -1) + 1
        is_scalar = number in self._scalars
        if 4 in found:
            return Node(Kind.NAME, at, _text(_child(found, 4), 1), is_scalar=is_scalar)
        if 5 in found:
            field = _child(found, 5)
            operand = self.node(_child(field, 1))
            return Node(
                Kind.FIELD, at, _text(field, 2), (operand,), only_tests=bool(_number(field, 3)), is_scalar=is_scalar
            )
        if 6 in found:
            call = _child(found, 6)
            parts = self._nodes(call, 1) + self._nodes(call, 3)
            return Node(Kind.CALL, at, _text(call, 2), parts, is_scalar=is_scalar)
        if 7 in found:
            return Node(Kind.LIST, at, parts=self._nodes(_child(found, 7), 1))
        if 8 in found:
            entries = _messages(_child(found, 8), 2)
            parts = tuple(part for entry in entries for part in self._nodes(entry, 3) + self._nodes(entry, 4))
            return Node(Kind.MAP, at, parts=parts)
        if 9 in found:
            return self._loop(_child(found, 9), at, is_scalar)
        constant = _child(found, 3)
        literal = _text(constant, 6) if 6 in constant else bytes(constant[7][0]) if 7 in constant else None
        return Node(Kind.CONSTANT, at, literal=literal, number=_scalar(constant), is_scalar=literal is None)

    def _loop(self, loop: Fields, at: int, is_scalar: bool) -> Node:
        parts = tuple(self.node(_child(loop, number)) for number in (2, 4, 5, 6, 7))
        return Node(Kind.LOOP, at, _text(loop, 1), parts, accumulator=_text(loop, 3), is_scalar=is_scalar)

    def _nodes(self, found: Fields, number: int) -> tuple[Node, ...]:
        return tuple(self.node(child) for child in _messages(found, number))


def _scalar(constant: Fields) -> int | float | bool | None:
    if 2 in constant:
        return bool(_number(constant, 2))
    if 5 in constant:
        value: float = struct.unpack("<d", constant[5][-1])[0]
        return value
    whole = _number(constant, 3) if 3 in constant else _number(constant, 4) if 4 in constant else None
    return whole if whole is None or 4 in constant or whole < 1 << 63 else whole - (1 << 64)


def _is_scalar(found: Fields) -> bool:
    """Whether a value of this type has a fixed size: null, a number, a truth value, a time or a duration."""
    if 3 in found:
        return _number(found, 3) in (1, 2, 3, 4)
    return 2 in found or (5 in found and _number(found, 5) in (2, 3))


# --- the wire format of Protocol Buffers: field numbers with their values, in any order


def _message(data: bytes) -> Fields:
    fields: dict[int, list[Any]] = {}
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        number, wire = tag >> 3, tag & 7
        value: int | bytes
        if wire == 0:
            value, place = _varint(data, place)
        else:
            size, place = (8, place) if wire == 1 else (4, place) if wire == 5 else _varint(data, place)
            value, place = data[place : place + size], place + size
        fields.setdefault(number, []).append(value)
    return fields


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7


def _messages(found: Fields, number: int) -> list[Fields]:
    return [_message(child) for child in found.get(number, ())]


def _child(found: Fields, number: int) -> Fields:
    return _message(found[number][-1]) if number in found else {}


def _number(found: Fields, number: int) -> int:
    return int(found[number][-1]) if number in found else 0


def _text(found: Fields, number: int) -> str:
    return bytes(found[number][-1]).decode() if number in found else ""
