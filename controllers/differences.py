"""What a live object lacks of the wanted one: decides whether anything is written at all. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from controllers.quantities import same_quantity


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


def _are_named(items: Sequence[Any]) -> bool:
    """Whether a name tells each from the others: two mounts of one volume have one name."""
    names = [item["name"] for item in items if isinstance(item, Mapping) and "name" in item]
    return bool(items) and len(names) == len(items) == len(set(names))


def _is_nothing(value: Any) -> bool:
    """What a server leaves out when it is asked for it."""
    return value is None or value == {} or value == []
