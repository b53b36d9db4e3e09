"""What the status says of a trigger that runs in every replica, by what the other replicas serve."""

from typing import Any, Literal

import pytest

from controllers.triggers.in_force import Listed, Peer, Verdict, is_confirmed, replicas_in, verdict
from controllers.triggers.served import Served

SILENCE = "at 10.0.0.2:9443 has not said since 2026-01-01T00:00:00Z what it serves: timed out"


def served(
    generation: int, status: Literal["True", "False", "Unknown"] = "True", reason: str = "Ready", message: str = ""
) -> dict[str, Served]:
    return {"u": Served(generation, status, reason, message)}


def peer(name: str = "b", *, is_ready: bool = True, **state: Any) -> Peer:
    return Peer(name, is_ready, **{"has_answered": True, "takes_requests": is_ready, **state})


def said(found: Verdict) -> tuple[bool, str, str, str]:
    if found.ready is None:
        return found.is_in_force, "", "", ""
    return found.is_in_force, found.ready.status, found.ready.reason, found.ready.message


NOTHING = (True, "", "", "")
DOWN = served(4, "False", "FunctionDown", "f: no replica is ready")
BEHIND = (False, "Unknown", "ReplicaBehind", "replica b serves generation 3 of the spec, and 4 is wanted")
SILENT = (False, "Unknown", "ReplicaSilent", f"replica b {SILENCE}")


@pytest.mark.parametrize(
    ("peers", "expected"),
    [
        ([], NOTHING),
        ([peer(served=served(4))], NOTHING),
        ([peer(served=served(5))], NOTHING),
        ([peer(served=served(3))], BEHIND),
        ([peer()], (False, "Unknown", "ReplicaBehind", "replica b does not serve it yet")),
        ([peer("a", served=served(4)), peer(served=served(3))], BEHIND),
        ([peer(silence=SILENCE, served=served(3))], SILENT),
        ([peer(silence=SILENCE)], SILENT),
        ([peer(silence=SILENCE, served=served(4))], NOTHING),  # it said so before, and what it runs never goes back
        (
            [peer(has_answered=False, takes_requests=False)],
            (False, "Unknown", "ReplicaSilent", "replica b has not said yet what it serves"),
        ),
        ([peer("c", silence=SILENCE), peer(served=served(3))], BEHIND),
        ([peer(served=DOWN)], (True, "False", "FunctionDown", "replica b: f: no replica is ready")),
        (
            [peer("a", served=served(4, "Unknown", "Starting", "soon")), peer(served=DOWN)],
            (True, "False", "FunctionDown", "replica b: f: no replica is ready"),
        ),
        ([peer("a", served=DOWN), peer(served=served(3))], BEHIND),
        # the cluster sends no requests to it
        ([peer(is_ready=False, served=served(3))], NOTHING),
        ([peer(is_ready=False, silence=SILENCE)], NOTHING),
        ([peer(is_ready=False, silence=SILENCE, takes_requests=True)], NOTHING),
        # it says that it takes requests before the cluster says so
        ([peer(is_ready=False, takes_requests=True, served=served(3))], BEHIND),
        (
            [peer(name) for name in "abcde"],
            (
                False, "Unknown", "ReplicaBehind",
                "replica a does not serve it yet; replica b does not serve it yet; replica c does not serve it yet;"
                " and 2 more",
            ),
        ),
        ("the replicas are not known", (False, "Unknown", "ReplicaSilent", "the replicas are not known")),
    ],
)  # fmt: skip
def test_the_worst_of_the_replicas_that_callers_can_reach_decides(
    peers: list[Peer] | str, expected: tuple[bool, str, str, str]
) -> None:
    assert said(verdict("u", 4, peers, runs_everywhere=True, is_confirmed=False)) == expected


@pytest.mark.parametrize(
    ("peers", "expected"),
    [
        ([peer(silence=SILENCE)], NOTHING),
        ([peer(silence=SILENCE, served=served(3))], NOTHING),
        ([peer(has_answered=False)], NOTHING),
        ("the replicas are not known", NOTHING),
        ([peer(served=served(3))], BEHIND),
        ([peer()], (False, "Unknown", "ReplicaBehind", "replica b does not serve it yet")),
        ([peer(served=DOWN)], (True, "False", "FunctionDown", "replica b: f: no replica is ready")),
    ],
)
def test_silence_takes_ready_back_from_no_trigger(
    peers: list[Peer] | str, expected: tuple[bool, str, str, str]
) -> None:
    assert said(verdict("u", 4, peers, runs_everywhere=True, is_confirmed=True)) == expected


@pytest.mark.parametrize(
    ("peers", "expected"),
    [
        ([peer()], NOTHING),
        ([peer(silence=SILENCE)], NOTHING),
        ("the replicas are not known", NOTHING),
        ([peer(served=DOWN)], NOTHING),
        ([peer(served=served(3))], BEHIND),  # it still runs the former spec, with which every replica ran
        ([peer(silence=SILENCE, served=served(3))], SILENT),
    ],
)
def test_a_trigger_that_one_replica_runs_waits_only_for_replicas_that_still_run_it(
    peers: list[Peer] | str, expected: tuple[bool, str, str, str]
) -> None:
    assert said(verdict("u", 4, peers, runs_everywhere=False, is_confirmed=False)) == expected


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({}, False),
        ({"observedGeneration": 4, "conditions": [("True", 4)]}, True),
        ({"observedGeneration": 3, "conditions": [("True", 3)]}, False),
        ({"observedGeneration": 4, "conditions": [("Unknown", 4)]}, False),
        ({"observedGeneration": 4, "conditions": [("True", 3)]}, False),
    ],
)
def test_a_generation_is_confirmed_by_a_status_that_says_ready_of_it(status: dict[str, Any], expected: bool) -> None:
    conditions = [
        {"type": "Ready", "status": found, "observedGeneration": generation}
        for found, generation in status.get("conditions", [])
    ]
    assert is_confirmed({**status, "conditions": conditions}, 4) is expected


def test_the_replicas_of_a_service_are_its_endpoints_but_for_those_that_end() -> None:
    def endpoint(name: str, address: str, **conditions: Any) -> dict[str, Any]:
        return {"addresses": [address], "targetRef": {"name": name}, "conditions": conditions}

    ports = [{"name": "admin", "port": 9443}]
    ready = endpoint("ready", "10.0.0.1", ready=True, serving=True, terminating=False)
    ending = endpoint("ending", "10.0.0.2", ready=False, serving=True, terminating=True)
    starting = endpoint("starting", "10.0.0.3", ready=False, serving=False, terminating=False)
    unsaid = {"addresses": ["10.0.0.4"]}
    slices: list[dict[str, Any]] = [
        {"ports": ports, "endpoints": [ready, ending, starting, unsaid]},
        {"ports": None, "endpoints": [endpoint("former", "10.0.0.5", ready=True)]},  # its pod has no such port
        {"ports": ports, "endpoints": None},
    ]
    assert list(replicas_in(slices, "admin")) == [
        Listed("ready", ("10.0.0.1", 9443), is_ready=True),
        Listed("starting", ("10.0.0.3", 9443), is_ready=False),
        Listed("10.0.0.4", ("10.0.0.4", 9443), is_ready=True),
        Listed("former", ("10.0.0.5", None), is_ready=True),
    ]
