"""What a live object lacks of the wanted one, and has too much: decides whether anything is written at all. Pure."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from controllers.cluster.quantities import same_quantity


def has(live: Any, wanted: Any) -> bool:
    """Whether everything that is wanted is there. What a server or another owner added is left out of account."""
    if isinstance(wanted, Mapping):
        return isinstance(live, Mapping) and all(
            (name in live and has(live[name], value)) or (name not in live and _is_nothing(value))
            for name, value in wanted.items()
        )
    if isinstance(wanted, str) or not isinstance(wanted, Sequence):
        return bool(live == wanted) or same_quantity(live, wanted)
    if isinstance(live, str) or not isinstance(live, Sequence):
        return False
    if _are_named(wanted):
        named = {item.get("name"): item for item in live if isinstance(item, Mapping)}
        return all(item["name"] in named and has(named[item["name"]], item) for item in wanted)
    return len(live) == len(wanted) and all(has(found, item) for found, item in zip(live, wanted, strict=True))


def has_left_over(live: Mapping[str, Any], wanted: Mapping[str, Any], manager: str) -> bool:
    """Whether the live object still has a field that `manager` once applied and wants no more: an apply removes it."""
    return _is_left_over(applied_fields(live, manager, wanted["apiVersion"]), wanted)


def applied_fields(live: Mapping[str, Any], manager: str, api_version: str) -> Mapping[str, Any]:
    """What `manager` applied, as a tree in Kubernetes' own spelling of fields (FieldsV1); empty where that is not told.

    `api_version`: of the spelling, since one object may be written in several.
    """
    for entry in live["metadata"].get("managedFields", []):
        written_by = (entry.get("manager"), entry.get("operation"), entry.get("apiVersion"))
        if written_by == (manager, "Apply", api_version) and not entry.get("subresource"):
            fields: Mapping[str, Any] = entry.get("fieldsV1", {})
            return fields
    return {}


def _is_left_over(fields: Mapping[str, Any], wanted: Any) -> bool:
    for path, inner in fields.items():
        kind, _, name = path.partition(":")
        match kind:
            case "f":
                if not isinstance(wanted, Mapping) or name not in wanted or _is_left_over(inner, wanted[name]):
                    return True
            case "k":  # the item of a list with these keys, some of which a server fills in
                keys = json.loads(name)
                items = [item for item in wanted or () if all(item.get(key, keys[key]) == keys[key] for key in keys)]
                if all(_is_left_over(inner, item) for item in items):
                    return True
            case "v":
                if json.loads(name) not in (wanted or ()):
                    return True
    return False


def _are_named(items: Sequence[Any]) -> bool:
    """Whether a name tells each from the others: two mounts of one volume have one name."""
    names = [item["name"] for item in items if isinstance(item, Mapping) and "name" in item]
    return bool(items) and len(names) == len(items) == len(set(names))


def _is_nothing(value: Any) -> bool:
    """What a server leaves out when it is asked for it."""
    return value is None or value == {} or value == []
