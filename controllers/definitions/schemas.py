"""Converts pydantic models into the structural schemas of CustomResourceDefinitions. Pure.

A structural schema is a tree of typed nodes without references and unions.
"""

from collections.abc import Callable, Iterator, Mapping
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
IGNORABLE = "x-ignorable"  # a mark of a field, by `json_schema_extra`: an older controller may run a spec without it
_DROPPED = frozenset({"title", "examples", "deprecated", "$defs", IGNORABLE})  # the API server does not use these


class NotStructural(Exception):
    """The model has a type that a structural schema cannot express. The text names the field."""


def structural(model: type[BaseModel], details: Callable[[type[BaseModel]], Mapping[str, Any]]) -> Schema:
    """The schema of a model. Raises NotStructural.

    `details` returns additions for a class: rules and `properties`. Such a property replaces the model's property if it
    has a type, and extends it otherwise.
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
                found.pop("default", None)  # an unset field means the same, and keeps the object as its author wrote it
            return found

    written = model.model_json_schema(by_alias=True, schema_generator=Generator)
    return _node(written, written.get("$defs", {}), "spec", ())


def ignorable_fields(model: type[BaseModel]) -> list[str]:
    """The places of the fields with the mark, such as spec.env[].note."""
    written = model.model_json_schema(by_alias=True)
    return sorted(set(_marked(written, written.get("$defs", {}), "spec")))


def _marked(written: Mapping[str, Any], definitions: Mapping[str, Any], place: str) -> Iterator[str]:
    if written.get(IGNORABLE):
        yield place
        return
    if "$ref" in written:
        yield from _marked(definitions[str(written["$ref"]).removeprefix("#/$defs/")], definitions, place)
    for part in (*written.get("anyOf", ()), *written.get("allOf", ())):
        yield from _marked(part, definitions, place)
    for name, part in written.get("properties", {}).items():
        yield from _marked(part, definitions, f"{place}.{name}")
    if isinstance(written.get("items"), Mapping):
        yield from _marked(written["items"], definitions, f"{place}[]")


def _node(written: Mapping[str, Any], definitions: Mapping[str, Any], place: str, above: tuple[str, ...]) -> Schema:
    if "$ref" in written:
        name = str(written["$ref"]).removeprefix("#/$defs/")
        if name in above:
            raise NotStructural(f"{place}: {name} contains itself; a structural schema cannot be recursive")
        siblings = {key: value for key, value in written.items() if key != "$ref"}
        return _node({**definitions[name], **siblings}, definitions, place, (*above, name))
    if "allOf" in written and len(written["allOf"]) == 1:
        siblings = {key: value for key, value in written.items() if key != "allOf"}
        return _node({**written["allOf"][0], **siblings}, definitions, place, above)
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
                found |= FREE  # false is the default: the API server prunes or refuses unknown fields
        elif key not in _DROPPED:
            raise NotStructural(
                f"{place}: {key}: a structural schema cannot express it; replace a union with optional fields of one "
                "object, and check in the model that exactly one is set"
            )
    return found if "type" in found else {**found, **FREE}
