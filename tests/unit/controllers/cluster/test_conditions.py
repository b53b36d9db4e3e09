"""The conditions as kstatus reads them: what is under way is in progress, and what needs a person has failed."""

from collections.abc import Mapping
from typing import Any

import pytest

from controllers.cluster.conditions import Condition, conditions_of
from controllers.functions.status import invalid
from controllers.triggers.conditions import rejected


def kstatus(found: Mapping[str, Any]) -> str:
    """The rules of sigs.k8s.io/cli-utils/pkg/kstatus for kinds that it does not know, in their order."""
    metadata, status = found["metadata"], found.get("status", {})
    if "deletionTimestamp" in metadata:
        return "Terminating"
    if "observedGeneration" in status and status["observedGeneration"] != metadata["generation"]:
        return "InProgress"
    conditions = {condition["type"]: condition["status"] for condition in status.get("conditions", [])}
    if conditions.get("Reconciling") == "True":
        return "InProgress"
    if conditions.get("Stalled") == "True":
        return "Failed"
    return "Current" if conditions.get("Ready", "True") == "True" else "InProgress"


def status_of(*conditions: Condition, generation: int = 1) -> Any:
    made = conditions_of(conditions, [], generation=generation, now="2026-01-01T00:00:00Z")
    return {"metadata": {"generation": 1}, "status": {"observedGeneration": generation, "conditions": made}}


def ready(status: Any, reason: str) -> Condition:
    return Condition("Ready", status, reason, "why")


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ([ready("True", "Ready")], "Current"),
        ([ready("False", "Starting")], "InProgress"),
        ([ready("False", "RollingOut")], "InProgress"),
        ([ready("False", "FunctionDown")], "InProgress"),
        ([ready("Unknown", "Starting")], "InProgress"),
        ([ready("False", "CrashLoopBackOff")], "Failed"),
        ([ready("False", "NameTaken")], "Failed"),
        ([ready("False", "SecretMissing")], "Failed"),
        (invalid("why"), "Failed"),
        (rejected("Taken", "why"), "Failed"),
        (rejected("OutOfReach", "why"), "Failed"),
    ],
)
def test_kstatus_tells_them_apart(conditions: list[Condition], expected: str) -> None:
    assert kstatus(status_of(*conditions)) == expected


def test_an_edit_that_does_not_run_yet_is_in_progress() -> None:
    found = status_of(ready("True", "Ready"))
    found["metadata"]["generation"] = 2
    assert kstatus(found) == "InProgress"


def test_a_problem_that_is_over_leaves_no_condition() -> None:
    made = status_of(ready("False", "NameTaken"))["status"]["conditions"]
    assert [condition["type"] for condition in made] == ["Ready", "Stalled"]
    after = conditions_of([ready("True", "Ready")], made, generation=1, now="2026-01-01T00:00:01Z")
    assert [condition["type"] for condition in after] == ["Ready"]


def test_an_invalid_function_is_not_accepted() -> None:
    assert [(condition.type, condition.status) for condition in invalid("why")] == [
        ("Accepted", "False"), ("Ready", "False"),
    ]  # fmt: skip
