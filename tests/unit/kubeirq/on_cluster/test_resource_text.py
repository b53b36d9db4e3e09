"""The tables of `kubeirq get` on a cluster."""

from typing import Any

from kubeirq.on_cluster.resource_text import tables


def trigger(*conditions: tuple[str, str, str, str]) -> dict[str, Any]:
    told = [
        {"type": kind, "status": status, "reason": reason, "message": message, "since": 0}
        for kind, status, reason, message in (*conditions, ("Ready", "True", "Ready", ""))
    ]
    return {
        "kind": "NATSTrigger", "namespace": "shop", "name": "t", "function": "f", "ready": True, "reason": "Ready",
        "message": "", "since": 0, "conditions": told,
    }  # fmt: skip


def message_of(view: dict[str, Any]) -> str:
    (_, ((*_, message),)), _ = tables([view], False)
    return str(message)


def test_a_ready_trigger_shows_lost_events_and_attempts_that_all_fail() -> None:
    assert message_of(trigger(("Delivering", "True", "Flowing", ""))) == "-"
    lost = ("Connected", "True", "RetentionOrDeletion", "12 messages of stream S were lost")
    fails = ("Delivering", "True", "Retrying", "f: every attempt has failed since 10:00; last: status 500")
    assert message_of(trigger(lost)) == "RetentionOrDeletion: 12 messages of stream S were lost"
    assert message_of(trigger(lost, fails)) == (
        "RetentionOrDeletion: 12 messages of stream S were lost; "
        "Retrying: f: every attempt has failed since 10:00; last: status 500"
    )
