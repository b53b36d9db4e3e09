"""The line numbers of a YAML document's fields. Pure."""

from collections.abc import Sequence

import yaml

from trigger_sources.problems import Place, dotted


class FieldLines:
    """The line of every field of a document, counted from 1."""

    def __init__(self, node: yaml.Node | None) -> None:
        self.duplicates: list[tuple[int, str]] = []  # line and field of each key that its mapping has already
        self._lines: dict[Place, int] = {}
        if node is not None:
            self._walk(node, (), set())

    def at(self, place: Sequence[str | int]) -> int:
        """The field's own line, or the line of the nearest field around it."""
        whole = tuple(place)
        while whole and whole not in self._lines:
            whole = whole[:-1]
        return self._lines.get(whole, 1)

    def below(self, place: Place) -> "FieldLines":
        """The lines of the part of the document at that place."""
        if not place:
            return self
        found = FieldLines(None)
        size = len(place)
        found._lines = {whole[size:]: line for whole, line in self._lines.items() if whole[:size] == place}
        return found

    def _walk(self, node: yaml.Node, place: Place, above: set[int]) -> None:
        self._lines.setdefault(place, node.start_mark.line + 1)
        if id(node) in above:
            return  # an alias of a node that contains it
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key, value in node.value:
                name = str(getattr(key, "value", "?"))
                if name in seen and name != "<<":
                    self.duplicates.append((key.start_mark.line + 1, dotted((*place, name))))
                seen.add(name)
                self._lines[(*place, name)] = key.start_mark.line + 1
                self._walk(value, (*place, name), above | {id(node)})
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self._walk(value, (*place, index), above | {id(node)})
