"""Which changes of conditions are worth a Kubernetes Event."""

from typing import Any

import pytest

from controllers.cluster.events import NewEvent, event_for_failures, event_for_note, event_for_transition


def conditions(status: str | None, reason: str = "", message: str = "", kind: str = "Ready") -> list[dict[str, Any]]:
    return [] if status is None else [{"type": kind, "status": status, "reason": reason, "message": message}]


def connected(status: str | None, reason: str = "", message: str = "") -> list[dict[str, Any]]:
    return conditions(status, reason, message, "Connected")


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (conditions(None), conditions("True", "Ready"), None),
        (conditions(None), conditions("False", "Invalid", "spec.x"), NewEvent("Warning", "Invalid", "spec.x")),
        (conditions("False", "Invalid", "spec.x"), conditions("False", "Invalid", "spec.y"), None),
        (conditions("True", "Ready"), conditions("False", "Suspended", "m"), NewEvent("Normal", "Suspended", "m")),
        (conditions("False", "RollingOut"), conditions("True", "Ready"), NewEvent("Normal", "Ready", "it is ready")),
        (conditions("False", "Starting"), conditions("False", "CrashLoopBackOff"),
         NewEvent("Warning", "CrashLoopBackOff", "CrashLoopBackOff")),
        (conditions("True", "Ready"), conditions(None), None),
    ],
)  # fmt: skip
def test_becoming_ready_and_another_reason_are_told_once(before: Any, after: Any, expected: Any) -> None:
    assert event_for_transition(before, after) == expected


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (connected("True", "Connected"), connected("True", "PlaceDamaged", "m"),
         NewEvent("Warning", "PlaceDamaged", "m")),
        (connected("Unknown", "Starting"), connected("True", "Retention", "3"), NewEvent("Warning", "Retention", "3")),
        (connected(None), connected("True", "Retention"), NewEvent("Warning", "Retention", "Retention")),
        (connected("True", "Retention", "3"), connected("True", "Retention", "9"), None),
        (connected("False", "NotConnected"), connected("True", "Connected"), None),
        (connected("True", "Connected"), connected("True", "AtMostOnce", "m"), None),
        (connected("True", "Connected"), connected("False", "Unauthorized", "m"), None),
        (connected("True", "Connected"), connected(None), None),
    ],
)  # fmt: skip
def test_what_a_connected_source_has_to_say_is_told_once(before: Any, after: Any, expected: Any) -> None:
    assert event_for_note(before, after) == expected


def test_a_trigger_of_which_every_attempt_fails_is_told_once() -> None:
    flowing, failing, more = (
        conditions("True", reason, message, "Delivering")
        for reason, message in (("Flowing", ""), ("Retrying", "since 10:00"), ("Retrying", "since 10:00; last: 503"))
    )
    assert event_for_failures(flowing, failing) == NewEvent("Warning", "Retrying", "since 10:00")
    assert event_for_failures(failing, more) is None
    assert event_for_failures(failing, flowing) is None
    assert event_for_failures(flowing, conditions("False", "Parked", "m", "Delivering")) is None
