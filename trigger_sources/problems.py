"""The problems of a manifest, in words that a person can act on. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from trigger_sources.reply import Reply, reply_fields, reply_kinds, target_of


@dataclass(frozen=True, order=True)
class Problem:
    """One problem at one place. `field` is empty if the problem concerns the whole file or document."""

    file: Path
    line: int
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.field + ': ' if self.field else ''}{self.message}"


Place = tuple[str | int, ...]


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'topics'?` if a known name is similar, else the known names."""
    names = sorted(known)
    return _did_you_mean(name, names) or (f"; known: {', '.join(names)}" if names else "")


def spec_problems(error: ValidationError, model: type[BaseModel]) -> Iterator[tuple[Place, str]]:
    """Each problem of a spec with its place below `spec`."""
    for detail in error.errors(include_url=False):
        place: Place = tuple(part for part in detail["loc"] if part != "function-after")
        yield place, _words(detail, model)


def problem_text(error: ValueError, model: type[BaseModel]) -> str:
    """Every problem of a spec with its field, one after the other."""
    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(f"{dotted(('spec', *place))}: {message}" for place, message in spec_problems(error, model))


def dotted(place: Sequence[str | int]) -> str:
    """A place in the usual notation: spec.topics[0]."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _words(detail: ErrorDetails, model: type[BaseModel]) -> str:
    kind, context, value = detail["type"], detail.get("ctx", {}), detail["input"]
    place = detail["loc"]
    if kind == "extra_forbidden":
        return f"unknown field{nearest(str(place[-1]), _fields_at(model, place[:-1]))}"
    if kind == "missing":
        return "is needed"
    if kind == "value_error":
        return str(context["error"])
    if kind == "too_short":
        least = context["min_length"]
        return "at least one is needed" if least == 1 else f"at least {least} are needed"
    if kind == "string_too_short":
        return "must not be empty"
    if kind == "literal_error":
        expected = str(context["expected"]).replace(" or ", ", ").replace("'", "").split(", ")
        return f"{_shown(value)} is not one of {', '.join(expected)}{_did_you_mean(value, expected)}"
    if kind in _WANTED:
        return f"{_shown(value)} is not {_WANTED[kind]}"
    if kind in _BOUNDS:
        bound = next(iter(context.values()))
        return f"{_shown(value)} is out of range; {_BOUNDS[kind]} {bound} is needed"
    if kind == "string_pattern_mismatch":
        return f"{_shown(value)} does not have the form {context['pattern']}"
    return f"{_shown(value)}: {detail['msg'][:1].lower()}{detail['msg'][1:]}"


_WANTED = {
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "a text; quote it",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
_BOUNDS = {
    "greater_than": "more than",
    "greater_than_equal": "at least",
    "less_than": "less than",
    "less_than_equal": "at most",
}


def _did_you_mean(value: Any, known: Sequence[str]) -> str:
    import difflib  # only where there is a problem

    found = difflib.get_close_matches(str(value), known, 1, 0.6)
    return f"; did you mean {found[0]!r}?" if found else ""


def _shown(value: Any) -> str:
    text = "null" if value is None else repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _fields_at(model: type[BaseModel], place: Sequence[str | int]) -> list[str]:
    """The names of the fields at that place, as they are written in YAML."""
    found: type[BaseModel] | None = model
    for part in place:
        if isinstance(part, int) or found is None:
            continue
        if found is Reply and part in reply_kinds():
            found = target_of(part)
            continue
        named = {field.alias or name: field for name, field in found.model_fields.items()}
        found = _model_in(named[part].annotation) if part in named else None
    if found is None:
        return []
    if found is Reply:
        return list(reply_fields())
    names = [field.alias or name for name, field in found.model_fields.items()]
    if found is model and "target" in found.model_fields:
        names += ["function", "functionSelector", "url"]
    return names


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model within Optional[Model], list[Model] and the like."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        found = _model_in(part)
        if found is not None:
            return found
    return None
