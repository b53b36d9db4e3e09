"""CEL filters over an event. Pure."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from trigger_sources.delivery import Delivery
from trigger_sources.events import Event, is_json

ROOTS = ("event", "data", "key", "headers")


class FilterError(Exception):
    """The filter could not be evaluated for this event: that is not the same as false."""


def compile_filter(text: str) -> Callable[[Delivery], bool]:
    """What decides whether an event passes. Raises ValueError for what is no filter: syntax, unknown names.

    `event` has the CloudEvent's attributes, `data` its JSON (text for text/*, bytes otherwise), `key` the key as text,
    `headers` the source's headers, each parsed only if the filter names it. The decision raises FilterError.
    """
    import cel  # only where there is a filter: it brings a whole command line along, 12 MB and half of the start

    try:
        program = cel.compile(text)
    except ValueError as error:
        raise ValueError(_syntax_problem(error)) from error
    roots = frozenset(program.variables())
    unknown = sorted(roots - set(ROOTS) - set(_BOUND_NAME.findall(text)))
    if unknown:
        raise ValueError(f"no name {unknown[0]!r} in a filter; known: {', '.join(ROOTS)}")
    functions = sorted(name for name in program.functions() if name.isidentifier() and name not in _FUNCTIONS)
    if functions:
        raise ValueError(f"no function {functions[0]!r} in a filter; known: {', '.join(sorted(_FUNCTIONS))}")

    def passes(delivery: Delivery) -> bool:
        values: dict[str, Any] = {}
        if "event" in roots:
            values["event"] = delivery.event.attributes()
        if "data" in roots:
            values["data"] = _data(delivery.event)
        if "key" in roots:
            values["key"] = None if delivery.key is None else delivery.key.decode(errors="replace")
        if "headers" in roots:
            values["headers"] = _headers(delivery.headers)
        try:
            result = program.execute(values)
        except Exception as error:
            raise FilterError(f"{type(error).__name__}: {error}") from error
        if not isinstance(result, bool):
            raise FilterError(f"a filter answers true or false, not {type(result).__name__}")
        return result

    return passes


# The name that a macro binds, which the library takes for one of ours.
_BOUND_NAME = re.compile(r"\.\s*(?:all|exists|exists_one|filter|map)\s*\(\s*([A-Za-z_]\w*)\s*,")

# CEL's own functions and macros, as named in its specification.
_FUNCTIONS = frozenset(
    {
        *("all", "exists", "exists_one", "filter", "has", "map"),
        *("bool", "bytes", "double", "duration", "dyn", "int", "string", "timestamp", "type", "uint"),
        *("contains", "endsWith", "matches", "max", "min", "size", "startsWith"),
        *("getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear", "getFullYear", "getHours"),
        *("getMilliseconds", "getMinutes", "getMonth", "getSeconds"),
    }
)


def _data(event: Event) -> Any:
    if event.data is None:
        return None
    if is_json(event.datacontenttype):
        try:
            return orjson.loads(event.data)
        except orjson.JSONDecodeError as error:
            raise FilterError(f"data is not JSON: {error}") from error
    if (event.datacontenttype or "").startswith("text/"):
        return event.data.decode(errors="replace")
    return event.data


def _headers(headers: Sequence[tuple[str, bytes]]) -> Mapping[str, str]:
    return {name: value.decode(errors="replace") for name, value in headers}


def _syntax_problem(error: ValueError) -> str:
    """The parser's first complaint, without the expected token list that no one reads."""
    text = str(error).partition("ERROR: ")[2].splitlines()
    if not text:
        return f"no CEL expression: {error}"
    place, _, problem = text[0].partition(": ")
    column = place.rpartition(":")[2]
    problem = problem.partition(" expecting")[0].removeprefix("Syntax error: ")
    if problem == "mismatched input '<EOF>'":
        problem = "it ends too early"
    return f"no CEL expression: {problem}, at character {column}"
