"""Status conditions in the form that Kubernetes keeps them. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Condition:
    """`reason` is one CamelCase word for programs. `message` tells a person the problem and the way out."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""


def conditions_of(
    wanted: Iterable[Condition], before: Sequence[Mapping[str, Any]], *, generation: int, now: str
) -> list[dict[str, Any]]:
    """The conditions for the status, each with the time at which its status last changed. `now` is in RFC 3339."""
    since = {found["type"]: (found.get("status"), found.get("lastTransitionTime")) for found in before}
    conditions = []
    for condition in wanted:
        status, at = since.get(condition.type, (None, None))
        conditions.append(
            {
                "type": condition.type,
                "status": condition.status,
                "reason": condition.reason,
                "message": condition.message,
                "lastTransitionTime": at if status == condition.status and at else now,
                "observedGeneration": generation,
            }
        )
    return conditions
