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


# Reasons of Ready that need nobody: they end by themselves, or with something else that is under way
_PROGRESSING = frozenset({"Starting", "RollingOut", "ReplicaBehind", "ReplicaSilent"})
# Reasons of Ready that stay until someone changes this resource or an object that it refers to
_STALLED = frozenset(
    {
        "Invalid", "UnknownField", "UnknownValue", "NameTaken", "Refused", "Contested", "Taken", "SeveralFunctions",
        "NoFunction",
        "SecretMissing", "SecretUnusable", "SecretForbidden", "SourceMissing", "FetchFailed", "DependenciesFailed",
        "ImagePullBackOff",
        "CrashLoopBackOff", "OutOfMemory", "RolloutStuck", "NotReady",
    }
)  # fmt: skip


def with_progress(conditions: Sequence[Condition]) -> list[Condition]:
    """The conditions, with Reconciling or Stalled if Ready is not True and its reason says which of the two holds.

    Tools that follow kstatus, such as Flux, wait for a resource that is reconciling, and give up one that is stalled.
    Both conditions exist only while they hold.
    """
    accepted, ready = ({found.type: found for found in conditions}.get(name) for name in ("Accepted", "Ready"))
    if ready is None or ready.status == "True":
        return list(conditions)
    if ready.reason in _PROGRESSING:
        return [*conditions, Condition("Reconciling", "True", ready.reason, ready.message)]
    if ready.reason in _STALLED or (accepted is not None and accepted.status == "False"):
        return [*conditions, Condition("Stalled", "True", ready.reason, ready.message)]
    return list(conditions)


def conditions_of(
    wanted: Iterable[Condition], before: Sequence[Mapping[str, Any]], *, generation: int, now: str
) -> list[dict[str, Any]]:
    """The conditions for the status, each with the time at which its status last changed. `now` is in RFC 3339."""
    since = {found["type"]: (found.get("status"), found.get("lastTransitionTime")) for found in before}
    conditions = []
    for condition in with_progress(list(wanted)):
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
