"""Finds comparisons of a filter that are never true, or always, because the values have different types. Pure.

CEL finds `"5" == 5` false and says nothing. The types of an event's data are known only once events come, so the first
events are looked at.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trigger_sources.dispatch.cel_tree import Kind, Node

LOOKS = 20  # at events; more as long as a comparison has fitted none of them
_MOST_NOTES = 3
_SHOWN_CHARACTERS = 40
_OPERATORS = {"_==_": "==", "_!=_": "!=", "@in": "in"}
MISSING = object()


@dataclass
class _Comparison:
    path: str
    text: str
    is_negated: bool
    left: Node
    right: Node
    unfit: int = 0  # events in which the types differed
    fit: bool = False  # in some event they did not
    values: str = ""  # the last ones that differed

    def look(self, roots: Mapping[str, Any]) -> None:
        left = value_of(self.left, roots)
        rights = [
            value_of(part, roots) for part in (self.right.parts if self.right.kind is Kind.LIST else (self.right,))
        ]
        types = {_type(right) for right in rights}
        if _type(left) is None or None in types or not types:
            return  # a field that is missing, null, or no plain value
        if _type(left) in types:
            self.fit = True
            return
        self.unfit += 1
        kinds = " or ".join(sorted(filter(None, types)))
        self.values = f"{_type(left)} with {kinds}: {shown(left)} with {', '.join(map(shown, rights))[:100]}"

    def note(self) -> str:
        return f"{self.text} compared {self.values}"


class TypeWatch:
    """Looks at the first events. `note` says what cannot work; `tell` hears it when it appears, and after all looks."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.note = ""
        self._tell = tell
        self._comparisons: list[_Comparison] = []
        self._looks = 0

    def compares(self, tree: Node) -> bool:
        """Takes the comparisons of this filter; returns whether it has any to look at."""
        self._comparisons = list(_comparisons(tree))
        return bool(self._comparisons)

    def look(self, roots: Mapping[str, Any]) -> bool:
        """Looks at the values of one event. Returns whether to look at the next one, too."""
        self._looks += 1
        for comparison in self._comparisons:
            if not comparison.fit:
                comparison.look(roots)
        # A filter that compares a field with both types expects both
        fitting = {found.path for found in self._comparisons if found.fit}
        unfit = [found for found in self._comparisons if found.unfit and found.path not in fitting]
        before, self.note = self.note, self._text(unfit) if unfit else ""
        if self.note and (not before or self._looks == LOOKS):
            self._tell(self.note)
        return bool(unfit) or self._looks < LOOKS

    def _text(self, unfit: list[_Comparison]) -> str:
        found = "; ".join(one.note() for one in unfit[:_MOST_NOTES])
        count = f"{unfit[0].unfit} of {self._looks} events" if self._looks > 1 else "this event"
        always = "always" if unfit[0].is_negated else "never"
        return f"{found}, in {count}; that is {always} true: convert one, for example by string() or double()"


def _comparisons(tree: Node) -> Iterator[_Comparison]:
    """Those of paths such as `data.total` with constants, lists of constants, and other paths.

    A filter that asks for the type of a path, as in `type(data.total) == string`, knows what it does.
    """
    nodes = [node for node in tree.walk() if node.kind is Kind.CALL]
    asked = {text_of(node.parts[0]) for node in nodes if node.name == "type" and node.parts}
    for node in nodes:
        if node.name not in _OPERATORS or len(node.parts) != 2:
            continue
        left, right = node.parts
        if _is_constant(left) and not _is_constant(right):
            left, right = (left, right) if node.name == "@in" else (right, left)
        path, other = text_of(left), text_of(right)
        if path is None or other is None or _is_constant(left) or {path, other} & asked:
            continue
        yield _Comparison(path, f"{path} {_OPERATORS[node.name]} {other}", node.name == "_!=_", left, right)


def _is_constant(node: Node) -> bool:
    return node.kind is Kind.CONSTANT or node.kind is Kind.LIST


def text_of(node: Node) -> str | None:
    """The path or constant as a filter has it; None for anything else."""
    if node.kind is Kind.NAME:
        return node.name
    if node.kind is Kind.FIELD and not node.only_tests:
        operand = text_of(node.parts[0])
        return None if operand is None else f"{operand}.{node.name}"
    if node.kind is Kind.CALL and node.name == "_[_]":
        operand, index = (text_of(part) for part in node.parts)
        return None if operand is None or index is None else f"{operand}[{index}]"
    if node.kind is Kind.CONSTANT and _type(_constant(node)) is not None:
        return shown(_constant(node))
    if node.kind is Kind.LIST and node.parts:
        texts = [text_of(part) for part in node.parts]
        return None if None in texts else f"[{', '.join(map(str, texts))}]"
    return None


def _constant(node: Node) -> Any:
    return node.number if node.number is not None else node.literal


def value_of(node: Node, roots: Mapping[str, Any]) -> Any:
    if node.kind is Kind.NAME:
        return roots.get(node.name, MISSING)
    if node.kind is Kind.CONSTANT:
        return _constant(node)
    operand: Any = value_of(node.parts[0], roots) if node.parts else MISSING
    key: Any = (
        node.name if node.kind is Kind.FIELD else value_of(node.parts[1], roots) if len(node.parts) == 2 else None
    )
    if isinstance(operand, dict):
        return operand.get(key, MISSING) if isinstance(key, str) else MISSING
    if isinstance(operand, list) and isinstance(key, int) and not isinstance(key, bool) and 0 <= key < len(operand):
        return operand[key]
    return MISSING


def _type(value: Any) -> str | None:
    if isinstance(value, bool):
        return "a truth value"
    if isinstance(value, int | float):
        return "a number"
    return "text" if isinstance(value, str) else None


def shown(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return f"{value:g}" if isinstance(value, float) else str(value)
    text = value if len(value) <= _SHOWN_CHARACTERS else value[: _SHOWN_CHARACTERS - 1] + "…"
    # JSON may have half a character, which no status can carry
    return json.dumps(text.encode(errors="replace").decode(), ensure_ascii=False)
