"""The largest body that a function takes, as far as its spec tells. Pure."""

from collections.abc import Mapping
from typing import Any

DEFAULT_BYTES = 8 * 1024 * 1024  # of a function that sets no FUNC_BODY_LIMIT


def body_limit_of(spec: Mapping[str, Any]) -> int | None:
    """The limit of a Function with this spec, as it is written; None if the spec does not tell."""
    if spec.get("image") or (spec.get("source") or {}).get("image"):
        return None
    for variable in spec.get("env") or ():
        if variable.get("name") == "FUNC_BODY_LIMIT":
            value = variable.get("value")
            return int(value) if isinstance(value, str) and value.isdecimal() else None
    return None if spec.get("envFrom") else DEFAULT_BYTES


def body_limit_problem(asked: int, function: str, limit: int | None) -> str:
    """The problem of a gateway that lets in bodies of `asked` bytes for this function. Empty if there is none."""
    if limit is None or asked <= limit:
        return ""
    return (
        f"the Function {function!r} takes bodies of at most {limit} bytes; give it the variable FUNC_BODY_LIMIT:"
        f" env: [{{name: FUNC_BODY_LIMIT, value: '{asked}'}}]"
    )
