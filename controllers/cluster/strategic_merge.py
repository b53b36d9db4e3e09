"""`podTemplate` laid over the pod that is built, by Kubernetes' rules of a strategic merge patch. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

# Lists whose items have an identity, and the field that is it; every other list is replaced as a whole
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
    """The patch cannot be laid over anything: place, problem, way out."""


def merged(base: Mapping[str, Any], patch: Mapping[str, Any], place: str = "spec.podTemplate") -> dict[str, Any]:
    """`base` with `patch` laid over it; neither is changed. Raises BadPatch, which names `place`.

    Objects are merged field by field, null removes a field; lists with a merge key item by item, others are replaced.
    `$patch: delete` removes an item or an object, `$patch: replace` puts what stands beside it in the place of what
    was; `{$patch: replace}` as an item replaces the whole list.
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
            raise BadPatch(f"{inside}: not understood; the directive here is {_DIRECTIVE}: merge, replace or delete")
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
    """Items that are there keep their place, new ones follow."""
    items: dict[Any, Any] = {item.get(key): item for item in base}
    for index, item in enumerate(patch):
        inside = f"{place}[{index}]"
        if not isinstance(item, Mapping):
            raise BadPatch(f"{inside}: an object is needed")
        directive = _directive_of(item, inside)
        if directive == "replace" and set(item) == {_DIRECTIVE}:
            items = {}
            continue
        identity = item.get(key)
        if not isinstance(identity, str | int):
            raise BadPatch(f"{inside}: {key} is needed: it says which item is meant")
        if directive == "delete":
            items.pop(identity, None)
        else:
            items[identity] = merged(items.get(identity, {}), item, inside)
    return list(items.values())


def _directive_of(patch: Mapping[str, Any], place: str) -> str:
    directive = patch.get(_DIRECTIVE, "merge")
    if directive not in ("merge", "replace", "delete"):
        raise BadPatch(f"{place}.{_DIRECTIVE}: {directive!r} is none of merge, replace, delete")
    return str(directive)
