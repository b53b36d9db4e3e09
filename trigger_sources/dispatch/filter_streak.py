"""The events that a filter has kept out one after the other, and the values that it saw in the last one. Pure."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from trigger_sources.dispatch.cel_tree import Kind, Node
from trigger_sources.dispatch.filter_types import MISSING, shown, text_of, value_of

MOST_BYTES = 64 * 1024  # of an event whose values are kept until the next one
_MOST_PATHS = 8


class FilterStreak:
    """It ends with the first event that passes."""

    __slots__ = ("_paths", "_values", "count", "since")

    def __init__(self) -> None:
        self.count = 0
        self.since = 0.0  # seconds since the epoch
        self._values: Mapping[str, Any] = {}
        self._paths: Mapping[str, Node] = {}

    def reads(self, tree: Node) -> None:
        """Takes the paths, such as `data.total`, that the filter reads."""
        self._paths = dict(_paths(tree))

    def add(self, values: Mapping[str, Any], size: int) -> None:
        """An event was kept out."""
        if not self.count:
            self.since = time.time()
        self.count += 1
        self._values = values if size <= MOST_BYTES else {}

    def last(self) -> list[str]:
        """The values in the last event, such as `data.currency = "eur"`. Long texts are cut."""
        if not self.count or not self._values:
            return []
        found = {path: value_of(node, self._values) for path, node in list(self._paths.items())[:_MOST_PATHS]}
        return [f"{path} = {_told(value)}" for path, value in found.items()]


def _told(value: Any) -> str:
    if value is MISSING:
        return "(not there)"
    if value is None:
        return "null"
    if isinstance(value, dict | list | bytes):
        return f"({type(value).__name__} of {len(value)})"
    return shown(value)


def _paths(tree: Node) -> Iterator[tuple[str, Node]]:
    """The longest paths below the event's roots. A macro's own variables have no value outside of it."""
    text = text_of(tree)
    if text is not None and tree.kind not in (Kind.CONSTANT, Kind.LIST) and _is_of_event(tree):
        yield text, tree
        return
    for part in tree.parts:
        yield from _paths(part)


def _is_of_event(node: Node) -> bool:
    while node.kind is not Kind.NAME and node.parts:
        node = node.parts[0]
    return node.kind is Kind.NAME and node.name in ("event", "data", "key", "headers")
