"""The faults of a filter that show without an event, with place and way out. Pure."""

import re
from collections.abc import Callable, Iterator

from trigger_sources.dispatch.cel_tree import Kind, Node

ROOTS = ("event", "data", "key", "headers")

# CEL's own functions and macros, as named in its specification
_MACROS = ("all", "exists", "exists_one", "filter", "map")
_FUNCTIONS = frozenset(
    {
        *_MACROS,
        "has",
        *("bool", "bytes", "double", "duration", "dyn", "int", "string", "timestamp", "type", "uint"),
        *("contains", "endsWith", "matches", "size", "startsWith"),
        *("getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear", "getFullYear", "getHours"),
        *("getMilliseconds", "getMinutes", "getMonth", "getSeconds"),
    }
)
_OPERATORS = {"@in": "in", "_[_]": "[]", "_?_:_": "? :"}

_REPORTED = re.compile(r"ERROR: <input>:(-?\d+):(-?\d+): (.*)")
_UNKNOWN = re.compile(r"undeclared reference to '([^']*)'")
_UNFIT = re.compile(r"found no matching overload for '([^']*)' applied to '(.*)'")
_UNFIT_VALUES = re.compile(r"No matching overloads found ?: (\S+)\((.*)\)$")
_MISSING_KEY = re.compile(r"Key not found in map ?: (.+)$")
_OPENED_MACRO = re.compile(rf"\.\s*({'|'.join(_MACROS)})\s*\(\s*$")
_MACRO_ARGUMENT = re.compile(r"(\w+)\(\) variable name must be a simple identifier")


def compile_problem(text: str, error: str) -> str:
    """The first complaint of the runtime's compiler, in our words."""
    complaints = list(_REPORTED.finditer(error))
    if "recursion" in error:
        return (
            "it has more than 32 levels of brackets, fields or operators in each other; use fewer of them:"
            " several triggers, or a list (x in [...]) for many comparisons"
        )
    if not complaints:
        return f"no CEL expression: {error}"
    # A macro that is written as a function makes its variable unknown, too, and that is complained of first
    reported = next((found for found in complaints if _unknown_macro(found[3])), complaints[0])
    complaint = reported[3]
    at = sum(len(line) + 1 for line in text.split("\n")[: int(reported[1]) - 1]) + int(reported[2])
    if unknown := _UNKNOWN.match(complaint):
        return _unknown_name(unknown[1], text, at)
    place = f"at character {at}"
    if unfit := _UNFIT.match(complaint):
        return _unfit_types(unfit[1], unfit[2], place)
    if macro := _MACRO_ARGUMENT.match(complaint):
        return f"{_usage(macro[1])}, {place}"
    if complaint.startswith("has() argument"):
        return f"has() asks for a field, as in has(data.total), {place}"
    complaint = complaint.partition(" expecting")[0].removeprefix("Syntax error: ")
    if complaint == "mismatched input '<EOF>'":
        complaint = "it ends too early"
    return f"no CEL expression: {complaint[:100]}, {place}"


def _unknown_macro(complaint: str) -> bool:
    unknown = _UNKNOWN.match(complaint)
    return unknown is not None and unknown[1] in _MACROS


def _unknown_name(name: str, text: str, at: int) -> str:
    if text[at - 1 : at] == ".":  # the compiler takes the fields for a part of the name
        name = name.partition(".")[0]
        at = text.rfind(name, 0, at) + 1
    place = f"at character {at}"
    if text[at - 1 : at] == "(":
        if name in _MACROS:
            return f"{_usage(name)}, {place}"
        return f"no function {name!r} in a filter; known: {', '.join(sorted(_FUNCTIONS))}"
    if opened := _OPENED_MACRO.search(text[: at - 1]):
        return f"{_usage(opened[1])}, {place}"
    bound = re.search(rf"\.\s*(?:{'|'.join(_MACROS)})\s*\(\s*{re.escape(name)}\s*,", text)
    only = f" {name!r} is known only inside the brackets of its macro;" if bound else ""
    return f"no name {name!r} in a filter;{only} known: {', '.join(ROOTS)}"


def _usage(macro: str) -> str:
    return f"{macro} takes a name and an expression, as in data.lines.{macro}(line, line.price > 100)"


def _unfit_types(function: str, types: str, place: str = "") -> str:
    types = re.sub(r"wrapper\((\w+)\)", r"\1", types)
    shown = _OPERATORS.get(function) or function.strip("_")
    if shown in ("&&", "||", "!", "? :"):
        way_out = "a condition is true or false; compare its value with something"
    else:
        way_out = "convert a value first, for example by int(), double() or string()"
    return f"{shown} does not take {types}{place and ', '}{place}; {way_out}"


def evaluation_problem(error: str) -> str:
    """An error of the runtime for one event, in our words: for instance types that only the event's data show."""
    if missing := _MISSING_KEY.match(error):
        return f"the event has no {missing[1]} where the filter reads it; has() asks for a field, as in has(data.total)"
    unfit = _UNFIT_VALUES.match(error)
    return error if unfit is None else _unfit_types(unfit[1], f"({unfit[2]})")


Compiled = Callable[[str], str | None]


def tree_problems(tree: Node, pattern_problem: Compiled, literal_problem: Compiled) -> Iterator[str]:
    """Faults that the compiler leaves to the evaluation: patterns, and texts that are no number, time or time zone.

    `pattern_problem` says why a text is no regular expression, `literal_problem` why an expression has no value.
    """
    for node in tree.walk():
        if node.kind is Kind.FIELD and _is_attribute(node) and not _NAME_OF_ATTRIBUTE.fullmatch(node.name):
            yield (
                f"no event has the attribute {node.name!r}, at character {node.at};"
                " names of attributes are lower-case letters and digits"
            )
        if node.kind is not Kind.CALL or not node.parts:
            continue
        last = node.parts[-1]
        if node.name == "matches":
            yield from _pattern_problems(node, last, pattern_problem)
        elif isinstance(last.literal, str) and (checked := _checked_literal(node, last.literal)) is not None:
            problem = literal_problem(checked)
            if problem is not None:
                yield f"{node.name}({_quoted(last.literal)}), at character {last.at}: {problem}"


_NAME_OF_ATTRIBUTE = re.compile(r"[a-z0-9]+")


def _is_attribute(node: Node) -> bool:
    operand = node.parts[0]
    return operand.kind is Kind.NAME and operand.name == "event" and not node.only_tests


def _pattern_problems(node: Node, pattern: Node, pattern_problem: Compiled) -> Iterator[str]:
    if not isinstance(pattern.literal, str):
        yield (
            f"matches takes a pattern that stands in the filter, at character {node.at}:"
            " one that an event brings may take any time; use contains, startsWith or endsWith for a text of the event"
        )
    elif (problem := pattern_problem(pattern.literal)) is not None:
        yield f"matches({_quoted(pattern.literal)}), at character {pattern.at}: {problem}"


def _checked_literal(node: Node, literal: str) -> str | None:
    """An expression that shows whether the runtime can convert this text."""
    if node.name in ("timestamp", "duration", "int", "uint", "double", "bool") and len(node.parts) == 1:
        return f"{node.name}({_quoted(literal)})"
    if node.name.startswith("get") and len(node.parts) == 2:
        return f"timestamp(0).getHours({_quoted(literal)})"
    return None


def _quoted(text: str) -> str:
    """The text as a CEL literal."""
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text) + '"'
