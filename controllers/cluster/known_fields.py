"""Reads a spec that a newer version may have written. Pure.

The API server refuses the fields and values that the definition lacks. So an unknown one means that the definition is
newer than the controller, as during an upgrade or after a rollback, and the status names the field.

A field that this version does not know may restrict: who may call, what is delivered, what a pod may do. So a spec with
an unknown field or value never starts: a trigger goes on with its former spec, and a Function with its pods. The former
spec of a trigger ends, too, where the new one changes who calls, what is delivered or where it goes.

A field that restricts nothing is ignorable, and a spec runs without it. The newer definition lists these fields in an
annotation. The author of an object can list more of them in the same annotation of the object.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from controllers.cluster.conditions import Condition
from trigger_sources.problems import Place, dotted

Model = TypeVar("Model", bound=BaseModel)

IGNORABLE = "kubeirq.dev/ignorable-fields"  # an annotation: places such as spec.colour, with commas between them
UNKNOWN_FIELD, UNKNOWN_VALUE = "UnknownField", "UnknownValue"  # reasons
WAY_OUT = "this version of kubeirq does not know it, and starts no new spec; upgrade kubeirq, or take it back"
# A running trigger may go on without an edit of these: they change the pace of its events, and not who gets which
_PACE = frozenset({"answer", "bodyLimitBytes", "concurrency", "delivery", "keyHeader", "maxBacklog", "ordering"})
_TARGETS = frozenset({"function", "functionSelector", "url"})
# Problems of values that this version's own definition would have refused: with them, a newer one took the object
_NEW_VALUES = frozenset(
    {"literal_error", "extra_forbidden", "less_than", "less_than_equal", "greater_than", "greater_than_equal"}
)


def validated(model: type[Model], spec: Any) -> tuple[Model, tuple[str, ...]]:
    """The spec without its unknown fields, and their places. Raises ValidationError."""
    try:
        return model.model_validate(spec), ()
    except ValidationError as error:
        places = _unknown_places(error)
        rest = _without(spec, places)
        if rest is None:
            raise
        return model.model_validate(rest), tuple(dotted(("spec", *place)) for place in sorted(places, key=str))


def listed_in(found: Mapping[str, Any]) -> frozenset[str]:
    """The ignorable fields that the annotation of a definition or of an object lists."""
    text = (found["metadata"].get("annotations") or {}).get(IGNORABLE, "")
    return frozenset(place.strip() for place in text.split(",") if place.strip())


def not_ignorable(unknown: Sequence[str], ignorable: AbstractSet[str]) -> list[str]:
    """Those of the unknown fields that may restrict. A listed field stands for all that is within it."""
    return [place for place in unknown if ignorable.isdisjoint(_around(place))] if ignorable else list(unknown)


def unknown_field(places: Sequence[str]) -> tuple[str, str]:
    """Reason and message of a spec with these fields."""
    escape = f"if the rest may run without it, list it in the annotation {IGNORABLE} of this object"
    return UNKNOWN_FIELD, f"{', '.join(places)}: {WAY_OUT}; {escape}"


def is_from_newer(error: ValueError) -> bool:
    """Whether a newer definition explains all problems of a spec that the API server took."""
    if not isinstance(error, ValidationError):
        return False
    details = error.errors(include_url=False, include_input=False, include_context=False)
    return all(detail["type"] in _NEW_VALUES for detail in details)


def deciding_changes(model: type[BaseModel], running: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """The known fields that decide who calls, what is delivered and where it goes, and differ in these raw specs."""
    known = {info.alias or name for name, info in model.model_fields.items()} | _TARGETS
    return [f"spec.{name}" for name in sorted(known - _PACE) if running.get(name) != wanted.get(name)]


def accepted(unknown: Sequence[str]) -> Condition:
    """The condition Accepted of a spec that runs without these fields."""
    if not unknown:
        return Condition("Accepted", "True", "Accepted")
    message = f"{', '.join(unknown)}: this version of kubeirq does not know it, and runs without it; upgrade kubeirq"
    return Condition("Accepted", "True", "UnknownFields", message)


def _around(place: str) -> Iterator[str]:
    """The place and those that it is within, with [] for an index: spec.env[].secret, spec.env[], spec.env, spec."""
    general = "".join("[]" if part.isdigit() else part for part in place.replace("]", "[").split("["))
    while general:
        yield general
        general = general[:-2] if general.endswith("[]") else general.rpartition(".")[0]


def _unknown_places(error: ValidationError) -> list[Place]:
    details = error.errors(include_url=False, include_input=False, include_context=False)
    return [
        tuple(part for part in detail["loc"] if part != "function-after")
        for detail in details
        if detail["type"] == "extra_forbidden"
    ]


def _without(spec: Any, places: Sequence[Place]) -> Any:
    """A copy of the spec without these fields. None if there are none, or if one of them is not at its place."""
    rest = copy.deepcopy(spec)
    for *path, name in places:
        found = rest
        try:
            for part in path:
                found = found[part]
            del found[name]
        except (KeyError, IndexError, TypeError):
            return None
    return rest if places else None
