"""Reads YAML from people that nobody vouches for, in bounded time and memory. Pure.

A few hundred bytes of YAML can stand for billions of values (an alias of aliases of aliases), contain themselves, or
exhaust the stack. Every command reads manifests here.
"""

from collections.abc import Iterator
from typing import Any

import yaml

MAX_BYTES = 16 * 1024 * 1024  # of a file
_MAX_DEPTH = 100  # an object of Kubernetes has less than 30 levels
_MAX_NODES = 100_000  # of a file
_MAX_REPEATED_NODES = 100_000  # of a document, through aliases
_MAX_NUMBER_LENGTH = 400  # the time to read a number grows faster than its length


def documents_of(text: str) -> list[yaml.Node]:
    """The documents that are not empty. Raises yaml.YAMLError."""
    if len(text) > MAX_BYTES:
        raise yaml.YAMLError(f"the file is larger than {MAX_BYTES >> 20} MiB; split it")
    documents = [node for node in yaml.compose_all(text, Loader=_BoundedLoader) if node is not None]
    for node in documents:
        _check_aliases(node)
    return [node for node in documents if not isinstance(node, yaml.ScalarNode) or node.value]


def value_of(node: yaml.Node) -> Any:
    """The value of a document of `documents_of`. Raises yaml.YAMLError."""
    try:
        return yaml.constructor.SafeConstructor().construct_document(node)
    except yaml.YAMLError:
        raise
    # with a wrong tag, as `!!bool maybe` or `!!timestamp soon`, the constructor raises any of these
    except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RecursionError) as error:
        raise yaml.MarkedYAMLError(None, None, f"a value does not fit its tag: {error}", node.start_mark) from error


class _BoundedLoader(yaml.SafeLoader):
    """Refuses what is too deep or too much while it reads."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        self._nodes += 1
        mark = self.get_mark()
        if self._depth > _MAX_DEPTH:
            raise _refused(f"the document has more than {_MAX_DEPTH} levels; make it flatter", mark)
        if self._nodes > _MAX_NODES:
            raise _refused(f"the file has more than {_MAX_NODES} values; split it", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        if node.tag in (_INT, _FLOAT) and len(node.value) > _MAX_NUMBER_LENGTH:
            raise _refused(f"a number has more than {_MAX_NUMBER_LENGTH} characters; quote it", node.start_mark)
        return node


_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"


def _check_aliases(document: yaml.Node) -> None:
    """Raises yaml.YAMLError for a node that contains itself, and for aliases that repeat too much."""
    extents: dict[int, tuple[int, int]] = {}
    size, depth = _extent_of(document, extents, set())
    if size - len(extents) > _MAX_REPEATED_NODES:
        message = f"its aliases repeat more than {_MAX_REPEATED_NODES} values; write them out, or leave them out"
        raise _refused(message, document.start_mark)
    if depth > _MAX_DEPTH:
        raise _refused(f"with its aliases, it has more than {_MAX_DEPTH} levels; make it flatter", document.start_mark)


def _extent_of(node: yaml.Node, extents: dict[int, tuple[int, int]], above: set[int]) -> tuple[int, int]:
    """The numbers of nodes and of levels in it. An alias counts as all that it stands for."""
    if id(node) in above:
        raise _refused("an alias stands for a value that contains the alias; write it out", node.start_mark)
    if id(node) not in extents:
        above.add(id(node))
        inner = [_extent_of(found, extents, above) for found in _inner_nodes(node)]
        above.discard(id(node))
        extents[id(node)] = 1 + sum(size for size, _ in inner), 1 + max((depth for _, depth in inner), default=0)
    return extents[id(node)]


def _inner_nodes(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _refused(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(None, None, problem, mark)
