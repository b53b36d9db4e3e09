"""Applies `podTemplate` to the generated pod template, by the rules of a strategic merge patch. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

# The merge key of each list whose items are merged; a patch replaces every other list as a whole
MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "env": "name",
    "volumes": "name",
    "imagePullSecrets": "name",
    "resourceClaims": "name",
    "schedulingGates": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
}
_DIRECTIVE = "$patch"


class BadPatch(ValueError):
    """The patch is not valid. The text has place, problem and way out."""


def merged(base: Mapping[str, Any], patch: Mapping[str, Any], place: str = "spec.podTemplate") -> dict[str, Any]:
    """Returns `base` with `patch` applied, and changes neither. Raises BadPatch, whose text begins with `place`.

    Objects merge field by field, and null removes a field. Lists with a merge key merge item by item; the patch
    replaces other lists. `$patch: delete` removes an item or an object. `$patch: replace` replaces an item or an object
    with the other fields of the patch. The item `{$patch: replace}` replaces the whole list.
    """
    directive = _directive_of(patch, place)
    if directive == "delete":
        return {}
    result: dict[str, Any] = {} if directive == "replace" else dict(base)
    for name, value in patch.items():
        if name == _DIRECTIVE:
            continue
        inside = f"{place}.{name}"
        if name.startswith("$"):
            raise BadPatch(f"{inside}: unknown directive; use {_DIRECTIVE} with merge, replace or delete")
        before = result.get(name)
        if value is None:
            result.pop(name, None)
        elif isinstance(value, Mapping):
            if _directive_of(value, inside) == "delete":
                result.pop(name, None)
            else:
                result[name] = merged(before if isinstance(before, Mapping) else {}, value, inside)
        elif name in MERGE_KEYS and isinstance(value, list):
            result[name] = _merged_list(before or [], value, MERGE_KEYS[name], inside)
        else:
            result[name] = value
    return result


def _merged_list(base: Sequence[Any], patch: Sequence[Any], key: str, place: str) -> list[Any]:
    """Existing items keep their position, new ones follow."""
    items: dict[Any, Any] = {item.get(key): item for item in base}
    for index, item in enumerate(patch):
        inside = f"{place}[{index}]"
        if not isinstance(item, Mapping):
            raise BadPatch(f"{inside}: must be an object")
        directive = _directive_of(item, inside)
        if directive == "replace" and set(item) == {_DIRECTIVE}:
            items = {}
            continue
        identity = item.get(key)
        if not isinstance(identity, str | int):
            raise BadPatch(f"{inside}: {key} is missing; it identifies the item")
        if directive == "delete":
            items.pop(identity, None)
        else:
            items[identity] = merged(items.get(identity, {}), item, inside)
    return list(items.values())


def _directive_of(patch: Mapping[str, Any], place: str) -> str:
    directive = patch.get(_DIRECTIVE, "merge")
    if directive not in ("merge", "replace", "delete"):
        raise BadPatch(f"{place}.{_DIRECTIVE}: {directive!r} is not a directive; use merge, replace or delete")
    return str(directive)
