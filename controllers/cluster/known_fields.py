"""Reads a spec that a newer version may have written. Pure.

The API server refuses the fields and values that the definition lacks. So an unknown one means that the definition is
newer than the controller, as during an upgrade or after a rollback, and the status names the field. A spec with an
unknown field runs without it. For an unknown value there is nothing to run in its place: a trigger goes on with its
former spec. Fields that restrict callers are the exception: the trigger would serve more callers than its author wants.
So the former spec does not go on either where the new one differs in a field that decides which events are served.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from controllers.cluster.conditions import Condition
from trigger_sources.problems import Place, dotted

Model = TypeVar("Model", bound=BaseModel)

_RESTRICTING = frozenset({"auth", "cors"})
_DECIDING = ("auth", "cors", "filter", "host", "methods", "path", "suspend")  # which events are served
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
        if any(place[0] in _RESTRICTING for place in places):
            raise
        rest = _without(spec, places)
        if rest is None:
            raise
        return model.model_validate(rest), tuple(dotted(("spec", *place)) for place in sorted(places, key=str))


def is_from_newer(error: ValueError, spec: Any) -> bool:
    """Whether a newer definition explains all problems of a spec that the API server took, and the former may run on.

    A trigger that is to be suspended does not run on.
    """
    if not isinstance(error, ValidationError) or (isinstance(spec, dict) and spec.get("suspend")):
        return False
    details = error.errors(include_url=False, include_input=False, include_context=False)
    return all(detail["type"] in _NEW_VALUES and detail["loc"][0] not in _RESTRICTING for detail in details)


def deciding_changes(running: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """The fields that decide which events are served, and that differ between these raw specs."""
    return [f"spec.{name}" for name in _DECIDING if running.get(name) != wanted.get(name)]


def accepted(unknown: Sequence[str]) -> Condition:
    """The condition Accepted of a spec that runs without these fields."""
    if not unknown:
        return Condition("Accepted", "True", "Accepted")
    message = f"{', '.join(unknown)}: this version of kubeirq does not know it, and runs without it; upgrade kubeirq"
    return Condition("Accepted", "True", "UnknownFields", message)


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
