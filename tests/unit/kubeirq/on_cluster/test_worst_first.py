"""`kubeirq get` lists the worst first."""

from typing import Any

from kubeirq.on_cluster.resources import worst_first


def view(name: str, reason: str = "Ready", message: str = "") -> dict[str, Any]:
    conditions = [{"type": "Connected", "status": "True", "reason": "Connected", "message": message}]
    return {"kind": "K", "namespace": "n", "name": name, "ready": reason == "Ready", "reason": reason,
            "conditions": conditions}  # fmt: skip


def test_losses_come_before_what_is_well_and_a_suspended_trigger_is_not_the_worst() -> None:
    views = [view("well"), view("asked", "Suspended"), view("loses", message="9 messages were lost"), view("x", "Down")]
    assert [one["name"] for one in sorted(views, key=worst_first)] == ["x", "loses", "asked", "well"]
