"""Builds validation rules in CEL for the schemas of the CustomResourceDefinitions. Pure."""

import json
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from controllers.definitions.schemas import Schema


def one_of(*names: str) -> Schema:
    """The rule that exactly one of these fields is set. A null counts as unset."""
    return {"rule": f"{_count(names)} == 1", "message": f"exactly one of {', '.join(names)} is needed"}


def at_most_one_of(*names: str) -> Schema:
    """The rule that at most one of these fields is set."""
    return {"rule": f"{_count(names)} <= 1", "message": f"set only one of {', '.join(names)}"}


def together(*names: str) -> Schema:
    """The rule that all or none of these fields are set."""
    return {"rule": f"{_count(names)} in [0, {len(names)}]", "message": f"{' and '.join(names)} go together"}


def is_set(name: str) -> str:
    """The CEL expression for a field that is set and not null."""
    return f"(has(self.{name}) && dyn(self.{name}) != null)"


def is_default(name: str, default: Any) -> str:
    """The CEL expression for a field that is unset or has its default."""
    if default is None:
        return f"!{is_set(name)}"
    if isinstance(default, BaseModel):
        parts = [
            is_default(f"{name}.{field.alias or part}", getattr(default, part))
            for part, field in type(default).model_fields.items()
        ]
        return f"(!{is_set(name)} || ({' && '.join(parts)}))"
    return f"(!has(self.{name}) || dyn(self.{name}) == {json.dumps(default)})"  # dyn, so that 30 equals 30.0


def _count(names: Sequence[str]) -> str:
    # a sum costs far less than a filter of a list, and the API server has a cost limit for rules
    return " + ".join(f"({is_set(name)} ? 1 : 0)" for name in names)


def with_rules(*found: Schema) -> Schema:
    """The part of a schema that has these rules."""
    return {"x-kubernetes-validations": list(found)}


def with_properties(**found: Schema) -> Schema:
    """The part of a schema that has these properties."""
    return {"properties": found}


def text(pattern: str, problem: str, *, max_length: int = 256, unless: str = "false") -> Schema:
    """A string that matches the pattern, unless a CEL expression holds. A rule has a message for people; the schema's
    own `pattern` would show them only the pattern. The API server needs `maxLength` to estimate the cost of the rule.
    """
    return {
        "maxLength": max_length,
        **with_rules({"rule": f"{unless} || self.matches(r'{pattern}')", "message": problem}),
    }


def text_list(pattern: str, problem: str, *, max_length: int = 256, max_items: int = 256) -> Schema:
    """A list of strings that match the pattern."""
    rule = {"rule": f"self.all(each, each.matches(r'{pattern}'))", "message": problem}
    return {"maxItems": max_items, "items": {"type": "string", "maxLength": max_length}, **with_rules(rule)}


def not_on_cluster(name: str, way_out: str) -> Schema:
    """The rule that a field is unset, because its value is a path on the author's machine."""
    return {"rule": f"!{is_set(name)}", "message": f"{name}: a cluster cannot read your files; {way_out}"}


def any_of(message: str, *alternatives: str) -> Schema:
    """The rule that at least one of these CEL expressions holds."""
    return {"rule": " || ".join(alternatives), "message": message}
