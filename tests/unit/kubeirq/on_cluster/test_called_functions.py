"""The state of functions, among the lines about a trigger and in its row."""

import time
from typing import Any

from kubeirq.on_cluster.resource_text import called_lines, event_lines, tables
from kubeirq.on_cluster.resources import view_of


def function(**status: Any) -> dict[str, Any]:
    ready = {"type": "Ready", "status": "False", "reason": "PodsRefused", "message": "exceeded quota",
             "lastTransitionTime": "2026-01-01T00:00:00Z"}  # fmt: skip
    metadata = {"namespace": "n", "name": "f", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"}
    spec = {"runtime": "python3.11", "scale": {"min": 1}}
    return {"kind": "Function", "metadata": metadata, "spec": spec, "status": {"conditions": [ready], **status}}


def event(message: str, count: int, lasted: float) -> dict[str, Any]:
    now = time.time()
    return {"at": now, "first": now - lasted, "count": count, "reason": "WorkerEnded", "message": message}


def test_a_function_without_pods_is_none_of_those_that_it_wants() -> None:
    assert view_of(function())["replicas"] == 1
    assert view_of(function(replicas=3, readyReplicas=2))["replicas"] == 3
    lines = called_lines(view_of(function()), [event("exceeded quota", 1, 0)])
    assert lines[0].endswith(", 0 of 1 replicas ready")
    assert lines[1:] == ["    exceeded quota", "    0 seconds ago: WorkerEnded"], "the message is said once"


def test_an_event_that_goes_on_for_long_says_how_often_and_since_when() -> None:
    (line,) = event_lines([event("killed", 56, 1320)], "")
    assert ", 56 times since " in line and line.endswith(": WorkerEnded: killed")
    (line,) = event_lines([event("killed", 2, 3)], "")
    assert line.endswith(" ago, 2 times: WorkerEnded: killed")


def test_get_shows_why_the_function_of_a_trigger_is_down() -> None:
    trigger = {"kind": "HTTPTrigger", "namespace": "n", "name": "t", "function": "f", "ready": False, "since": 1.0,
               "reason": "FunctionDown", "message": "f: no replica is ready", "conditions": []}  # fmt: skip
    ((_, (row,)), _) = tables([trigger, view_of(function())], with_namespace=False)
    assert row[-1] == "f: PodsRefused: exceeded quota"
    ((_, (row,)), _) = tables([{**trigger, "function": "other"}, view_of(function())], with_namespace=False)
    assert row[-1] == "f: no replica is ready"
