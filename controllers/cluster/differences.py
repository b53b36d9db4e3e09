"""Compares a live object with the desired one, to decide whether a write is needed. Pure.

Values are compared exactly. Quantities are the one exception: the server rewrites 0.5 as 500m. `_is_quantity` lists the
fields that hold one. Everywhere else `1.1` and `1.10` are two values.

Every other comparison of two states of an object is exact, too: values in caches (`informer_cache.py`), the content of
ConfigMaps and Secrets (by digest, and as the bytes that the server has), the generation, uid and labels that decide
about a reconcile, and the fields that a trigger's status has already (`controllers/triggers/status.py`).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from controllers.cluster.quantities import same_quantity

Path = tuple[str, ...]


def contains(live: Any, wanted: Any, path: Path = ()) -> bool:
    """Whether the live object has every desired field. Ignores the fields that the server or another manager added.

    `path` is the place of both values within their objects, without the indices of lists.
    """
    if isinstance(wanted, Mapping):
        return isinstance(live, Mapping) and all(
            contains(live[name], value, (*path, name)) if name in live else _is_empty(value)
            for name, value in wanted.items()
        )
    if isinstance(wanted, str) or not isinstance(wanted, Sequence):
        return _is_same(live, wanted) or (_is_quantity(path) and same_quantity(live, wanted))
    if isinstance(live, str) or not isinstance(live, Sequence):
        return False
    if _are_named(wanted):
        names = [item["name"] for item in wanted]
        live = [item for item in live if isinstance(item, Mapping) and item.get("name") in names]
    return len(live) == len(wanted) and all(
        contains(found, item, path) for found, item in zip(live, wanted, strict=True)
    )


def overridden_fields(live: Mapping[str, Any], wanted: Mapping[str, Any], manager: str) -> list[str] | None:
    """The fields whose values differ although `manager` owns them: an admission webhook changed them in a write.

    None: another field differs, too, or nobody knows the owners. A person or a controller that changes a field takes
    its ownership over; a webhook does not. The order of a list has no owner.
    """
    fields = applied_fields(live, manager, wanted["apiVersion"])
    found = list(_differing(live, wanted, fields, (), ""))
    return [place for place, _ in found] if fields and all(is_owned for _, is_owned in found) else None


def differing_fields(live: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """The places of the desired fields that the live object lacks or has otherwise."""
    return [place for place, _ in _differing(live, wanted, None, (), "")]


def _differing(
    live: Any, wanted: Any, fields: Mapping[str, Any] | None, path: Path, place: str
) -> Iterator[tuple[str, bool]]:
    """Each differing field, and whether `fields`, the owned ones of this part, have it."""
    if isinstance(wanted, Mapping) and isinstance(live, Mapping):
        for name, value in wanted.items():
            here = f"{place}.{name}" if place else name
            inner = fields if not fields else fields.get(f"f:{name}")  # a leaf owns all that is within it
            if name in live:
                yield from _differing(live[name], value, inner, (*path, name), here)
            elif not _is_empty(value):
                yield here, inner is not None
    elif (
        isinstance(live, Sequence) and not isinstance(live, str) and isinstance(wanted, Sequence) and _are_named(wanted)
    ):
        found = {item["name"]: item for item in live if isinstance(item, Mapping) and "name" in item}
        parts = [(item, _fields_of_item(fields, item), f"{place}[{item['name']}]") for item in wanted]
        for item, inner, here in parts:
            if item["name"] in found:
                yield from _differing(found[item["name"]], item, inner, path, here)
            else:
                yield here, inner is not None
        if not contains(live, wanted, path) and all(contains(found.get(i["name"]), i, path) for i in wanted):
            yield place, fields is not None  # another order
    elif not contains(live, wanted, path):
        yield place, fields is not None


def _fields_of_item(fields: Mapping[str, Any] | None, item: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The owned fields of one item of a list. A list that is owned as a whole owns all of each item."""
    if not fields:
        return fields
    for path, inner in fields.items():
        kind, _, text = path.partition(":")
        if kind == "k":
            keys = json.loads(text)
            if all(item.get(key, keys[key]) == keys[key] for key in keys):
                owned: Mapping[str, Any] = inner
                return owned
    return None


def has_stale_fields(live: Mapping[str, Any], wanted: Mapping[str, Any], manager: str) -> bool:
    """Whether the live object has a field that `manager` applied earlier and no longer wants. An apply removes it."""
    return _is_stale(applied_fields(live, manager, wanted["apiVersion"]), wanted)


def applied_fields(live: Mapping[str, Any], manager: str, api_version: str) -> Mapping[str, Any]:
    """The fields that `manager` applied, as a FieldsV1 tree. Empty if the object has no such entry in managedFields.

    `api_version` is the version of the fields: one object can be applied in several versions. Caches have the tree as
    JSON text, which takes a tenth of the memory.
    """
    for entry in live["metadata"].get("managedFields", []):
        written_by = (entry.get("manager"), entry.get("operation"), entry.get("apiVersion"))
        if written_by == (manager, "Apply", api_version) and not entry.get("subresource"):
            found = entry.get("fieldsV1", {})
            fields: Mapping[str, Any] = json.loads(found) if isinstance(found, str) else found
            return fields
    return {}


def _is_stale(fields: Mapping[str, Any], wanted: Any) -> bool:
    for path, inner in fields.items():
        kind, _, name = path.partition(":")
        match kind:
            case "f":
                if not isinstance(wanted, Mapping) or name not in wanted or _is_stale(inner, wanted[name]):
                    return True
            case "k":  # the list item with these keys; the server may have filled in some of them
                keys = json.loads(name)
                items = [item for item in wanted or () if all(item.get(key, keys[key]) == keys[key] for key in keys)]
                if all(_is_stale(inner, item) for item in items):
                    return True
            case "v":
                if json.loads(name) not in (wanted or ()):
                    return True
    return False


def _are_named(items: Sequence[Any]) -> bool:
    """Whether each item has a unique name. Two mounts of one volume, for example, have the same name."""
    names = [item["name"] for item in items if isinstance(item, Mapping) and "name" in item]
    return bool(items) and len(names) == len(items) == len(set(names))


def _is_quantity(path: Path) -> bool:
    """Whether the field at this place of a pod template or a volume claim is a Kubernetes quantity."""
    return (
        (len(path) > 2 and path[-3] == "resources" and path[-2] in ("requests", "limits"))
        or path[-2:] in (("emptyDir", "sizeLimit"), ("resourceFieldRef", "divisor"))
        or (len(path) > 1 and path[-2] == "overhead")
    )


def _is_same(live: Any, wanted: Any) -> bool:
    """JSON's equality. Python's own takes true for 1."""
    return isinstance(live, bool) == isinstance(wanted, bool) and bool(live == wanted)


def _is_empty(value: Any) -> bool:
    """Whether the server leaves the field out of its answer."""
    return value is None or value == {} or value == []
