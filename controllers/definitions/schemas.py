"""Structural schemas from pydantic models, as a CustomResourceDefinition takes them. Pure.

A structural schema is a tree of typed nodes: no references, no unions. What JSON schema has no word for, that exactly
one of some fields is given for example, is a rule in CEL.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

Schema = dict[str, Any]

FREE: Schema = {"x-kubernetes-preserve-unknown-fields": True}
_FORMATS = frozenset({"date-time", "date", "uuid", "int32", "int64", "byte", "email", "ipv4", "ipv6"})
_KEPT = frozenset(
    {
        *("type", "description", "default", "enum", "nullable", "required", "pattern", "x-kubernetes-validations"),
        *("minLength", "maxLength", "minItems", "maxItems", "minimum", "maximum", "minProperties", "maxProperties"),
        *("x-kubernetes-preserve-unknown-fields", "multipleOf"),
    }
)
_DROPPED = frozenset({"title", "examples", "deprecated", "$defs"})  # what an API server has no use for


class NotStructural(Exception):
    """The model's author's fault: a type that no structural schema can say. Names the field."""


def structural(model: type[BaseModel], details: Callable[[type[BaseModel]], Mapping[str, Any]]) -> Schema:
    """The model's schema. `details` says what a class adds to its own: rules, and `properties`, which replace those of
    the model when they have a type, and complete them otherwise. Raises NotStructural.
    """

    class Generator(GenerateJsonSchema):
        def model_schema(self, schema: Any) -> Schema:
            found = super().model_schema(schema)
            extra = dict(details(schema["cls"]))
            properties = dict(found.get("properties", {}))
            for name, part in extra.pop("properties", {}).items():
                properties[name] = part if "type" in part else {**properties[name], **part}
            return {**found, **extra, "properties": properties}

        def nullable_schema(self, schema: Any) -> Schema:
            return {**self.generate_inner(schema["schema"]), "nullable": True}

        def default_schema(self, schema: Any) -> Schema:
            found = super().default_schema(schema)
            if found.get("default") in (None, "", [], {}):
                found.pop("default", None)  # to be absent is the same, and leaves the object as it was written
            return found

    written = model.model_json_schema(by_alias=True, schema_generator=Generator)
    return _node(written, written.get("$defs", {}), "spec", ())


def one_of(*names: str, absent: str = "") -> Schema:
    """The rule that exactly one of these fields is given. A null counts as absent."""
    return {"rule": f"{_count(names)} == 1", "message": f"exactly one of {', '.join(names)} is needed{absent}"}


def at_most_one_of(*names: str) -> Schema:
    return {"rule": f"{_count(names)} <= 1", "message": f"{', '.join(names)}: one of them"}


def together(*names: str) -> Schema:
    """The rule that all or none of these fields are given."""
    return {"rule": f"{_count(names)} in [0, {len(names)}]", "message": f"{' and '.join(names)} go together"}


def given(name: str) -> str:
    """In CEL: whether the field is there and no null."""
    return f"(has(self.{name}) && dyn(self.{name}) != null)"


def is_default(name: str, default: Any) -> str:
    """In CEL: whether the field is absent, or what it would be if it were."""
    if default is None:
        return f"!{given(name)}"
    if isinstance(default, BaseModel):
        parts = [
            is_default(f"{name}.{field.alias or part}", getattr(default, part))
            for part, field in type(default).model_fields.items()
        ]
        return f"(!{given(name)} || ({' && '.join(parts)}))"
    return f"(!has(self.{name}) || dyn(self.{name}) == {json.dumps(default)})"  # dyn: 30 is the same as 30.0


def _count(names: Sequence[str]) -> str:
    return " + ".join(
        f"({given(name)} ? 1 : 0)" for name in names
    )  # far cheaper than a list's filter: rules have a budget


def _node(written: Mapping[str, Any], definitions: Mapping[str, Any], place: str, above: tuple[str, ...]) -> Schema:
    if "$ref" in written:
        name = str(written["$ref"]).removeprefix("#/$defs/")
        if name in above:
            raise NotStructural(f"{place}: {name} contains itself; a resource cannot be nested without end")
        beside = {key: value for key, value in written.items() if key != "$ref"}
        return _node({**definitions[name], **beside}, definitions, place, (*above, name))
    if "allOf" in written and len(written["allOf"]) == 1:
        beside = {key: value for key, value in written.items() if key != "allOf"}
        return _node({**written["allOf"][0], **beside}, definitions, place, above)
    found: Schema = {}
    for key, value in written.items():
        if key in _KEPT:
            found[key] = value
        elif key == "format":
            if value in _FORMATS:
                found["format"] = value
        elif key == "const":
            found["enum"] = [value]
        elif key in ("exclusiveMinimum", "exclusiveMaximum"):
            found[key.removeprefix("exclusive").lower()] = value
            found[key] = True
        elif key == "properties":
            found["properties"] = {
                name: _node(part, definitions, f"{place}.{name}", above) for name, part in value.items()
            }
        elif key == "items":
            found["items"] = _node(value, definitions, f"{place}[]", above)
        elif key == "additionalProperties":
            if isinstance(value, Mapping):
                found["additionalProperties"] = _node(value, definitions, f"{place}.*", above)
            elif value:
                found |= FREE  # false is what an API server does anyway: it prunes, or refuses, what is not known
        elif key not in _DROPPED:
            raise NotStructural(
                f"{place}: {key}: a cluster's schema cannot say it; write a union as optional fields of one object, "
                "and check in the model that exactly one is given"
            )
    return found if "type" in found else {**found, **FREE}
