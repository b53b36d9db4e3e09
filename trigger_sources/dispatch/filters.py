"""CEL filters over an event, with bounded cost. Pure."""

import json
from bisect import bisect_left
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from trigger_sources.delivery import Delivery
from trigger_sources.dispatch.cel_tree import Kind, Node, tree_of
from trigger_sources.dispatch.filter_cost import SMALL, TooMuchToLookAt, anything_in, cost_at_most, cost_on
from trigger_sources.dispatch.filter_error import FilterError
from trigger_sources.dispatch.filter_problems import ROOTS, compile_problem, evaluation_problem, tree_problems
from trigger_sources.dispatch.filter_streak import FilterStreak
from trigger_sources.dispatch.filter_types import TypeWatch
from trigger_sources.encoding.content import is_json
from trigger_sources.events import Event, viewed_data
from trigger_sources.patterns import TenantPattern

if TYPE_CHECKING:
    from cel_expr_python.cel import Env, Expression, Value

# An estimate is twice the time or more, so an evaluation ends within about 10 ms
MOST_NANOSECONDS = 20_000_000.0
MOST_DATA_BYTES = 4 * 1024 * 1024
MOST_DATA_VALUES = 50_000  # parsing and handing them over takes 5 to 15 ms

_FEW_BYTES = 2 * MOST_DATA_VALUES  # so many bytes of JSON cannot have more values
_SIZES: tuple[int, ...] = tuple(2**power for power in range(8, 23))


def compile_filter(
    text: str, watch: TypeWatch | None = None, streak: FilterStreak | None = None
) -> Callable[[Delivery], bool]:
    """The decision whether an event passes. Raises ValueError for a text that is no filter.

    `event` has the CloudEvent's attributes, `data` its JSON (text for text/*, bytes otherwise), `key` the key as text,
    `headers` the source's headers, each parsed only if the filter names it. The decision raises FilterError.
    `watch` sees the values of the first events, whose types nobody knows before, and `streak` those of each event that
    is kept out.
    """
    tree = _checked_tree(text)
    programs = {pattern: TenantPattern(pattern).instructions for pattern in _patterns(tree)}
    if cost_at_most(tree, SMALL, programs.__getitem__) > MOST_NANOSECONDS:
        raise ValueError(
            "it takes too long even on a small event; use fewer macros in macros, fewer concatenations, or simpler"
            " patterns"
        )
    largest = _largest_for_sure(tree, programs.__getitem__)
    evaluate = _ready(_environment().compile(text))
    names = frozenset(node.name for node in tree.walk() if node.kind is Kind.NAME)
    sees_event, sees_data, sees_key, sees_headers = (root in names for root in ROOTS)
    watches = watch is not None and watch.compares(tree)
    if streak is not None:
        streak.reads(tree)

    def passes(delivery: Delivery) -> bool:
        nonlocal watches
        event = delivery.event
        values: dict[str, Any] = {}
        size = 0
        if sees_event:
            attributes = values["event"] = event.attributes()
            for value in attributes.values():
                size += len(value)
            size += 24 * len(attributes)  # with room for their names
        if sees_key:
            values["key"] = key = None if delivery.key is None else delivery.key.decode(errors="replace")
            size += 0 if key is None else len(key)
        if sees_headers:
            values["headers"] = headers = _headers(delivery)
            size += sum(len(name) + len(value) + 2 for name, value in headers.items())
        if sees_data:
            values["data"] = _data(event)
            size += len(event.data or b"")
        if size > largest:
            _refuse_if_costly(tree, values, programs.__getitem__)
        try:
            result = _evaluated(evaluate, values)
        except RuntimeError as error:
            raise FilterError(evaluation_problem(_without_code(str(error)))) from error
        answer = result.value()
        if watches:
            assert watch is not None
            watches = watch.look(values)
        if answer is True:
            if streak is not None:
                streak.count = 0
            return True
        if answer is False:
            if streak is not None:
                streak.add(values, size)
            return False
        kind = result.type().name()
        if kind == "ERROR":
            raise FilterError(evaluation_problem(_without_code(answer)))
        raise FilterError(f"a filter answers true or false, not {kind.lower()}")

    return passes


def type_problem(text: str, data: Any) -> str:
    """Why comparisons of this filter are never true, or always, for an event with this JSON; empty if they may be."""
    watch = TypeWatch(lambda _: None)
    if watch.compares(_checked_tree(text)):
        watch.look({"data": data})
    return watch.note


# --- compiling


def _checked_tree(text: str) -> Node:
    """The expression with its types. Raises ValueError."""
    expression = _compiled(text)
    answer = expression.return_type().name()
    if answer not in ("BOOL", "DYN"):
        raise ValueError(f"a filter answers true or false, not {answer.lower()}; compare its value with something")
    tree = tree_of(expression.serialize())
    for problem in tree_problems(tree, _pattern_problem, _literal_problem):
        raise ValueError(problem)
    return tree


def _compiled(text: str) -> "Expression":
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"no CEL expression: no text in UTF-8, at character {error.start + 1}") from error
    try:
        return _checker().compile(text)
    except RuntimeError as error:
        raise ValueError(compile_problem(text, _without_code(str(error)))) from error


@cache
def _environment() -> "Env":
    """Evaluates. The values may be anything, so that null is one of them."""
    cel = _runtime()
    env: Env = cel.NewEnv(variables=dict.fromkeys(ROOTS, cel.Type.DYN))
    return env


@cache
def _checker() -> "Env":
    """Knows the types: attributes, headers and the key are text, or null."""
    cel = _runtime()
    text = cel.Type("google.protobuf.StringValue")
    texts = cel.Type.Map(cel.Type.STRING, text)
    env: Env = cel.NewEnv(variables={"event": texts, "data": cel.Type.DYN, "key": text, "headers": texts})
    return env


def _runtime() -> Any:
    try:
        from cel_expr_python import cel  # only where there is a filter: it takes 6 MB
    except ImportError as error:
        raise ValueError(
            "filters need the package cel-expr-python, which is not installed; it exists for Linux with glibc"
            " (x86-64, ARM64), macOS and Windows, and not for Alpine Linux: run the fabric on one of these, or leave"
            " out spec.filter"
        ) from error
    return cel


def _literal_problem(expression: str) -> str | None:
    """The error of an expression without names; None if it has a value."""
    result = _compiled(expression).eval(data={})
    return _without_code(result.value()) if result.type().name() == "ERROR" else None


def _patterns(tree: Node) -> set[str]:
    calls = (node for node in tree.walk() if node.kind is Kind.CALL and node.name == "matches")
    return {pattern for call in calls if isinstance(pattern := call.parts[-1].literal, str)}


def _pattern_problem(pattern: str) -> str | None:
    try:
        TenantPattern(pattern)
    except ValueError as error:
        return str(error)
    return None


def _largest_for_sure(tree: Node, program_size: Callable[[str], int]) -> int:
    """The size of events up to which no event costs too much. Larger ones are looked at one by one."""

    def costs_too_much(size: int) -> bool:
        return cost_at_most(tree, anything_in(size), program_size) > MOST_NANOSECONDS

    if not costs_too_much(_SIZES[-1]):
        return _SIZES[-1]
    too_large = bisect_left(_SIZES, True, key=costs_too_much)
    return _SIZES[too_large - 1] if too_large else 0


def _ready(expression: "Expression") -> "Callable[..., Value]":
    """Evaluates once without an event: the first evaluation of an expression plans it, which takes long."""
    with suppress(RuntimeError):
        expression.eval(data={})
    return expression.eval


# --- evaluating


def _refuse_if_costly(tree: Node, values: Mapping[str, Any], program_size: Callable[[str], int]) -> None:
    try:
        if cost_on(tree, values, program_size) <= MOST_NANOSECONDS:
            return
    except TooMuchToLookAt:
        pass
    raise FilterError(
        "the filter could take too long on an event of this size; use fewer macros in macros, or compare shorter lists"
        " and texts"
    )


def _data(event: Event) -> Any:
    data = event.data
    if data is None:
        return None
    if len(data) > MOST_DATA_BYTES:
        raise FilterError(f"data has {len(data)} bytes; a filter reads at most {MOST_DATA_BYTES}")
    if (
        len(data) > _FEW_BYTES
        and (event.datacontenttype is None or is_json(event.datacontenttype))
        and data.count(b",") + data.count(b"[") + data.count(b"{") > MOST_DATA_VALUES
    ):
        raise FilterError(f"data has more than {MOST_DATA_VALUES} values; a filter reads at most so many")
    if event.datacontenttype is None:
        with suppress(ValueError):  # a payload without a type is JSON for a filter, where it can be
            return viewed_data(replace(event, datacontenttype="application/json"))
    try:
        return viewed_data(event)
    except ValueError as error:
        raise FilterError(f"data is not JSON: {error}") from error


def _headers(delivery: Delivery) -> Mapping[str, str]:
    """The headers as text. A header that an HTTP request has several times is one, as the function gets it."""
    found: dict[str, str] = {}
    joined = delivery.request is not None
    for name, value in delivery.headers:
        text = value.decode(errors="replace")
        if joined and name in found:
            text = f"{found[name]}{'; ' if name == 'cookie' else ', '}{text}"
        found[name] = text
    return found


def _evaluated(evaluate: "Callable[..., Value]", values: Mapping[str, Any]) -> "Value":
    """Raises RuntimeError. No CEL text has halves of characters, as a JSON text that was cut has: they are replaced."""
    try:
        return evaluate(data=values)
    except RuntimeError:
        data = values.get("data")
        if not isinstance(data, dict | list | str):
            raise
        return evaluate(
            data={**values, "data": json.loads(json.dumps(data, ensure_ascii=False).encode(errors="replace"))}
        )


def _without_code(error: str) -> str:
    """The runtime's text without its status code, which stands in front, at the end, or both."""
    first, separator, rest = error.partition(": ")
    text = rest if separator and first.isupper() else error
    return text.rpartition(" [")[0] if text.endswith("]") and text.rpartition(" [")[2][:-1].isupper() else text
